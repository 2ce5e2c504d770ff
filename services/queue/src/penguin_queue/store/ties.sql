-- name: take_turns
-- Always in the order of the locks' numbers, and before any row is locked.
SELECT pg_advisory_xact_lock(turn) FROM (
    SELECT DISTINCT turn_lock(k.tenant_id, k.key) AS turn FROM unnest($1::uuid[], $2::text[]) AS k (tenant_id, key)
    ORDER BY 1) AS turns;

-- name: try_turns
-- Those that nobody has.
SELECT k.tenant_id, k.key FROM unnest($1::uuid[], $2::text[]) AS k (tenant_id, key)
WHERE pg_try_advisory_xact_lock(turn_lock(k.tenant_id, k.key));

-- name: take_keys
-- Locked in their order; who has one already stays, and is told.
INSERT INTO unique_keys (tenant_id, kind_id, key, job_id, holds, until)
SELECT $1, kind_id, key, job_id, holds, until
FROM unnest($2::integer[], $3::text[], $4::bigint[], $5::smallint[], $6::timestamptz[]) AS n (kind_id, key, job_id, holds, until)
ORDER BY kind_id, key COLLATE "C"
ON CONFLICT (tenant_id, kind_id, key) DO UPDATE SET key = excluded.key
RETURNING kind_id, key, job_id, holds, until;

-- name: give_keys
UPDATE unique_keys AS u SET job_id = n.job_id, holds = n.holds, until = n.until
FROM unnest($2::integer[], $3::text[], $4::bigint[], $5::smallint[], $6::timestamptz[]) AS n (kind_id, key, job_id, holds, until)
WHERE u.tenant_id = $1 AND u.kind_id = n.kind_id AND u.key = n.key AND u.key = ANY ($3::text[]);

-- name: lock_jobs
-- Waits for whoever is leasing or ending one of them.
SELECT id, state FROM jobs WHERE tenant_id = $1 AND id = ANY ($2::bigint[]) ORDER BY id FOR UPDATE;

-- name: over
SELECT id, 4 AS state FROM dead_jobs WHERE tenant_id = $1 AND id = ANY ($2::bigint[])
UNION ALL
SELECT id, CASE outcome WHEN 0 THEN 3 WHEN 1 THEN 5 ELSE 7 END FROM completed_jobs WHERE tenant_id = $1 AND id = ANY ($2::bigint[]);

-- name: redriving
-- Who redrives dead letters of the tenant has this alone, and who waits for dead letters among themselves: until the transaction
-- ends. Each sees what the other has done.
SELECT pg_advisory_xact_lock(hashtextextended($1::uuid::text, 1));

-- name: awaiting_dead
SELECT pg_advisory_xact_lock_shared(hashtextextended($1::uuid::text, 1));

-- name: replace
UPDATE jobs AS j
SET payload = n.payload, run_at = n.run_at, priority = n.priority, rank = n.rank, max_attempts = n.max_attempts,
    state = CASE WHEN j.state = 6 THEN 6 WHEN n.run_at <= $8 THEN 1 ELSE 0 END,
    -- A late worker's "done" was about what it was before.
    lease_token = NULL, worker_id = NULL, lined = NULL
FROM unnest($2::bigint[], $3::bytea[], $4::timestamptz[], $5::smallint[], $6::smallint[], $7::smallint[])
    AS n (id, payload, run_at, priority, rank, max_attempts)
WHERE j.tenant_id = $1 AND j.id = n.id AND j.id = ANY ($2::bigint[])
RETURNING j.id, j.state;

-- name: mark_awaited
UPDATE jobs SET awaited = true WHERE tenant_id = $1 AND id = ANY ($2::bigint[]) AND awaited IS NOT TRUE;

-- name: depend
INSERT INTO dependencies (tenant_id, awaits, job_id) SELECT $1, awaits, job_id
FROM unnest($2::bigint[], $3::bigint[]) AS d (awaits, job_id);

-- name: insert
-- In the order of their keys' locks, as those are taken by a trigger; and of one key in the order of the call.
INSERT INTO jobs (id, run_at, created_at, tenant_id, kind_id, priority, rank, max_attempts, state, payload, traceparent,
                  ordering_key, waits, run_if_failed, batch_id, awaited, rate_key)
