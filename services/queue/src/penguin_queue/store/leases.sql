-- name: lease_lanes
SELECT id, kind_id, tenant_id, payload, priority, rank, state, run_at, attempts, max_attempts, lost_leases, snoozes,
       created_at, leased_until, NULL::timestamptz AS finished_at, last_error, traceparent, lease_token, rate_key,
       coalesce(lined, false) AS lined
FROM lease_lanes($1::smallint[], $2::smallint[], $3::integer[], $4::uuid[], $5::smallint[], $6::timestamptz[], $7::bigint[],
                 $8::integer[], $9::integer[], $10, $11::bigint[], $12::timestamptz[], $13::text[], $14::integer[], $15, $16);

-- name: lease_lots
-- The same for whoever takes them as columns, and needs no more of them.
SELECT tenant_id, kind_id, priority, id, payload, created_at, max_attempts, coalesce(traceparent, '') AS traceparent, attempts,
       lost_leases, snoozes, rank, run_at, rate_key, coalesce(lined, false) AS lined
FROM lease_lanes($1::smallint[], $2::smallint[], $3::integer[], $4::uuid[], $5::smallint[], $6::timestamptz[], $7::bigint[],
                 $8::integer[], $9::integer[], $10, $11::bigint[], $12::timestamptz[], $13::text[], $14::integer[], $15, $16);

-- name: rooms_left
-- Of the limited queues of a lease in the same transaction; null where another process was leasing from one.
SELECT queue, nullif(room, -1) AS room
FROM unnest(string_to_array(split_part(current_setting('app.rooms', true), ',', 1), ' ')::integer[],
            string_to_array(split_part(current_setting('app.rooms', true), ',', 2), ' ')::integer[]) AS r (queue, room);

-- name: survey_lanes
SELECT priority, kind_id, tenant_id, rank, run_at, id, resting FROM survey_lanes($1::smallint, $2, $3, $4);

-- name: in_flight
-- Leases that ran out are not looked at, nor what is left of those that ended.
SELECT tenant_id, count(*) AS count FROM jobs WHERE state = 2 AND leased_until > $1 GROUP BY 1;

-- name: weights
SELECT tenant_id, weight FROM tenant_weights;

-- name: release
-- As if it had never been leased, but for its place in the line. Marked ones end instead.
UPDATE jobs AS j SET state = 1, lease_token = NULL, leased_until = NULL, worker_id = NULL
WHERE j.id = ANY ($1::bigint[])
RETURNING j.id, j.tenant_id, j.kind_id, j.priority, j.run_at, j.rank;

-- name: extend
WITH held AS MATERIALIZED (
    SELECT j.id FROM unnest($1::bigint[], $2::bigint[]) AS r (id, token)
    JOIN jobs AS j ON j.id = r.id AND j.lease_token = r.token
    WHERE j.id = ANY ($1::bigint[])
    ORDER BY j.id
    FOR UPDATE OF j
)
UPDATE jobs AS j SET state = 2, leased_until = $3
WHERE j.id = ANY (ARRAY(SELECT id FROM held))
RETURNING j.id, j.lease_token, j.cancel_wanted;

-- name: extend_telling
-- The same, with what is told of some of them: columns as long as that of the ids, null where nothing is.
WITH held AS MATERIALIZED (
    SELECT j.id FROM unnest($1::bigint[], $2::bigint[]) AS r (id, token)
    JOIN jobs AS j ON j.id = r.id AND j.lease_token = r.token
    WHERE j.id = ANY ($1::bigint[])
    ORDER BY j.id
    FOR UPDATE OF j
)
UPDATE jobs AS j
SET state = 2, leased_until = $3,
    progress_done = coalesce(p.done, j.progress_done),
    progress_total = CASE WHEN p.done IS NULL THEN j.progress_total ELSE p.total END,
    progress_note = CASE WHEN p.done IS NULL THEN j.progress_note ELSE p.note END,
    progress_at = CASE WHEN p.done IS NULL THEN j.progress_at ELSE $4 END
FROM unnest($1::bigint[], $5::bigint[], $6::bigint[], $7::text[]) AS p (id, done, total, note)
WHERE j.id = ANY (ARRAY(SELECT id FROM held)) AND p.id = j.id
RETURNING j.id, j.lease_token, j.cancel_wanted;

-- name: complete
-- Locked in the order of their ids: two who complete the same do not lock each other out.
WITH held AS MATERIALIZED (
    SELECT j.id FROM unnest($1::bigint[], $2::bigint[]) AS r (id, token)
    JOIN jobs AS j ON j.id = r.id AND j.lease_token = r.token
    WHERE j.id = ANY ($1::bigint[])
    ORDER BY j.id
    FOR UPDATE OF j
), done AS (
    DELETE FROM jobs AS j WHERE j.id = ANY (ARRAY(SELECT id FROM held)) RETURNING j.*
), kept AS (
    INSERT INTO completed_jobs (id, lease_token, run_at, created_at, finished_at, tenant_id, kind_id, snoozes, priority,
                                rank, attempts, max_attempts, lost_leases, payload, traceparent, worker_id, last_error,
                                result)
    SELECT id, lease_token, run_at, created_at, $3, tenant_id, kind_id, snoozes, priority, rank, attempts, max_attempts,
           lost_leases, payload, traceparent, worker_id, last_error, result
    FROM done LEFT JOIN unnest($4::bigint[], $5::text[]) AS said (id, result) USING (id)
)
SELECT id, (ordering_key IS NOT NULL OR batch_id IS NOT NULL OR coalesce(awaited, false)) AS tied FROM done;

