-- name: insert
INSERT INTO domains (
    tenant_id, id, domain, verification_status, dns_records, is_primary, company_id, version, created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10);

-- name: get
SELECT * FROM domains WHERE tenant_id = $1 AND id = $2;

-- name: list
SELECT * FROM domains WHERE tenant_id = $1 AND id > $2 ORDER BY id LIMIT $3;

-- name: hold
SELECT * FROM domains WHERE tenant_id = $1 AND id = $2 FOR NO KEY UPDATE;

-- name: update
-- The whole row.
UPDATE domains
SET domain = $3, verification_status = $4, dns_records = $5, is_primary = $6, company_id = $7, version = $8,
    created_at = $9, updated_at = $10
WHERE tenant_id = $1 AND id = $2;

-- name: delete
DELETE FROM domains WHERE tenant_id = $1 AND id = $2;