SELECT id, run_at, $2, $1, kind_id, priority, rank, max_attempts,
       CASE WHEN waits > 0 THEN 6 WHEN run_at <= $2 THEN 1 ELSE 0 END, payload, nullif(traceparent, ''),
       nullif(ordering_key, ''), nullif(waits, 0), nullif(run_if_failed, false), $15::bigint, nullif(awaited, false),
       nullif(rate_key, '')
FROM unnest($3::bigint[], $4::integer[], $5::bytea[], $6::smallint[], $7::smallint[], $8::timestamptz[], $9::smallint[],
            $10::text[], $11::text[], $12::integer[], $13::boolean[], $14::boolean[], $16::text[])
    WITH ORDINALITY AS new (id, kind_id, payload, priority, rank, run_at, max_attempts, traceparent, ordering_key, waits,
                            run_if_failed, awaited, rate_key, n)
ORDER BY turn_lock($1, nullif(ordering_key, '')) NULLS FIRST, n
RETURNING id, state;

-- name: open_batch
INSERT INTO batches (tenant_id, callback_id, total, open) VALUES ($1, $2, $3, $4);

-- name: grow_batch
WITH grown AS (
    UPDATE batches SET total = total + $3, open = $4 WHERE tenant_id = $1 AND callback_id = $2 AND open
    RETURNING callback_id, total - completed - dead - cancelled + open::integer AS waits
)
UPDATE jobs AS j SET waits = g.waits FROM grown AS g WHERE j.tenant_id = $1 AND j.id = g.callback_id AND j.id = $2;

-- name: waits_for_batch
-- Whether one of a key waits for a batch's callback, by however many others: for those that wait for them, stand behind them, or
-- are called back by their batches. So many are looked at; true where there are more, so that it is never missed.
WITH RECURSIVE waiting (id) AS (
    SELECT $2::bigint
    UNION
    SELECT n.id FROM waiting AS w, LATERAL (
        SELECT d.job_id AS id FROM dependencies AS d WHERE d.tenant_id = $1 AND d.awaits = w.id
        UNION ALL
        (SELECT o.id FROM jobs AS j JOIN jobs AS o
             ON o.tenant_id = j.tenant_id AND o.ordering_key = j.ordering_key AND o.position > j.position
         WHERE j.tenant_id = $1 AND j.id = w.id ORDER BY o.position LIMIT 1)
        UNION ALL
        SELECT j.batch_id FROM jobs AS j WHERE j.tenant_id = $1 AND j.id = w.id AND j.batch_id IS NOT NULL
    ) AS n
)
SELECT count(*) = $4 OR coalesce(bool_or(j.ordering_key = $3), false)
FROM (SELECT id FROM waiting LIMIT $4) AS found LEFT JOIN jobs AS j ON j.tenant_id = $1 AND j.id = found.id;

-- name: batch
SELECT total, completed, dead, cancelled, open FROM batches WHERE tenant_id = $1 AND callback_id = $2;

-- name: waking
SELECT tenant_id FROM waking_after($1, $2, $3) AS tenant_id;

-- name: wakes_after
SELECT tenant_id, count, first, last FROM wakes_after($1, $2) ORDER BY tenant_id;

-- name: take_wakes
-- As many of each tenant.
SELECT w.* FROM unnest($1::uuid[]) AS t (id), LATERAL (
    SELECT id, tenant_id, job_id, ordering_key, batch_id, awaited, seen FROM wakes WHERE wakes.tenant_id = t.id AND wakes.id > $3
    ORDER BY wakes.id LIMIT $2 FOR UPDATE SKIP LOCKED) AS w;

-- name: dependents
-- A page of those who wait for each: so many that come after the last that was seen to. Some may be gone.
SELECT w.wake, d.tenant_id, d.awaits, d.job_id, j.id IS NULL AS gone, j.ordering_key, coalesce(j.run_if_failed, false) AS run_if_failed
FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::integer[]) AS w (tenant_id, id, wake, seen, most), LATERAL (
    SELECT e.tenant_id, e.awaits, e.job_id FROM dependencies AS e
    WHERE e.tenant_id = w.tenant_id AND e.awaits = w.id AND e.job_id > coalesce(w.seen, 0)
    ORDER BY e.job_id LIMIT w.most) AS d
