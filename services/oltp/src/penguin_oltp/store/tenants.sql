-- name: insert
INSERT INTO tenants (tenant_id, name, status, unknown_outcome_policy, version, created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7);

-- name: get
SELECT * FROM tenants WHERE tenant_id = $1;

-- name: hold
SELECT * FROM tenants WHERE tenant_id = $1 FOR NO KEY UPDATE;

-- name: remove
DELETE FROM tenants WHERE tenant_id = $1;

-- name: list
-- Across tenants: for the maintenance role.
SELECT * FROM tenants WHERE tenant_id > $1 ORDER BY tenant_id LIMIT $2;

-- name: update
UPDATE tenants
SET name = $2, status = $3, unknown_outcome_policy = $4, version = $5, created_at = $6, updated_at = $7
WHERE tenant_id = $1;

-- name: pause_campaigns
-- One that was resumed while its tenant was being closed: the tier is closed by now, and none can begin any more.
UPDATE campaigns
SET status = 'paused', version = version + 1, updated_at = greatest($2, updated_at + interval '1 microsecond')
WHERE tenant_id = $1 AND id = ANY (ARRAY(
    SELECT id FROM campaigns WHERE tenant_id = $1 AND status = 'running' ORDER BY id FOR NO KEY UPDATE));
