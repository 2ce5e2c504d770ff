-- name: put_key
INSERT INTO subject_keys (tenant_id, inner_pad, outer_pad) VALUES ($1, $2, $3)
ON CONFLICT (tenant_id) DO UPDATE SET inner_pad = excluded.inner_pad, outer_pad = excluded.outer_pad
WHERE subject_keys.inner_pad <> excluded.inner_pad;

-- name: bar
INSERT INTO erased_subjects (tenant_id, subject, erasure_id, erased_at) VALUES ($1, $2, $3, $4)
ON CONFLICT DO NOTHING
RETURNING subject;

-- name: lift
DELETE FROM erased_subjects WHERE tenant_id = $1 AND subject = $2;

-- name: erased_among
SELECT e.address FROM subject_keys AS k, erased_among(k.tenant_id, $2::text[]) AS e (address) WHERE k.tenant_id = $1;

-- name: queued_of
-- In the order of ids, which whoever waits for them takes them in.
SELECT id FROM emails WHERE tenant_id = $1 AND recipient_key = $2 AND status = 'queued'
ORDER BY id LIMIT $3 FOR UPDATE;

-- name: own
SELECT 'users' AS table, id::text AS key, 'email' AS place FROM users WHERE tenant_id = $1 AND lower(email) = $2
UNION ALL
SELECT 'email_accounts', id::text, 'email' FROM email_accounts WHERE tenant_id = $1 AND lower(email) = $2
ORDER BY 1, 2;

-- name: emails_of
SELECT id, content_storage_key, status FROM emails
WHERE tenant_id = $1 AND recipient_key = $2 AND id > $3 ORDER BY id LIMIT $4;

-- name: messages_of
-- What the subject wrote, and copies of what these recipients were sent, in whichever mailbox they lie: the Message-ID is ours, and
-- begins with the email's id. Looks at a page of messages, and says of each whether it is theirs.
SELECT m.id, m.content_storage_key,
    address_of(m.sender) = $4 OR EXISTS (
        SELECT FROM emails AS e
        WHERE e.tenant_id = $1 AND e.message_id = m.message_id AND e.recipient_key = ANY ($5::text[])
          AND e.id = substring(m.message_id FROM '^<([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})@')::uuid) AS theirs
FROM inbox_message_refs AS m
WHERE m.tenant_id = $1 AND m.id > $2 ORDER BY m.id LIMIT $3;

-- name: remove_messages
DELETE FROM inbox_message_refs WHERE tenant_id = $1 AND id = ANY ($2::uuid[]) RETURNING content_storage_key;

-- name: lock_emails
SELECT id, status, content_storage_key FROM emails WHERE tenant_id = $1 AND recipient_key = $2 ORDER BY id LIMIT $3 FOR UPDATE;

-- name: anonymise
-- What is counted stays: campaign, step, mailbox, state and times. Its content is gone on purpose: in no generation that is
-- compared, it is no reference to be missed.
UPDATE emails
SET recipient = $3, recipient_name = '', subject = '', sender_name = '', lead_id = NULL, version = version + 1,
    content_generation = -1
WHERE tenant_id = $1 AND id = ANY ($2::uuid[]);

-- name: clear_notes
UPDATE email_attempts SET note = '' WHERE tenant_id = $1 AND email_id = ANY ($2::uuid[]) AND note <> '';

-- name: clear_event_ids
-- Some providers make their ids of addresses. What stands instead is as unique, and what is reported again from now on is held
-- against it (domain/subjects.nameless): so all of them are, whatever they are made of.
UPDATE email_event_ids SET provider_event_id = 'erased/' || md5(provider_event_id)
WHERE tenant_id = $1 AND email_id = ANY ($2::uuid[]);

-- name: leads_of
SELECT id FROM leads WHERE tenant_id = $1 AND email_key = $2 ORDER BY id FOR UPDATE;

-- name: emails_of_leads
-- Written to another address of the same lead: theirs no more.
SELECT id FROM emails WHERE tenant_id = $1 AND lead_id = ANY ($2::uuid[]) ORDER BY id LIMIT $3 FOR UPDATE;

-- name: unlink
UPDATE emails SET lead_id = NULL, version = version + 1 WHERE tenant_id = $1 AND id = ANY ($2::uuid[]);

-- name: remove_leads
DELETE FROM leads WHERE tenant_id = $1 AND id = ANY ($2::uuid[]);

