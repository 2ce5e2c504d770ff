-- name: insert
-- Rows that another email already stands for (same lead and step), and those to erased people, are left out of the answer.
-- Without a key nobody was erased, and nothing is hashed.
INSERT INTO emails (
    tenant_id, id, recipient, recipient_name, sender, sender_name, subject, status, priority, content_storage_key,
    content_generation, campaign_id, step_id, lead_id, email_account_id, message_id, send_at, queued_at)
SELECT $1, id, recipient, recipient_name, sender, sender_name, subject, 'queued', priority, storage_key,
    $2, campaign_id, step_id, lead_id, email_account_id, message_id, send_at, $3
FROM unnest(
    $4::uuid[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::uuid[],
    $13::uuid[], $14::uuid[], $15::uuid[], $16::text[], $17::timestamptz[])
    AS e (id, recipient, recipient_name, sender, sender_name, subject, priority, storage_key, campaign_id,
          step_id, lead_id, email_account_id, message_id, send_at)
WHERE EXISTS (SELECT FROM tenants WHERE tenant_id = $1)
  AND NOT (EXISTS (SELECT FROM subject_keys WHERE tenant_id = $1)
           AND recipient = ANY (ARRAY(SELECT * FROM erased_among($1, $5::text[]))))
ON CONFLICT DO NOTHING
RETURNING id, EXISTS (SELECT FROM legal_holds WHERE tenant_id = $1 AND subject <> '' AND subject_key <> '') AS holds;

-- name: held
-- Of these emails the contents whose recipients a hold keeps.
SELECT h.id, e.content_storage_key FROM legal_holds AS h JOIN emails AS e ON e.tenant_id = h.tenant_id
WHERE h.tenant_id = $1 AND h.subject <> '' AND h.subject_key <> '' AND e.id = ANY ($2::uuid[])
  AND h.subject = hmac_of(h.subject_key, e.recipient)
ORDER BY h.id, e.content_storage_key;

-- name: tenant
SELECT tenant_id FROM tenants WHERE tenant_id = $1;

-- name: hold_campaigns
-- A campaign that is being cancelled or completed is waited for, and then seen as it is; meanwhile none can be.
SELECT id, status FROM campaigns WHERE tenant_id = $1 AND id = ANY ($2::uuid[]) ORDER BY id FOR SHARE;

-- name: missing_references
-- By the list of ids, so that a tenant's leads are never read whole to look for a hundred of them.
(SELECT 'campaign_id' AS field, wanted AS id FROM unnest($2::uuid[]) AS wanted
    EXCEPT SELECT 'campaign_id', id FROM campaigns WHERE tenant_id = $1 AND id = ANY ($2::uuid[]))
UNION ALL
(SELECT 'step_id' AS field, wanted AS id FROM unnest($3::uuid[]) AS wanted
    EXCEPT SELECT 'step_id', id FROM campaign_sequence_steps WHERE tenant_id = $1 AND id = ANY ($3::uuid[]))
UNION ALL
(SELECT 'lead_id' AS field, wanted AS id FROM unnest($4::uuid[]) AS wanted
    EXCEPT SELECT 'lead_id', id FROM leads WHERE tenant_id = $1 AND id = ANY ($4::uuid[]))
UNION ALL
(SELECT 'email_account_id' AS field, wanted AS id FROM unnest($5::uuid[]) AS wanted
    EXCEPT SELECT 'email_account_id', id FROM email_accounts WHERE tenant_id = $1 AND id = ANY ($5::uuid[]));

-- name: get
-- One of the named hot reads: the function sets the tenant for itself, in the same round trip.
SELECT email_row, tallies, attempts FROM hot_get_email($1, $2);

-- name: get_many
SELECT * FROM emails WHERE tenant_id = $1 AND id = ANY ($2::uuid[]) ORDER BY id;

-- name: list
SELECT * FROM emails
WHERE tenant_id = $1 AND id > $2
  AND ($3::uuid IS NULL OR campaign_id = $3)
  AND ($4::text = '' OR status = $4)
  AND ($5::text = '' OR recipient_key = lower($5))
ORDER BY id LIMIT $6;
