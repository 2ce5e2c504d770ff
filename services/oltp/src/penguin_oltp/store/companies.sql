-- name: insert
INSERT INTO companies (tenant_id, id, name, website, version, created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7);

-- name: get
SELECT * FROM companies WHERE tenant_id = $1 AND id = $2;

-- name: list
SELECT * FROM companies WHERE tenant_id = $1 AND id > $2 ORDER BY id LIMIT $3;

-- name: hold
SELECT * FROM companies WHERE tenant_id = $1 AND id = $2 FOR NO KEY UPDATE;

-- name: update
-- The whole row.
UPDATE companies
SET name = $3, website = $4, version = $5, created_at = $6, updated_at = $7
WHERE tenant_id = $1 AND id = $2;

-- name: delete
DELETE FROM companies WHERE tenant_id = $1 AND id = $2;