-- name: remove_suppressions
DELETE FROM suppressions WHERE tenant_id = $1 AND address_key = $2;

-- name: put_erasure
INSERT INTO erasures (tenant_id, id, subject, recorded_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (tenant_id, id) DO UPDATE SET recorded_at = excluded.recorded_at;

-- name: put_receipts
INSERT INTO erasure_receipts (
    tenant_id, erasure_id, tier, counts, chain_head, erased_at, mentions, mentioned, skipped_by)
SELECT $1, $2, tier, counts::jsonb, chain_head, erased_at, mentions::jsonb, mentioned, skipped_by
FROM unnest($3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::text[], $8::bigint[], $9::text[])
    AS r (tier, counts, chain_head, erased_at, mentions, mentioned, skipped_by)
ORDER BY tier
ON CONFLICT (tenant_id, erasure_id, tier) DO UPDATE
SET counts = excluded.counts, chain_head = excluded.chain_head, erased_at = excluded.erased_at,
    mentions = excluded.mentions, mentioned = excluded.mentioned, skipped_by = excluded.skipped_by;

-- name: list
SELECT tenant_id, id, subject, recorded_at FROM erasures WHERE tenant_id = $1 AND id > $2 ORDER BY id LIMIT $3;

-- name: receipts
SELECT erasure_id, tier, counts, chain_head, erased_at, mentions, mentioned, skipped_by FROM erasure_receipts
WHERE tenant_id = $1 AND erasure_id = ANY ($2::uuid[]) ORDER BY erasure_id, tier;

-- name: put_export
INSERT INTO subject_exports (tenant_id, id, subject, actor, asked_at) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT DO NOTHING
RETURNING id;

-- name: list_exports
SELECT tenant_id, id, subject, actor, asked_at FROM subject_exports
WHERE tenant_id = $1 AND id > $2 AND ($4::text = '' OR subject = $4) ORDER BY id LIMIT $3;

-- name: export_leads
SELECT id::text AS key, to_jsonb(l)::text AS record FROM leads AS l
WHERE tenant_id = $1 AND email_key = $4
  AND id > coalesce(nullif($2, ''), '00000000-0000-0000-0000-000000000000')::uuid
ORDER BY id LIMIT $3;

-- name: export_emails
SELECT id::text AS key, (to_jsonb(e) || jsonb_build_object(
    'events', (SELECT jsonb_agg(to_jsonb(t) - 'tenant_id' - 'email_id' - 'changed_xid') FROM email_event_tallies AS t
               WHERE t.tenant_id = $1 AND t.email_id = e.id AND t.count > 0),
    'attempts', (SELECT jsonb_agg(to_jsonb(a) - 'tenant_id' - 'email_id') FROM email_attempts AS a
                 WHERE a.tenant_id = $1 AND a.email_id = e.id)))::text AS record
FROM emails AS e
WHERE tenant_id = $1 AND recipient_key = $4
  AND id > coalesce(nullif($2, ''), '00000000-0000-0000-0000-000000000000')::uuid
ORDER BY id LIMIT $3;

-- name: held_at_all
SELECT EXISTS (SELECT FROM legal_holds WHERE tenant_id = $1);

-- name: export_messages
SELECT id::text AS key, CASE WHEN address_of(sender) = $4 OR EXISTS (
        SELECT FROM emails AS e
        WHERE e.tenant_id = $1 AND e.message_id = m.message_id AND e.recipient_key = $4
          AND e.id = substring(m.message_id FROM '^<([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})@')::uuid)
    THEN to_jsonb(m)::text END AS record
FROM inbox_message_refs AS m
WHERE tenant_id = $1 AND id > coalesce(nullif($2, ''), '00000000-0000-0000-0000-000000000000')::uuid
ORDER BY id LIMIT $3;

-- name: export_suppressions
SELECT id::text AS key, to_jsonb(s)::text AS record FROM suppressions AS s
WHERE tenant_id = $1 AND address_key = $4
  AND id > coalesce(nullif($2, ''), '00000000-0000-0000-0000-000000000000')::uuid
ORDER BY id LIMIT $3;

-- name: export_users
SELECT id::text AS key, to_jsonb(u)::text AS record FROM users AS u
WHERE tenant_id = $1 AND lower(email) = $4
  AND id > coalesce(nullif($2, ''), '00000000-0000-0000-0000-000000000000')::uuid
ORDER BY id LIMIT $3;
