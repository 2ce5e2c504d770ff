-- name: insert
INSERT INTO suppressions (tenant_id, id, address, reason, version, created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7);

-- name: get
SELECT * FROM suppressions WHERE tenant_id = $1 AND id = $2;

-- name: list
SELECT * FROM suppressions WHERE tenant_id = $1 AND id > $2 ORDER BY id LIMIT $3;

-- name: hold
SELECT * FROM suppressions WHERE tenant_id = $1 AND id = $2 FOR NO KEY UPDATE;

-- name: delete
DELETE FROM suppressions WHERE tenant_id = $1 AND id = $2;
