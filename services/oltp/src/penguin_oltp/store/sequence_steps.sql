-- name: insert
INSERT INTO campaign_sequence_steps (
    tenant_id, id, campaign_id, step_order, step_type, email_account_id, template_id, subject_override,
    wait_duration_hours, wait_until, condition_type, condition_value, is_active, version, created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16);

-- name: get
SELECT * FROM campaign_sequence_steps WHERE tenant_id = $1 AND id = $2;

-- name: list
SELECT * FROM campaign_sequence_steps WHERE tenant_id = $1 AND id > $2 ORDER BY id LIMIT $3;

-- name: list_of_campaign
SELECT * FROM campaign_sequence_steps
WHERE tenant_id = $1 AND id > $2 AND campaign_id = $4 ORDER BY id LIMIT $3;

-- name: hold
SELECT * FROM campaign_sequence_steps WHERE tenant_id = $1 AND id = $2 FOR NO KEY UPDATE;

-- name: update
-- The whole row.
UPDATE campaign_sequence_steps
SET campaign_id = $3, step_order = $4, step_type = $5, email_account_id = $6, template_id = $7,
    subject_override = $8, wait_duration_hours = $9, wait_until = $10, condition_type = $11, condition_value = $12,
    is_active = $13, version = $14, created_at = $15, updated_at = $16
WHERE tenant_id = $1 AND id = $2;

-- name: delete
DELETE FROM campaign_sequence_steps WHERE tenant_id = $1 AND id = $2;