LEFT JOIN jobs AS j ON j.id = d.job_id;

-- name: ends
-- 2: it is there again. Who is nowhere was purged, which is as if he had been cancelled.
SELECT w.id, CASE
    WHEN EXISTS (SELECT FROM jobs AS j WHERE j.id = w.id) THEN 2
    WHEN EXISTS (SELECT FROM dead_jobs AS d WHERE d.tenant_id = w.tenant_id AND d.id = w.id) THEN 4
    ELSE coalesce((SELECT CASE c.outcome WHEN 0 THEN 3 WHEN 1 THEN 5 ELSE 7 END FROM completed_jobs AS c
                   WHERE c.tenant_id = w.tenant_id AND c.id = w.id LIMIT 1), 5) END AS state
FROM unnest($1::uuid[], $2::bigint[]) AS w (tenant_id, id);

-- name: heads
-- And whoever stands behind one and is in nobody's hands: put off, while it had not been redriven yet.
SELECT h.id, b.id AS behind FROM unnest($1::uuid[], $2::text[]) AS k (tenant_id, key), LATERAL (
    SELECT j.id, j.state, j.position FROM jobs AS j WHERE j.tenant_id = k.tenant_id AND j.ordering_key = k.key
    ORDER BY j.position LIMIT 1) AS h
LEFT JOIN LATERAL (
    SELECT o.id FROM jobs AS o
    WHERE o.tenant_id = k.tenant_id AND o.ordering_key = k.key AND o.state <> 6 AND o.state < 2 AND o.position > h.position
) AS b ON true
WHERE h.state = 6;

-- name: lock_held
SELECT id FROM jobs WHERE id = ANY ($1::bigint[]) ORDER BY id FOR UPDATE;

-- name: free
WITH ended AS (
    DELETE FROM dependencies AS d USING unnest($1::uuid[], $2::bigint[], $3::bigint[]) AS e (tenant_id, awaits, job_id)
    WHERE d.tenant_id = e.tenant_id AND d.awaits = e.awaits AND d.job_id = e.job_id
    RETURNING d.job_id
), counted AS (
    SELECT job_id, count(*)::integer AS n FROM ended GROUP BY 1
)
UPDATE jobs AS j SET waits = j.waits - c.n FROM counted AS c
WHERE j.id = c.job_id AND j.id = ANY ($3::bigint[]) AND j.state = 6;

-- name: cancel_held
WITH gone AS (
    DELETE FROM jobs AS j WHERE j.id = ANY ($1::bigint[]) AND j.state = 6 RETURNING j.*
), kept AS (
    INSERT INTO completed_jobs (id, run_at, created_at, finished_at, tenant_id, kind_id, snoozes, priority, rank, attempts,
                                max_attempts, lost_leases, payload, traceparent, worker_id, last_error, outcome)
    SELECT id, run_at, created_at, $2, tenant_id, kind_id, snoozes, priority, rank, attempts, max_attempts, lost_leases,
           payload, traceparent, worker_id, $3, 1
    FROM gone
)
DELETE FROM dependencies AS d USING gone WHERE d.tenant_id = gone.tenant_id AND d.job_id = gone.id;

-- name: lock_batches
SELECT FROM batches AS b JOIN unnest($1::uuid[], $2::bigint[]) AS r (tenant_id, id)
    ON b.tenant_id = r.tenant_id AND b.callback_id = r.id
ORDER BY b.callback_id FOR UPDATE OF b;

-- name: count_ends
WITH counted AS (
    UPDATE batches AS b
    SET completed = b.completed + e.completed, dead = b.dead + e.dead, cancelled = b.cancelled + e.cancelled
    FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[]) AS e (tenant_id, id, completed, dead, cancelled)
    WHERE b.tenant_id = e.tenant_id AND b.callback_id = e.id
    RETURNING b.callback_id, b.total - b.completed - b.dead - b.cancelled + b.open::integer AS waits
)
UPDATE jobs AS j SET waits = c.waits FROM counted AS c
WHERE j.id = c.callback_id AND j.id = ANY ($2::bigint[]) AND j.state = 6;

