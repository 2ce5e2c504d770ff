-- name: lease_ready
SELECT tenant_id, id, kind, payload, priority, state, run_at, attempts, max_attempts, lost_leases, snoozes, created_at,
       leased_until, NULL::timestamptz AS finished_at, last_error, traceparent, lease_token
FROM lease_ready($1, $2, $3::text[], $4, $5, $6);

-- name: lease_refs
-- Hints from the buffer: a row that is not ready, or is in another's hands, is passed over.
WITH picked AS MATERIALIZED (
    SELECT j.tenant_id, j.id
    FROM unnest($1::uuid[], $2::uuid[]) AS r (tenant_id, id)
    JOIN jobs AS j ON j.tenant_id = r.tenant_id AND j.id = r.id
    WHERE j.state = 'ready'
    ORDER BY 1, 2
    FOR UPDATE OF j SKIP LOCKED
)
UPDATE jobs AS j
SET state = 'leased', lease_token = $3, leased_until = $4, worker_id = $5
FROM picked
WHERE j.tenant_id = picked.tenant_id AND j.id = picked.id
RETURNING j.tenant_id, j.id, j.kind, j.payload, j.priority, j.state, j.run_at, j.attempts, j.max_attempts, j.lost_leases,
          j.snoozes, j.created_at, j.leased_until, NULL::timestamptz AS finished_at, j.last_error, j.traceparent,
          j.lease_token;

-- name: extend
WITH held AS MATERIALIZED (
    SELECT j.tenant_id, j.id
    FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS r (tenant_id, id, token)
    JOIN jobs AS j ON j.tenant_id = r.tenant_id AND j.id = r.id AND j.lease_token = r.token
    ORDER BY 1, 2
    FOR UPDATE OF j
)
UPDATE jobs AS j SET state = 'leased', leased_until = $4
FROM held
WHERE j.tenant_id = held.tenant_id AND j.id = held.id
RETURNING j.tenant_id, j.id, j.lease_token;

-- name: complete
WITH held AS MATERIALIZED (
    SELECT j.tenant_id, j.id
    FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS r (tenant_id, id, token)
    JOIN jobs AS j ON j.tenant_id = r.tenant_id AND j.id = r.id AND j.lease_token = r.token
    ORDER BY 1, 2
    FOR UPDATE OF j
), done AS (
    DELETE FROM jobs AS j USING held
    WHERE j.tenant_id = held.tenant_id AND j.id = held.id
    RETURNING j.*
), kept AS (
    INSERT INTO completed_jobs (tenant_id, id, lease_token, run_at, created_at, finished_at, snoozes, priority, attempts,
                                max_attempts, lost_leases, kind, worker_id, last_error, traceparent, payload)
    SELECT tenant_id, id, lease_token, run_at, created_at, $4, snoozes, priority, attempts, max_attempts, lost_leases,
           kind, worker_id, last_error, traceparent, payload
    FROM done
)
SELECT tenant_id, id, lease_token FROM done;

-- name: completed_before
-- A repeat of the word that ended the job, under the same lease.
SELECT c.tenant_id, c.id, c.lease_token
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS r (tenant_id, id, token)
JOIN completed_jobs AS c ON c.tenant_id = r.tenant_id AND c.id = r.id AND c.lease_token = r.token;

-- name: hold
SELECT j.tenant_id, j.id, j.lease_token, j.kind, j.priority, j.attempts, j.max_attempts
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS r (tenant_id, id, token)
JOIN jobs AS j ON j.tenant_id = r.tenant_id AND j.id = r.id AND j.lease_token = r.token
ORDER BY 1, 2
FOR UPDATE OF j;

-- name: retry
UPDATE jobs AS j
SET state = CASE WHEN r.run_at <= $5 THEN 'ready' ELSE 'scheduled' END, run_at = r.run_at, last_error = r.error,
    attempts = j.attempts + 1, lease_token = NULL, leased_until = NULL, worker_id = ''
FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::text[]) AS r (tenant_id, id, run_at, error)
WHERE j.tenant_id = r.tenant_id AND j.id = r.id;

-- name: put_off
UPDATE jobs AS j
SET state = CASE WHEN r.run_at <= $5 THEN 'ready' ELSE 'scheduled' END, run_at = r.run_at,
    last_error = CASE r.reason WHEN '' THEN j.last_error ELSE r.reason END,
    snoozes = j.snoozes + 1, lease_token = NULL, leased_until = NULL, worker_id = ''
FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::text[]) AS r (tenant_id, id, run_at, reason)
WHERE j.tenant_id = r.tenant_id AND j.id = r.id;

-- name: bury
WITH gone AS (
    DELETE FROM jobs AS j
    USING unnest($1::uuid[], $2::uuid[], $3::text[]) AS r (tenant_id, id, error)
    WHERE j.tenant_id = r.tenant_id AND j.id = r.id
    RETURNING j.*, r.error
)
INSERT INTO dead_jobs (tenant_id, id, lease_token, run_at, created_at, finished_at, snoozes, priority, attempts,
                       max_attempts, lost_leases, kind, worker_id, last_error, traceparent, payload)
SELECT tenant_id, id, lease_token, run_at, created_at, $4, snoozes, priority, attempts + 1, max_attempts, lost_leases,
       kind, worker_id, error, traceparent, payload
FROM gone;

-- name: promote
WITH due AS MATERIALIZED (
    SELECT tenant_id, id FROM jobs
    WHERE state = 'scheduled' AND run_at <= $1
    ORDER BY run_at LIMIT $2
    FOR UPDATE SKIP LOCKED
)
UPDATE jobs AS j SET state = 'ready'
FROM due
WHERE j.tenant_id = due.tenant_id AND j.id = due.id
RETURNING j.tenant_id, j.id, j.kind, j.priority, j.run_at;

-- name: recover
-- The token stays: until another lease is given, the late worker's word still counts.
WITH lost AS MATERIALIZED (
    SELECT tenant_id, id FROM jobs
    WHERE state = 'leased' AND leased_until <= $1 AND lost_leases < $3
    ORDER BY leased_until LIMIT $2
    FOR UPDATE SKIP LOCKED
)
UPDATE jobs AS j SET state = 'ready', lost_leases = j.lost_leases + 1, leased_until = NULL
FROM lost
WHERE j.tenant_id = lost.tenant_id AND j.id = lost.id
RETURNING j.tenant_id, j.id, j.kind, j.priority, j.run_at;

-- name: bury_poison
WITH lost AS MATERIALIZED (
    SELECT tenant_id, id FROM jobs
    WHERE state = 'leased' AND leased_until <= $1 AND lost_leases >= $3
    ORDER BY leased_until LIMIT $2
    FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM jobs AS j USING lost
    WHERE j.tenant_id = lost.tenant_id AND j.id = lost.id
    RETURNING j.*
)
INSERT INTO dead_jobs (tenant_id, id, lease_token, run_at, created_at, finished_at, snoozes, priority, attempts,
                       max_attempts, lost_leases, kind, worker_id, last_error, traceparent, payload)
SELECT tenant_id, id, lease_token, run_at, created_at, $1, snoozes, priority, attempts, max_attempts, lost_leases + 1,
       kind, worker_id, $4, traceparent, payload
FROM gone;

-- name: next_turn
-- When the next job falls due, or the next lease runs out.
SELECT least(
    (SELECT run_at FROM jobs WHERE state = 'scheduled' ORDER BY run_at LIMIT 1),
    (SELECT leased_until FROM jobs WHERE state = 'leased' ORDER BY leased_until LIMIT 1)
);
