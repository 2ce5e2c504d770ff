-- name: put
INSERT INTO schedules (tenant_id, name, cron, time_zone, kind_id, payload, priority, rank, max_attempts, missed_runs,
                       start_deadline, overlap, paused, next_at, created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7::smallint, $8::smallint, $9::smallint, $10, $11::integer, $12, $13, $14, $15, $15)
ON CONFLICT (tenant_id, name) DO UPDATE
SET cron = $3, time_zone = $4, kind_id = $5, payload = $6, priority = $7::smallint, rank = $8::smallint,
    max_attempts = $9::smallint, missed_runs = $10, start_deadline = $11::integer, overlap = $12, paused = $13, next_at = $14,
    updated_at = $15
RETURNING next_at, last_at, coalesce(last_job_id, 0) AS last_job_id, missed, created_at, updated_at;

-- name: count
SELECT count(*) FROM schedules WHERE tenant_id = $1;

-- name: get
SELECT tenant_id, name, cron, time_zone, kind_id, ''::bytea AS payload, priority, rank, max_attempts, missed_runs,
       start_deadline, overlap, paused, next_at, last_at, coalesce(last_job_id, 0) AS last_job_id, missed, created_at, updated_at
FROM schedules WHERE tenant_id = $1 AND name = $2;

-- name: list_page
SELECT tenant_id, name, cron, time_zone, kind_id, ''::bytea AS payload, priority, rank, max_attempts, missed_runs,
       start_deadline, overlap, paused, next_at, last_at, coalesce(last_job_id, 0) AS last_job_id, missed, created_at, updated_at
FROM schedules WHERE tenant_id = $1 AND name > $2 ORDER BY name LIMIT $3;

-- name: lock
SELECT tenant_id, name, cron, time_zone, kind_id, payload, priority, rank, max_attempts, missed_runs,
       start_deadline, overlap, paused, next_at, last_at, coalesce(last_job_id, 0) AS last_job_id, missed, created_at, updated_at
FROM schedules WHERE tenant_id = $1 AND name = $2 FOR NO KEY UPDATE;

-- name: delete
DELETE FROM schedules WHERE tenant_id = $1 AND name = $2 RETURNING name;

-- name: rest
UPDATE schedules SET paused = $3, next_at = $4, updated_at = $5 WHERE tenant_id = $1 AND name = $2;

-- name: rest_all
UPDATE schedules SET paused = true, next_at = NULL, updated_at = $2
WHERE tenant_id = $1 AND name = ANY (ARRAY(
    SELECT name FROM schedules WHERE tenant_id = $1 AND NOT paused ORDER BY name FOR NO KEY UPDATE));

-- name: lock_due
-- Another server has those that are locked: it waits for nobody. A tenant that is closed has none that is due, though one was put
-- since by a server that did not know of it yet.
SELECT tenant_id, name, cron, time_zone, kind_id, payload, priority, rank, max_attempts, missed_runs,
       start_deadline, overlap, paused, next_at, last_at, coalesce(last_job_id, 0) AS last_job_id, missed, created_at, updated_at
FROM schedules AS s
WHERE NOT paused AND next_at <= $1
    AND NOT EXISTS (SELECT FROM tier_tenants AS t WHERE t.tenant_id = s.tenant_id AND t.state = 'closed')
ORDER BY next_at LIMIT $2 FOR NO KEY UPDATE OF s SKIP LOCKED;

-- name: unfinished
-- Looked at once the schedules are locked, so that the jobs of whoever had them before are seen.
SELECT id FROM jobs WHERE id = ANY ($1::bigint[]);

-- name: advance
UPDATE schedules
SET next_at = $3, last_at = coalesce($4::timestamptz, last_at), last_job_id = coalesce($5::bigint, last_job_id),
    missed = missed + $6::bigint
WHERE tenant_id = $1 AND name = $2;

-- name: next_due
-- No min(), which would read them all beside the second table.
SELECT next_at FROM schedules AS s
WHERE NOT paused AND next_at IS NOT NULL
    AND NOT EXISTS (SELECT FROM tier_tenants AS t WHERE t.tenant_id = s.tenant_id AND t.state = 'closed')
ORDER BY next_at LIMIT 1;