-- name: settle
-- Those that wait for nothing any more, and are the first of their key while none of it is in hand: one that was redriven stands
-- before whoever is.
UPDATE jobs AS j SET state = CASE WHEN j.run_at <= $2 THEN 1 ELSE 0 END
WHERE j.id = ANY ($1::bigint[]) AND j.state = 6 AND coalesce(j.waits, 0) <= 0
  AND (j.ordering_key IS NULL OR NOT EXISTS (
      SELECT FROM jobs AS o
      WHERE o.tenant_id = j.tenant_id AND o.ordering_key = j.ordering_key AND o.position < j.position)
  AND NOT EXISTS (
      SELECT FROM jobs AS i
      WHERE i.tenant_id = j.tenant_id AND i.ordering_key = j.ordering_key AND i.state <> 6))
RETURNING j.tenant_id, j.id, j.kind_id, j.priority, j.run_at, j.rank;

-- name: keep_wakes
-- Those with more that wait for them: what else there was to see to is done.
UPDATE wakes AS w SET seen = k.seen, ordering_key = NULL, batch_id = NULL
FROM unnest($1::bigint[], $2::bigint[]) AS k (id, seen) WHERE w.id = k.id AND w.id = ANY ($1::bigint[]);

-- name: drop_wakes
DELETE FROM wakes WHERE id = ANY ($1::bigint[]);

-- name: wake_dependents
-- Of dead letters that are purged: they leave by another table than jobs.
INSERT INTO wakes (tenant_id, job_id, awaited)
SELECT DISTINCT tenant_id, awaits, true FROM dependencies WHERE tenant_id = $1 AND awaits = ANY ($2::bigint[]);

-- name: dead_members
-- Those that died before places were kept stand before all others.
SELECT id, batch_id, ordering_key, coalesce(position, id - (1::bigint << 62)) AS position FROM dead_jobs
WHERE tenant_id = $1 AND id = ANY ($2::bigint[]) AND (batch_id IS NOT NULL OR ordering_key IS NOT NULL)
ORDER BY id, finished_at FOR UPDATE;

-- name: uncounted
-- Those whose death the sweep has not counted yet, and now need not.
UPDATE wakes SET batch_id = NULL WHERE tenant_id = $1 AND job_id = ANY ($2::bigint[]) AND batch_id IS NOT NULL
RETURNING job_id;

-- name: behind
-- Of these keys whoever stands behind these places and is in nobody's hands.
SELECT j.id FROM unnest($2::text[], $3::bigint[]) AS k (key, place)
JOIN jobs AS j ON j.tenant_id = $1 AND j.ordering_key = k.key AND j.position > k.place
WHERE j.state <> 6 AND j.state < 2;

-- name: hold_back
-- Those that have been leased meanwhile stay. Of the others the lease that ran out is over: its late worker could have it again, and
-- fail or extend it, beside whoever goes before.
UPDATE jobs SET state = 6, lease_token = NULL, leased_until = NULL, worker_id = NULL
WHERE id = ANY ($1::bigint[]) AND state < 2;

-- name: give_way
-- Those of these before which another of their key stands: it was redriven while they were in hand, and has waited for that alone.
WITH held AS (
    UPDATE jobs AS j SET state = 6, lease_token = NULL, leased_until = NULL, worker_id = NULL
    WHERE j.id = ANY ($1::bigint[]) AND j.state < 2 AND EXISTS (
        SELECT FROM jobs AS o
        WHERE o.tenant_id = j.tenant_id AND o.ordering_key = j.ordering_key AND o.position < j.position)
    RETURNING j.tenant_id, j.id, j.ordering_key
)
INSERT INTO wakes (tenant_id, job_id, ordering_key) SELECT tenant_id, id, ordering_key FROM held;

-- name: wake_keys
INSERT INTO wakes (tenant_id, job_id, ordering_key) SELECT tenant_id, id, key
FROM unnest($1::uuid[], $2::bigint[], $3::text[]) AS w (tenant_id, id, key);
