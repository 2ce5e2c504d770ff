-- name: no_new_holds
-- Until the transaction ends: what it finds not to be held may go. Removals go side by side.
SELECT pg_advisory_xact_lock_shared(hashtext('penguin.legal_holds'));

-- name: no_new_holds_for_now
-- The same for who has rows locked already, and so must not wait: where a hold is being put just now, it is not got.
SELECT pg_try_advisory_xact_lock_shared(hashtext('penguin.legal_holds'));

-- name: no_removals
-- Those under way have ended, or will see the hold.
SELECT pg_advisory_xact_lock(hashtext('penguin.legal_holds'));

-- name: held
SELECT id FROM (
    SELECT id FROM legal_holds
    WHERE tenant_id = $1 AND (subject = $2 AND subject <> '' OR storage_key <> '' AND storage_key = ANY ($3::text[]))
    UNION ALL
    SELECT hold_id FROM legal_hold_keys WHERE tenant_id = $1 AND storage_key = ANY ($3::text[])
) AS found
ORDER BY id LIMIT 1;

-- name: held_person
SELECT id FROM legal_holds WHERE tenant_id = $1 AND subject <> '' ORDER BY id LIMIT 1;

-- name: held_keys
SELECT storage_key FROM legal_holds WHERE tenant_id = $1 AND storage_key <> '' AND storage_key = ANY ($2::text[])
UNION
SELECT storage_key FROM legal_hold_keys WHERE tenant_id = $1 AND storage_key = ANY ($2::text[])
ORDER BY storage_key;

-- name: put_hold
INSERT INTO legal_holds (tenant_id, id, subject, storage_key, reason, actor, created_at, subject_key)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT DO NOTHING;

-- name: put_hold_keys
INSERT INTO legal_hold_keys (tenant_id, hold_id, storage_key)
SELECT DISTINCT $1::uuid, $2::uuid, storage_key FROM unnest($3::text[]) AS storage_key ORDER BY storage_key
ON CONFLICT DO NOTHING;

-- name: hold_stands
-- On a person; it is not released before this transaction ends.
SELECT id FROM legal_holds WHERE tenant_id = $1 AND id = $2 AND subject <> '' FOR SHARE;

-- name: list_holds
SELECT tenant_id, id, subject, storage_key, reason, actor, created_at,
    (SELECT count(*) FROM legal_hold_keys AS k WHERE k.tenant_id = $1 AND k.hold_id = h.id)::integer AS kept_keys
FROM legal_holds AS h
WHERE tenant_id = $1 AND id > $2 ORDER BY id LIMIT $3;

-- name: release_hold
DELETE FROM legal_holds WHERE tenant_id = $1 AND id = $2 RETURNING id;

-- name: scan_barrier
-- A page of remembered answers and refusals, and whether the address stands in them. As text in which every byte is shown: an
-- answer need not be any encoding's. Each is looked at by itself: a row has one of them, and NULL || x is NULL.
SELECT key, operation,
    coalesce(lower(encode(reply, 'escape')) ~ $5, false) OR coalesce(lower(encode(refused, 'escape')) ~ $5, false) AS hit
FROM (
    SELECT key, operation, reply, refused FROM step_barrier
    WHERE tenant_id = $1 AND (key, operation) > ($2, $3)
    ORDER BY key, operation LIMIT $4
) AS page
ORDER BY key, operation;

-- name: forget_answers
-- The step stays barred: a repeat is refused (SAGA_COMPENSATED, whatever it was told before), and does nothing a second time.
UPDATE step_barrier AS b SET reply = NULL, refused = NULL, compensated = true
FROM unnest($2::text[], $3::text[]) AS hit (key, operation)
WHERE b.tenant_id = $1 AND b.key = ANY ($2::text[]) AND b.key = hit.key AND b.operation = hit.operation;

-- name: scan_outbox
SELECT id::text AS key, array_remove(ARRAY[
    CASE WHEN lower(encode(payload, 'escape')) ~ $4 THEN 'payload' END,
    CASE WHEN lower(last_error) ~ $4 THEN 'last_error' END], NULL) AS places
FROM outbox WHERE tenant_id = $1 AND id > coalesce(nullif($2, '')::uuid, '00000000-0000-0000-0000-000000000000')
ORDER BY id LIMIT $3;
