-- name: insert
INSERT INTO jobs (tenant_id, id, kind, payload, priority, state, run_at, max_attempts, traceparent, created_at)
SELECT $1, id, kind, payload, priority, CASE WHEN run_at <= $2 THEN 'ready' ELSE 'scheduled' END,
       run_at, max_attempts, traceparent, $2
FROM unnest($3::uuid[], $4::text[], $5::bytea[], $6::smallint[], $7::timestamptz[], $8::smallint[], $9::text[])
    AS new (id, kind, payload, priority, run_at, max_attempts, traceparent)
ON CONFLICT (tenant_id, id) DO NOTHING
RETURNING id;

-- name: withdraw
-- What an enqueue is undone by: jobs that nobody works on.
DELETE FROM jobs WHERE tenant_id = $1 AND id = ANY ($2::uuid[]) AND state IN ('scheduled', 'ready');

-- name: get
SELECT tenant_id, id, kind, payload, priority, state, run_at, attempts, max_attempts, lost_leases, snoozes, created_at,
       leased_until, NULL::timestamptz AS finished_at, last_error, traceparent, lease_token
FROM jobs WHERE tenant_id = $1 AND id = $2
UNION ALL
SELECT tenant_id, id, kind, payload, priority, 'dead', run_at, attempts, max_attempts, lost_leases, snoozes, created_at,
       NULL, finished_at, last_error, traceparent, lease_token
FROM dead_jobs WHERE tenant_id = $1 AND id = $2
UNION ALL
SELECT tenant_id, id, kind, payload, priority, 'completed', run_at, attempts, max_attempts, lost_leases, snoozes,
       created_at, NULL, finished_at, last_error, traceparent, lease_token
FROM completed_jobs WHERE tenant_id = $1 AND id = $2
ORDER BY finished_at DESC NULLS FIRST
LIMIT 1;

-- name: list_page
-- Newest first is by id: ids are UUID v7, and the primary keys are in their order. Each arm stops at the page's size.
(SELECT tenant_id, id, kind, payload, priority, state, run_at, attempts, max_attempts, lost_leases, snoozes, created_at,
        leased_until, NULL::timestamptz AS finished_at, last_error, traceparent, lease_token
 FROM jobs
 WHERE tenant_id = $1 AND id < $2 AND state = ANY ($3::text[]) AND ($4 = '' OR kind = $4)
 ORDER BY id DESC LIMIT $5)
UNION ALL
(SELECT tenant_id, id, kind, payload, priority, 'dead', run_at, attempts, max_attempts, lost_leases, snoozes, created_at,
        NULL, finished_at, last_error, traceparent, lease_token
 FROM dead_jobs
 WHERE 'dead' = ANY ($3::text[]) AND tenant_id = $1 AND id < $2 AND ($4 = '' OR kind = $4)
 ORDER BY id DESC LIMIT $5)
UNION ALL
(SELECT tenant_id, id, kind, payload, priority, 'completed', run_at, attempts, max_attempts, lost_leases, snoozes,
        created_at, NULL, finished_at, last_error, traceparent, lease_token
 FROM completed_jobs
 WHERE 'completed' = ANY ($3::text[]) AND tenant_id = $1 AND id < $2 AND ($4 = '' OR kind = $4)
 ORDER BY id DESC LIMIT $5)
ORDER BY id DESC
LIMIT $5;

-- name: redrive
-- A dead letter whose id is alive again stays where it is.
WITH found AS MATERIALIZED (
    SELECT d.id, d.finished_at FROM dead_jobs AS d
    WHERE d.tenant_id = $1 AND d.id = ANY ($2::uuid[])
      AND NOT EXISTS (SELECT FROM jobs AS j WHERE j.tenant_id = $1 AND j.id = d.id)
    ORDER BY d.id, d.finished_at
    FOR UPDATE OF d
), risen AS (
    DELETE FROM dead_jobs AS d USING found
    WHERE d.tenant_id = $1 AND d.id = found.id AND d.finished_at = found.finished_at
    RETURNING d.*
)
INSERT INTO jobs (tenant_id, id, kind, payload, priority, state, run_at, max_attempts, snoozes, last_error, traceparent,
                  created_at)
SELECT DISTINCT ON (id) tenant_id, id, kind, payload, priority, 'ready', $3, max_attempts, snoozes, last_error,
       traceparent, created_at
FROM risen
ORDER BY id
ON CONFLICT (tenant_id, id) DO NOTHING
RETURNING tenant_id, id, kind, priority, run_at;

-- name: counts
SELECT CASE state WHEN 'leased' THEN 'leased' ELSE 'ready' END AS state, priority, count(*) AS count
FROM jobs WHERE tenant_id = $1 GROUP BY 1, 2
UNION ALL
SELECT 'dead', priority, count(*) FROM dead_jobs WHERE tenant_id = $1 GROUP BY 2
UNION ALL
SELECT 'completed', priority, count(*) FROM completed_jobs WHERE tenant_id = $1 GROUP BY 2
ORDER BY 1, 2;

-- name: oldest_due_at
SELECT min(run_at) FROM jobs WHERE tenant_id = $1 AND state IN ('scheduled', 'ready') AND run_at <= $2;
