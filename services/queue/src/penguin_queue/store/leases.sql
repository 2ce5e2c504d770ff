-- name: lease_ready
SELECT id, kind_id, tenant_id, payload, priority, rank, state, run_at, attempts, max_attempts, lost_leases, snoozes,
       created_at, leased_until, NULL::timestamptz AS finished_at, last_error, traceparent, lease_token
FROM lease_ready($1, $2, $3::integer[], $4, $5, $6);

-- name: lease_refs
-- Hints from the buffer: a row that is not ready, or is in another's hands, is passed over.
UPDATE jobs AS j
SET state = 2, lease_token = $2, leased_until = $3, worker_id = $4
WHERE j.id = ANY (ARRAY(
    SELECT r.id FROM jobs AS r WHERE r.id = ANY ($1::bigint[]) AND r.state = 1 AND unhindered(r.tenant_id, r.kind_id)
    ORDER BY r.id FOR UPDATE SKIP LOCKED))
RETURNING id, kind_id, tenant_id, payload, priority, rank, state, run_at, attempts, max_attempts, lost_leases, snoozes,
          created_at, leased_until, NULL::timestamptz AS finished_at, last_error, traceparent, lease_token;

-- name: release
-- As if it had never been leased, but for its place in the line. Marked ones end instead.
UPDATE jobs AS j SET state = 1, lease_token = NULL, leased_until = NULL, worker_id = NULL
WHERE j.id = ANY ($1::bigint[])
RETURNING j.id, j.tenant_id, j.kind_id, j.priority, j.run_at;

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
                                rank, attempts, max_attempts, lost_leases, payload, traceparent, worker_id, last_error)
    SELECT id, lease_token, run_at, created_at, $3, tenant_id, kind_id, snoozes, priority, rank, attempts, max_attempts,
           lost_leases, payload, traceparent, worker_id, last_error
    FROM done
)
SELECT id, (ordering_key IS NOT NULL OR batch_id IS NOT NULL OR coalesce(awaited, false)) AS tied FROM done;

-- name: complete_one_lease
-- The common case, a third cheaper: all under one token, the ids sorted.
-- The second, read after the first, is set where a tied job has left.
SELECT complete_one_lease($1, $2, $3) AS ended, current_setting('app.tied', true) AS tied;

-- name: completed_before
-- A repeat of the word that ended the job, under the same lease.
SELECT c.id, c.lease_token
FROM completed_jobs AS c
JOIN unnest($1::bigint[], $2::bigint[]) AS r (id, token) ON c.id = r.id AND c.lease_token = r.token
WHERE c.id = ANY ($1::bigint[]) AND c.finished_at > $3;

-- name: hold
SELECT j.tenant_id, j.id, j.lease_token, j.kind_id, j.priority, j.attempts, j.max_attempts, j.cancel_wanted,
       q.backoff_base, q.backoff_cap
FROM unnest($1::bigint[], $2::bigint[]) AS r (id, token)
JOIN jobs AS j ON j.id = r.id AND j.lease_token = r.token
JOIN kinds AS k ON k.id = j.kind_id
JOIN queues AS q ON q.id = k.queue_id
WHERE j.id = ANY ($1::bigint[])
ORDER BY j.id
FOR UPDATE OF j;

-- name: retry
UPDATE jobs AS j
SET state = CASE WHEN r.run_at <= $4 THEN 1 ELSE 0 END, run_at = r.run_at, last_error = r.error,
    attempts = j.attempts + 1, lease_token = NULL, leased_until = NULL, worker_id = NULL
FROM unnest($1::bigint[], $2::timestamptz[], $3::text[]) AS r (id, run_at, error)
WHERE j.id = r.id AND j.id = ANY ($1::bigint[]);

-- name: put_off
UPDATE jobs AS j
SET state = CASE WHEN r.run_at <= $4 THEN 1 ELSE 0 END, run_at = r.run_at,
    last_error = CASE r.reason WHEN '' THEN j.last_error ELSE r.reason END,
    snoozes = j.snoozes + 1, lease_token = NULL, leased_until = NULL, worker_id = NULL
FROM unnest($1::bigint[], $2::timestamptz[], $3::text[]) AS r (id, run_at, reason)
WHERE j.id = r.id AND j.id = ANY ($1::bigint[]);

-- name: bury
WITH gone AS (
    DELETE FROM jobs AS j
    USING unnest($1::bigint[], $2::text[]) AS r (id, error)
    WHERE j.id = r.id AND j.id = ANY ($1::bigint[])
    RETURNING j.*, r.error
)
INSERT INTO dead_jobs (id, lease_token, run_at, created_at, finished_at, tenant_id, kind_id, snoozes, priority, rank,
                       attempts, max_attempts, lost_leases, payload, traceparent, worker_id, last_error,
                       ordering_key, batch_id)
SELECT id, lease_token, run_at, created_at, $3, tenant_id, kind_id, snoozes, priority, rank, attempts + 1, max_attempts,
       lost_leases, payload, traceparent, worker_id, error, ordering_key, batch_id
FROM gone;

-- name: promote
UPDATE jobs AS j SET state = 1
WHERE j.id = ANY (ARRAY(
    SELECT id FROM jobs WHERE state = 0 AND run_at <= $1 ORDER BY run_at LIMIT $2 FOR UPDATE SKIP LOCKED))
RETURNING j.tenant_id, j.id, j.kind_id, j.priority, j.run_at;

-- name: recover
-- The token stays: until another lease is given, the late worker's word still counts.
UPDATE jobs AS j SET state = 1, lost_leases = j.lost_leases + 1, leased_until = NULL
WHERE j.id = ANY (ARRAY(
    SELECT l.id FROM jobs AS l JOIN kinds AS k ON k.id = l.kind_id JOIN queues AS q ON q.id = k.queue_id
    WHERE l.state = 2 AND l.leased_until <= $1 AND l.lost_leases < q.lost_lease_limit AND NOT l.cancel_wanted
    ORDER BY l.leased_until LIMIT $2 FOR UPDATE OF l SKIP LOCKED))
RETURNING j.tenant_id, j.id, j.kind_id, j.priority, j.run_at;

-- name: bury_poison
WITH gone AS (
    DELETE FROM jobs AS j
    WHERE j.id = ANY (ARRAY(
        SELECT l.id FROM jobs AS l JOIN kinds AS k ON k.id = l.kind_id JOIN queues AS q ON q.id = k.queue_id
        WHERE l.state = 2 AND l.leased_until <= $1 AND l.lost_leases >= q.lost_lease_limit AND NOT l.cancel_wanted
        ORDER BY l.leased_until LIMIT $2 FOR UPDATE OF l SKIP LOCKED))
    RETURNING j.*
)
INSERT INTO dead_jobs (id, lease_token, run_at, created_at, finished_at, tenant_id, kind_id, snoozes, priority, rank,
                       attempts, max_attempts, lost_leases, payload, traceparent, worker_id, last_error,
                       ordering_key, batch_id)
SELECT id, lease_token, run_at, created_at, $1, tenant_id, kind_id, snoozes, priority, rank, attempts, max_attempts,
       lost_leases + 1, payload, traceparent, worker_id, $3, ordering_key, batch_id
FROM gone;

-- name: next_turn
-- When the next job falls due, or the next lease runs out.
SELECT least(
    (SELECT run_at FROM jobs WHERE state = 0 ORDER BY run_at LIMIT 1),
    (SELECT leased_until FROM jobs WHERE state = 2 ORDER BY leased_until LIMIT 1)
);
