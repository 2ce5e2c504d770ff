-- name: get
SELECT tenant_id, state, provisioned_at, closed_at FROM tier_tenants WHERE tenant_id = $1;

-- name: insert
INSERT INTO tier_tenants (tenant_id, state, provisioned_at, closed_at) VALUES ($1, $2, $3, $4)
ON CONFLICT DO NOTHING
RETURNING tenant_id;

-- name: move
-- Answers nothing where it is so already.
UPDATE tier_tenants SET state = $2, closed_at = $3 WHERE tenant_id = $1 AND state <> $2
RETURNING tenant_id;

-- name: remove
DELETE FROM tier_tenants WHERE tenant_id = $1;

-- name: closed
-- Across tenants: for the maintenance role.
SELECT tenant_id FROM tier_tenants WHERE state = 'closed';
