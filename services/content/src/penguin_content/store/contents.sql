-- name: insert
-- Keys that stand already are left out of the answer.
INSERT INTO content_objects (
    tenant_id, storage_key, state, generation, claim_by, created_at, expire_at, content_hash, raw_source, codec,
    raw_size, stored_size, attachment_count, defects, body, lists_people)
SELECT $1, storage_key, 'unclaimed', $2, $3, $4, expire_at, content_hash, raw_source, codec,
    raw_size, length(body), attachment_count, string_to_array(defects, E'\n'), body, lists_people
FROM unnest(
    $5::text[], $6::timestamptz[], $7::bytea[], $8::boolean[], $9::text[], $10::bigint[], $11::integer[], $12::text[],
    $13::bytea[], $14::boolean[])
    AS c (storage_key, expire_at, content_hash, raw_source, codec, raw_size, attachment_count, defects, body, lists_people)
ORDER BY storage_key
ON CONFLICT DO NOTHING
RETURNING storage_key;

-- name: attach
-- The first attachment to a blob also holds it against removal until this transaction ends.
INSERT INTO attachments (
    tenant_id, storage_key, position, filename, mime_type, disposition, content_id, size, sha256, blob_sha256)
SELECT $1, storage_key, position, filename, mime_type, disposition, content_id, size, sha256,
    CASE WHEN derived THEN NULL ELSE sha256 END
FROM unnest(
    $2::text[], $3::boolean[], $4::integer[], $5::text[], $6::text[], $7::text[], $8::text[], $9::bigint[], $10::bytea[])
    AS a (storage_key, derived, position, filename, mime_type, disposition, content_id, size, sha256);

-- name: claim
-- Rows already claimed are not written again; which keys there are is told by the lock before.
UPDATE content_objects SET state = 'claimed', quarantined_at = NULL
WHERE tenant_id = $1 AND storage_key = ANY ($2::text[]) AND (state <> 'claimed' OR quarantined_at IS NOT NULL);

-- name: hold
SELECT storage_key, state, claim_by, quarantined_at FROM content_objects
WHERE tenant_id = $1 AND storage_key = ANY ($2::text[])
ORDER BY storage_key
FOR NO KEY UPDATE;

-- name: quarantine
UPDATE content_objects SET state = 'quarantined', quarantined_at = $3
WHERE tenant_id = $1 AND storage_key = ANY ($2::text[]);

-- name: lock
SELECT storage_key, state, quarantined_at FROM content_objects
WHERE tenant_id = $1 AND storage_key = ANY ($2::text[])
ORDER BY storage_key
FOR UPDATE;

-- name: blobs_of
-- Those derived from a raw source have none. Without a condition on it, only the primary key can serve.
SELECT DISTINCT blob_sha256 FROM attachments WHERE tenant_id = $1 AND storage_key = ANY ($2::text[]);

-- name: delete
DELETE FROM content_objects WHERE tenant_id = $1 AND storage_key = ANY ($2::text[]);