-- name: complete_one_lease
-- The common case, a third cheaper: all under one token, the ids sorted, and no results.
-- The second, read after the first, is set where a tied job has left.
SELECT complete_one_lease($1, $2, $3) AS ended, current_setting('app.tied', true) AS tied;

-- name: completed_before
-- A repeat of the word that ended the job, under the same lease.
SELECT c.id, c.lease_token
FROM completed_jobs AS c
JOIN unnest($1::bigint[], $2::bigint[]) AS r (id, token) ON c.id = r.id AND c.lease_token = r.token
WHERE c.id = ANY ($1::bigint[]) AND c.finished_at > $3;

-- name: hold
SELECT j.tenant_id, j.id, j.lease_token, j.kind_id, j.priority, j.rank, j.attempts, j.max_attempts, j.lost_leases, j.worker_id,
       j.cancel_wanted, j.ordering_key, q.backoff_base, q.backoff_cap
FROM unnest($1::bigint[], $2::bigint[]) AS r (id, token)
JOIN jobs AS j ON j.id = r.id AND j.lease_token = r.token
JOIN kinds AS k ON k.id = j.kind_id
JOIN queues AS q ON q.id = k.queue_id
WHERE j.id = ANY ($1::bigint[])
ORDER BY j.id
FOR UPDATE OF j;

-- name: retry
UPDATE jobs AS j
SET state = CASE WHEN r.run_at <= $4 THEN 1 ELSE 0 END, run_at = r.run_at, last_error = r.error, lined = NULL,
    attempts = j.attempts + 1, lease_token = NULL, leased_until = NULL, worker_id = NULL
FROM unnest($1::bigint[], $2::timestamptz[], $3::text[]) AS r (id, run_at, error)
WHERE j.id = r.id AND j.id = ANY ($1::bigint[]);

-- name: put_off
UPDATE jobs AS j
SET state = CASE WHEN r.run_at <= $4 THEN 1 ELSE 0 END, run_at = r.run_at,
    last_error = CASE r.reason WHEN '' THEN j.last_error ELSE r.reason END,
    snoozes = j.snoozes + 1, lined = NULL, lease_token = NULL, leased_until = NULL, worker_id = NULL
FROM unnest($1::bigint[], $2::timestamptz[], $3::text[]) AS r (id, run_at, reason)
WHERE j.id = r.id AND j.id = ANY ($1::bigint[]);

-- name: put_in_line
-- As if they had not been leased: their rate does not let them go yet.
UPDATE jobs AS j
SET state = CASE WHEN r.run_at <= $4 THEN 1 ELSE 0 END, run_at = r.run_at, lined = r.lined,
    lease_token = NULL, leased_until = NULL, worker_id = NULL
FROM unnest($1::bigint[], $2::timestamptz[], $3::boolean[]) AS r (id, run_at, lined)
WHERE j.id = r.id AND j.id = ANY ($1::bigint[]);

-- name: bury
-- Where their queue keeps no dead letters they go into history: without a token, as they were not done.
WITH gone AS (
    DELETE FROM jobs AS j
    USING unnest($1::bigint[], $2::text[]) AS r (id, error), kinds AS k, queues AS q
    WHERE j.id = r.id AND j.id = ANY ($1::bigint[]) AND k.id = j.kind_id AND q.id = k.queue_id
    RETURNING j.*, r.error, q.dead_letters
), discarded AS (
    INSERT INTO completed_jobs (id, run_at, created_at, finished_at, tenant_id, kind_id, snoozes, priority, rank, attempts,
                                max_attempts, lost_leases, payload, traceparent, worker_id, last_error, outcome)
    SELECT id, run_at, created_at, $3, tenant_id, kind_id, snoozes, priority, rank, attempts + 1, max_attempts, lost_leases,
           payload, traceparent, worker_id, error, 2
    FROM gone WHERE dead_letters = 2
)
INSERT INTO dead_jobs (id, lease_token, run_at, created_at, finished_at, tenant_id, kind_id, snoozes, priority, rank,
                       attempts, max_attempts, lost_leases, payload, traceparent, worker_id, last_error, rate_key,
                       ordering_key, position, batch_id)
SELECT id, lease_token, run_at, created_at, $3, tenant_id, kind_id, snoozes, priority, rank, attempts + 1, max_attempts,
       lost_leases, payload, traceparent, worker_id, error, rate_key, ordering_key, position, batch_id
