-- name: block
SELECT nextval('job_id_blocks');

-- name: insert
-- With a lease where a waiting worker is given them at once.
INSERT INTO jobs (id, run_at, created_at, tenant_id, kind_id, priority, rank, max_attempts, state, payload, traceparent,
                  lease_token, leased_until, worker_id, rate_key)
SELECT id, run_at, $2, $1, kind_id, priority, rank, max_attempts,
       CASE WHEN $12::bigint IS NOT NULL THEN 2 WHEN run_at <= $2 THEN 1 ELSE 0 END, payload, nullif(traceparent, ''),
       $12::bigint, $13::timestamptz, $14::text, nullif(rate_key, '')
FROM unnest($3::bigint[], $4::integer[], $5::bytea[], $6::smallint[], $7::smallint[], $8::timestamptz[], $9::smallint[],
            $10::text[], $11::text[])
    AS new (id, kind_id, payload, priority, rank, run_at, max_attempts, traceparent, rate_key);

-- name: enqueue_batch
SELECT fresh, handed, rated, tries, digest, reply, compensated FROM hot_enqueue(
    $1, $2, $3, $4, $5, $6, $7, $8, $9::smallint, $10::smallint, $11::smallint, $12::text[], $13::bytea[], $14, $15, $16,
    $17);

-- name: terms
-- What a kind's queue says of its jobs, and whether they may be leased as they are stored.
SELECT k.id, q.priority, q.max_attempts, unhindered($1, k.id) AS unhindered
FROM kinds AS k JOIN queues AS q ON q.id = k.queue_id WHERE k.id = ANY ($2::integer[]);

-- name: withdraw
-- What an enqueue is undone by: jobs that nobody works on.
DELETE FROM jobs WHERE tenant_id = $1 AND id = ANY ($2::bigint[]) AND state <> 2;

-- name: get
SELECT tenant_id, id, kind_id, priority, rank, state, run_at, attempts, max_attempts, lost_leases, snoozes,
       created_at, leased_until, NULL::timestamptz AS finished_at, last_error, traceparent, lease_token, cancel_wanted,
       progress_done, progress_total, progress_note, progress_at, NULL::text AS result, ordering_key, waits, batch_id,
       rate_key
FROM jobs WHERE tenant_id = $1 AND id = $2
UNION ALL
SELECT tenant_id, id, kind_id, priority, rank, 4, run_at, attempts, max_attempts, lost_leases, snoozes,
       created_at, NULL, finished_at, last_error, traceparent, lease_token, false,
       NULL, NULL, NULL, NULL, NULL, ordering_key, NULL, batch_id, rate_key
FROM dead_jobs WHERE tenant_id = $1 AND id = $2
UNION ALL
SELECT tenant_id, id, kind_id, priority, rank, CASE outcome WHEN 0 THEN 3 WHEN 1 THEN 5 ELSE 7 END, run_at, attempts,
       max_attempts, lost_leases, snoozes, created_at, NULL, finished_at, last_error, traceparent, lease_token, false,
       NULL, NULL, NULL, NULL, result, NULL, NULL, NULL, NULL
FROM completed_jobs WHERE tenant_id = $1 AND id = $2
ORDER BY finished_at DESC NULLS FIRST
LIMIT 1;

-- name: list_page
-- About newest first: ids are given out in blocks. Each arm stops at the page's size. Leased ones are found among all leases,
-- which are no more than workers have in hand: an index by tenants that has them too would make every lease dearer.
(SELECT tenant_id, id, kind_id, priority, rank, state, run_at, attempts, max_attempts, lost_leases, snoozes,
        created_at, leased_until, NULL::timestamptz AS finished_at, last_error, traceparent, lease_token, cancel_wanted,
        progress_done, progress_total, progress_note, progress_at, NULL::text AS result
 FROM jobs
 WHERE tenant_id = $1 AND id < $2 AND state = ANY ($3::smallint[]) AND state <> 2 AND ($4::integer IS NULL OR kind_id = $4)
 ORDER BY id DESC LIMIT $5)
UNION ALL
(SELECT tenant_id, id, kind_id, priority, rank, state, run_at, attempts, max_attempts, lost_leases, snoozes,
        created_at, leased_until, NULL, last_error, traceparent, lease_token, cancel_wanted,
        progress_done, progress_total, progress_note, progress_at, NULL
 FROM jobs
 WHERE tenant_id = $1 AND id < $2 AND 2 = ANY ($3::smallint[]) AND state = 2 AND ($4::integer IS NULL OR kind_id = $4)
 ORDER BY id DESC LIMIT $5)
UNION ALL
(SELECT tenant_id, id, kind_id, priority, rank, 4, run_at, attempts, max_attempts, lost_leases, snoozes,
        created_at, NULL, finished_at, last_error, traceparent, lease_token, false,
        NULL, NULL, NULL, NULL, NULL
 FROM dead_jobs
 WHERE tenant_id = $1 AND id < $2 AND 4 = ANY ($3::smallint[]) AND ($4::integer IS NULL OR kind_id = $4)
 ORDER BY id DESC LIMIT $5)
UNION ALL
(SELECT tenant_id, id, kind_id, priority, rank, CASE outcome WHEN 0 THEN 3 WHEN 1 THEN 5 ELSE 7 END, run_at, attempts,
        max_attempts, lost_leases, snoozes, created_at, NULL, finished_at, last_error, traceparent, lease_token, false,
        NULL, NULL, NULL, NULL, result
 FROM completed_jobs
 WHERE tenant_id = $1 AND id < $2 AND CASE outcome WHEN 0 THEN 3 WHEN 1 THEN 5 ELSE 7 END = ANY ($3::smallint[])
   AND ($4::integer IS NULL OR kind_id = $4)
 ORDER BY id DESC LIMIT $5)
ORDER BY id DESC
LIMIT $5;

-- name: payloads
-- As many as there is room for, and always the first; of the others it is told that they are there.
SELECT id, CASE WHEN before < $3 THEN payload END AS payload
FROM (
    SELECT id, payload, sum(octet_length(payload)) OVER (ORDER BY id) - octet_length(payload) AS before
    FROM (
        SELECT id, payload FROM jobs WHERE tenant_id = $1 AND id = ANY ($2::bigint[])
        UNION ALL
        SELECT id, payload FROM dead_jobs WHERE tenant_id = $1 AND id = ANY ($2::bigint[])
        UNION ALL
        SELECT id, payload FROM completed_jobs WHERE tenant_id = $1 AND id = ANY ($2::bigint[])
    ) AS wherever
) AS measured
ORDER BY id;

-- name: counts
SELECT state, priority, count(*) AS count FROM jobs WHERE tenant_id = $1 AND state <> 2 GROUP BY 1, 2
UNION ALL
SELECT state, priority, count(*) FROM jobs WHERE tenant_id = $1 AND state = 2 GROUP BY 1, 2
ORDER BY 1, 2;

-- name: counts_over
SELECT 4 AS state, priority, count(*) AS count FROM dead_jobs WHERE tenant_id = $1 GROUP BY 2
UNION ALL
SELECT CASE outcome WHEN 0 THEN 3 WHEN 1 THEN 5 ELSE 7 END, priority, count(*) FROM completed_jobs WHERE tenant_id = $1 GROUP BY 1, 2
ORDER BY 1, 2;

-- name: oldest_due_at
SELECT min(run_at) FROM jobs WHERE tenant_id = $1 AND state < 2 AND run_at <= $2;
