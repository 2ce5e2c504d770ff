-- name: put
INSERT INTO queues (name, priority, max_attempts, backoff_base, backoff_cap, lost_lease_limit, max_in_flight, created_at,
                    updated_at, completed_retention, dead_retention, dead_letters, rate_jobs, rate_ms, rate_burst,
                    tenant_rate_jobs, tenant_rate_ms, tenant_rate_burst, key_rate_jobs, key_rate_ms, key_rate_burst)
VALUES ($1, $2, $3, $4, $5, $6, nullif($7, 0), $8, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)
ON CONFLICT (name) DO UPDATE
SET priority = $2, max_attempts = $3, backoff_base = $4, backoff_cap = $5, lost_lease_limit = $6,
    max_in_flight = nullif($7, 0), updated_at = $8, completed_retention = $9, dead_retention = $10, dead_letters = $11,
    rate_jobs = $12, rate_ms = $13, rate_burst = $14, tenant_rate_jobs = $15, tenant_rate_ms = $16,
    tenant_rate_burst = $17, key_rate_jobs = $18, key_rate_ms = $19, key_rate_burst = $20;

-- name: count
SELECT count(*) FROM queues;

-- name: get
SELECT name, paused, priority, max_attempts, backoff_base, backoff_cap, lost_lease_limit,
       coalesce(max_in_flight, 0) AS max_in_flight, created_at, updated_at, completed_retention, dead_retention,
       dead_letters, rate_jobs, rate_ms, rate_burst, tenant_rate_jobs, tenant_rate_ms, tenant_rate_burst, key_rate_jobs,
       key_rate_ms, key_rate_burst,
       ARRAY(SELECT k.name FROM kinds AS k WHERE k.queue_id = q.id ORDER BY k.name LIMIT 1000) AS kinds
FROM queues AS q WHERE name = $1;

-- name: list_page
SELECT name, paused, priority, max_attempts, backoff_base, backoff_cap, lost_lease_limit,
       coalesce(max_in_flight, 0) AS max_in_flight, created_at, updated_at, completed_retention, dead_retention,
       dead_letters, rate_jobs, rate_ms, rate_burst, tenant_rate_jobs, tenant_rate_ms, tenant_rate_burst, key_rate_jobs,
       key_rate_ms, key_rate_burst,
       ARRAY(SELECT k.name FROM kinds AS k WHERE k.queue_id = q.id ORDER BY k.name LIMIT 1000) AS kinds
FROM queues AS q WHERE name > $1 ORDER BY name LIMIT $2;

-- name: move_kinds
UPDATE kinds SET queue_id = q.id FROM queues AS q WHERE q.name = $1 AND kinds.name = ANY ($2::text[]);

-- name: comb_anew
-- What kinds have left behind that come to a queue may be older than what has been combed for it.
UPDATE queues SET completed_combed = NULL, dead_combed = NULL WHERE name = $1;

-- name: rest_queue
UPDATE queues SET paused = $2 WHERE name = $1 RETURNING id;

-- name: rest_kind
UPDATE kinds SET paused = $2 WHERE name = $1 RETURNING id;

-- name: leasing
-- Both take the lock of a table before the snapshot in which they see what rests: leases that of jobs, as do others who write
-- them, and hand-overs that of kinds. Who only reads jobs is none of them.
SELECT DISTINCT l.virtualtransaction AS transaction
FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'relation' AND l.granted AND l.pid <> pg_backend_pid()
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND ((l.relation = 'jobs'::regclass AND l.mode IN ('RowShareLock', 'RowExclusiveLock'))
       OR (l.relation = 'kinds'::regclass AND a.usename = 'queue_app'));

-- name: kind_id
SELECT id FROM kinds WHERE name = $1;

-- name: count_tenants
SELECT count(*) FROM pauses;

-- name: rest_tenant
INSERT INTO pauses (tenant_id, kind_id, paused_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING;

-- name: wake_tenant
DELETE FROM pauses WHERE tenant_id = $1 AND kind_id = $2;

-- name: list_pauses
SELECT rank, name, kind
FROM (
    SELECT 1 AS rank, name COLLATE "C" AS name, '' COLLATE "C" AS kind FROM queues WHERE paused
    UNION ALL
    SELECT 2, name COLLATE "C", '' FROM kinds WHERE paused
    UNION ALL
    SELECT 3, p.tenant_id::text COLLATE "C", coalesce(k.name, '') COLLATE "C"
    FROM pauses AS p LEFT JOIN kinds AS k ON k.id = p.kind_id
) AS resting
WHERE (rank, name, kind) > ($1, $2, $3)
ORDER BY rank, name, kind
LIMIT $4;

-- name: set_weight
INSERT INTO tenant_weights (tenant_id, weight, updated_at) VALUES ($1, $2, $3)
ON CONFLICT (tenant_id) DO UPDATE SET weight = $2, updated_at = $3;

-- name: drop_weight
DELETE FROM tenant_weights WHERE tenant_id = $1;

-- name: count_weights
SELECT count(*) FROM tenant_weights;

-- name: list_weights
SELECT tenant_id, weight FROM tenant_weights WHERE tenant_id > $1 ORDER BY tenant_id LIMIT $2;
