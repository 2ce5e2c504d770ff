-- name: insert
INSERT INTO templates (
    tenant_id, id, name, subject, content_storage_key, content_generation, version, created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9);

-- name: get
SELECT * FROM templates WHERE tenant_id = $1 AND id = $2;

-- name: list
SELECT * FROM templates WHERE tenant_id = $1 AND id > $2 ORDER BY id LIMIT $3;

-- name: hold
SELECT * FROM templates WHERE tenant_id = $1 AND id = $2 FOR NO KEY UPDATE;

-- name: update
-- The whole row.
UPDATE templates
SET name = $3, subject = $4, content_storage_key = $5, content_generation = $6, version = $7, created_at = $8,
    updated_at = $9
WHERE tenant_id = $1 AND id = $2;

-- name: delete
DELETE FROM templates WHERE tenant_id = $1 AND id = $2;
