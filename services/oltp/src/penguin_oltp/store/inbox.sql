-- name: insert
-- Messages that the mailbox has already are left out of the answer. In the order of the unique key, so that two batches
-- never wait for each other in a ring.
INSERT INTO inbox_message_refs (
    tenant_id, id, mailbox, direction, message_id, in_reply_to, thread_id, sender, subject, sent_at, received_at,
    content_storage_key, content_generation, fingerprint, defects)
SELECT $1, id, mailbox, direction, message_id, in_reply_to, thread_id, sender, subject, sent_at, received_at,
    storage_key, $2, fingerprint, ARRAY(SELECT jsonb_array_elements_text(defects))
FROM unnest(
    $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::timestamptz[],
    $12::timestamptz[], $13::text[], $14::text[], $15::jsonb[])
    WITH ORDINALITY AS m (
        id, mailbox, direction, message_id, in_reply_to, thread_id, sender, subject, sent_at, received_at, storage_key,
        fingerprint, defects, nth)
ORDER BY lower(mailbox), fingerprint, nth
ON CONFLICT DO NOTHING
RETURNING id;

-- name: to_erased
-- Message-IDs of these emails whose recipients were erased, be they nameless by now or barred so far.
SELECT message_id FROM emails
WHERE tenant_id = $1 AND id = ANY ($2::uuid[])
  AND (recipient_key = $3 OR recipient_key IN (SELECT * FROM erased_among($1, ARRAY(
      SELECT recipient_key FROM emails WHERE tenant_id = $1 AND id = ANY ($2::uuid[])))));

-- name: stored
SELECT m.id, wanted.nth, m.content_storage_key
FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS wanted (mailbox, fingerprint, nth)
CROSS JOIN LATERAL (
    SELECT id, content_storage_key FROM inbox_message_refs
    WHERE tenant_id = $1 AND mailbox_key = lower(wanted.mailbox) AND fingerprint = wanted.fingerprint LIMIT 1
) AS m;

-- name: get
SELECT * FROM inbox_message_refs WHERE tenant_id = $1 AND id = $2;

-- name: list
SELECT * FROM inbox_message_refs WHERE tenant_id = $1 AND id > $2 ORDER BY id LIMIT $3;

-- name: list_in
SELECT * FROM inbox_message_refs WHERE tenant_id = $1 AND id > $2 AND mailbox_key = lower($4) ORDER BY id LIMIT $3;

-- name: list_thread
SELECT * FROM inbox_message_refs
WHERE tenant_id = $1 AND id > $2 AND md5(thread_id) = md5($4) AND thread_id = $4
  AND ($5::text = '' OR mailbox_key = lower($5))
ORDER BY id LIMIT $3;

-- name: fingerprints
SELECT fingerprint FROM inbox_message_refs
WHERE tenant_id = $1 AND mailbox_key = lower($2) AND fingerprint = ANY ($3::text[]) ORDER BY fingerprint;

-- name: keys_of
SELECT id, content_storage_key FROM inbox_message_refs WHERE tenant_id = $1 AND id = ANY ($2::uuid[]);

-- name: kept
-- Holds on who wrote one of these messages, or on whom it is the copy of an email to, with the messages' contents. The email is
-- read by its id, which its Message-ID begins with.
SELECT h.id, m.content_storage_key
FROM legal_holds AS h JOIN inbox_message_refs AS m ON m.tenant_id = h.tenant_id
LEFT JOIN emails AS e ON e.tenant_id = $1 AND e.message_id = m.message_id
  AND e.id = substring(m.message_id FROM '^<([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})@')::uuid
WHERE h.tenant_id = $1 AND h.subject_key <> '' AND m.id = ANY ($2::uuid[])
  AND (h.subject = hmac_of(h.subject_key, address_of(m.sender)) OR h.subject = hmac_of(h.subject_key, e.recipient))
ORDER BY h.id, m.content_storage_key;

-- name: delete
DELETE FROM inbox_message_refs WHERE tenant_id = $1 AND id = ANY ($2::uuid[]) RETURNING content_storage_key;