FROM gone WHERE dead_letters = 1;

-- name: expired
-- And how many of them are losses: not those that ran out from $4 to $5, while the queue was away.
SELECT count(*) AS total, count(*) FILTER (WHERE coalesce(leased_until <= $4 OR leased_until > $5, true)) AS losses FROM (
    SELECT leased_until FROM jobs WHERE state = 2 AND leased_until <= $1 AND leased_until > $2 LIMIT $3) AS expired;

-- name: recover
-- The token stays: until another lease is given, the late worker's word still counts. What ran out while the queue was away is
-- neither told of nor counted, but for the first: that a lease of it ran out at all is to be known.
WITH found AS MATERIALIZED (
    SELECT l.id, coalesce(l.leased_until > $5 AND l.leased_until <= $6, false) AS excused
    FROM jobs AS l JOIN kinds AS k ON k.id = l.kind_id JOIN queues AS q ON q.id = k.queue_id
    WHERE l.id = ANY ($2::bigint[]) AND l.state = 2 AND l.leased_until <= $1
      AND (l.lost_leases < q.lost_lease_limit + $4::integer OR l.leased_until > $5 AND l.leased_until <= $6)
      AND NOT l.cancel_wanted
    FOR UPDATE OF l SKIP LOCKED
), lost AS (
    UPDATE jobs AS j
    SET state = 1, leased_until = NULL,
        lost_leases = CASE WHEN f.excused THEN greatest(j.lost_leases, 1) ELSE j.lost_leases + 1 END
    FROM found AS f
    WHERE j.id = ANY (ARRAY(SELECT id FROM found)) AND j.id = f.id
    RETURNING j.tenant_id, j.id, j.kind_id, j.priority, j.run_at, j.rank, j.attempts + j.lost_leases AS attempt, j.worker_id,
              j.ordering_key, f.excused
), noted AS (
    INSERT INTO job_attempts (job_id, finished_at, tenant_id, attempt, outcome, error, worker_id)
    SELECT id, $1, tenant_id, attempt, 2, $3, worker_id FROM lost WHERE NOT excused
)
SELECT tenant_id, id, kind_id, priority, run_at, rank, attempt, ordering_key, excused FROM lost;

-- name: bury_poison
WITH gone AS (
    DELETE FROM jobs AS j
    USING kinds AS ofk, queues AS ofq
    WHERE j.id = ANY (ARRAY(
        SELECT l.id FROM jobs AS l JOIN kinds AS k ON k.id = l.kind_id JOIN queues AS q ON q.id = k.queue_id
        WHERE l.state = 2 AND l.leased_until <= $1 AND l.leased_until > $4
          AND l.lost_leases >= q.lost_lease_limit + $5::integer AND NOT l.cancel_wanted
          AND coalesce(l.leased_until <= $6 OR l.leased_until > $7, true)
        ORDER BY l.leased_until LIMIT $2 FOR UPDATE OF l SKIP LOCKED))
      AND ofk.id = j.kind_id AND ofq.id = ofk.queue_id
    RETURNING j.*, ofq.dead_letters, j.attempts + j.lost_leases + 1 AS attempt
), noted AS (
    INSERT INTO job_attempts (job_id, finished_at, tenant_id, attempt, outcome, error, worker_id)
    SELECT id, $1, tenant_id, attempt, 2, $3, worker_id FROM gone
), discarded AS (
    INSERT INTO completed_jobs (id, run_at, created_at, finished_at, tenant_id, kind_id, snoozes, priority, rank, attempts,
                                max_attempts, lost_leases, payload, traceparent, worker_id, last_error, outcome)
    SELECT id, run_at, created_at, $1, tenant_id, kind_id, snoozes, priority, rank, attempts, max_attempts, lost_leases + 1,
           payload, traceparent, worker_id, $3, 2
    FROM gone WHERE dead_letters = 2
), kept AS (
    INSERT INTO dead_jobs (id, lease_token, run_at, created_at, finished_at, tenant_id, kind_id, snoozes, priority, rank,
                           attempts, max_attempts, lost_leases, payload, traceparent, worker_id, last_error, rate_key,
                           ordering_key, position, batch_id)
    SELECT id, lease_token, run_at, created_at, $1, tenant_id, kind_id, snoozes, priority, rank, attempts, max_attempts,
           lost_leases + 1, payload, traceparent, worker_id, $3, rate_key, ordering_key, position, batch_id
    FROM gone WHERE dead_letters = 1
)
SELECT tenant_id, id, attempt FROM gone;

-- name: next_turn
-- When the next job falls due, or the next lease runs out.
SELECT least(
    (SELECT run_at FROM jobs WHERE state = 0 AND run_at > $1 ORDER BY run_at LIMIT 1),
    (SELECT leased_until FROM jobs WHERE state = 2 AND leased_until > $1 ORDER BY leased_until LIMIT 1)
);
