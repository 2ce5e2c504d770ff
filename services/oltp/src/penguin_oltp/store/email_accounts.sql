-- name: insert
INSERT INTO email_accounts (
    tenant_id, id, email, display_name, provider, status, vault_key_path, smtp, imap, daily_limit, last_warmed_at,
    domain_id, version, created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15);

-- name: get
SELECT a.*, (
    SELECT count(*) FROM emails AS e WHERE e.tenant_id = $1 AND e.email_account_id = a.id AND e.sent_at >= $3
) AS daily_count
FROM email_accounts AS a WHERE a.tenant_id = $1 AND a.id = $2;

-- name: list
SELECT a.*, (
    SELECT count(*) FROM emails AS e WHERE e.tenant_id = $1 AND e.email_account_id = a.id AND e.sent_at >= $4
) AS daily_count
FROM email_accounts AS a WHERE a.tenant_id = $1 AND a.id > $2 ORDER BY a.id LIMIT $3;

-- name: count_since
SELECT count(*) FROM emails WHERE tenant_id = $1 AND email_account_id = $2 AND sent_at >= $3;

-- name: hold
SELECT * FROM email_accounts WHERE tenant_id = $1 AND id = $2 FOR NO KEY UPDATE;

-- name: update
-- The whole row.
UPDATE email_accounts
SET email = $3, display_name = $4, provider = $5, status = $6, vault_key_path = $7, smtp = $8, imap = $9,
    daily_limit = $10, last_warmed_at = $11, domain_id = $12, version = $13, created_at = $14, updated_at = $15
WHERE tenant_id = $1 AND id = $2;

-- name: delete
DELETE FROM email_accounts WHERE tenant_id = $1 AND id = $2;
