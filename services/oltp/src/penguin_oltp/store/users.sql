-- name: insert
-- The person, and the roles held in this tenant.
WITH person AS (
    INSERT INTO users (tenant_id, id, email, display_name, version, created_at, updated_at)
    VALUES ($1, $2, $3, $4, $6, $7, $8)
)
INSERT INTO tenant_users (tenant_id, user_id, roles) VALUES ($1, $2, $5);

-- name: get
SELECT u.*, t.roles FROM users AS u JOIN tenant_users AS t ON t.tenant_id = u.tenant_id AND t.user_id = u.id
WHERE u.tenant_id = $1 AND u.id = $2;

-- name: list
SELECT u.*, t.roles FROM users AS u JOIN tenant_users AS t ON t.tenant_id = u.tenant_id AND t.user_id = u.id
WHERE u.tenant_id = $1 AND u.id > $2 ORDER BY u.id LIMIT $3;

-- name: hold
SELECT u.*, t.roles FROM users AS u JOIN tenant_users AS t ON t.tenant_id = u.tenant_id AND t.user_id = u.id
WHERE u.tenant_id = $1 AND u.id = $2 FOR NO KEY UPDATE;

-- name: update
WITH person AS (
    UPDATE users
    SET email = $3, display_name = $4, version = $6, created_at = $7, updated_at = $8
    WHERE tenant_id = $1 AND id = $2
)
UPDATE tenant_users SET roles = $5 WHERE tenant_id = $1 AND user_id = $2;

-- name: delete
-- With the roles held.
DELETE FROM users WHERE tenant_id = $1 AND id = $2;
