-- name: get
-- The named hot read: the function sets the tenant for itself, in the same round trip.
SELECT storage_key, state, content_hash, raw_size, stored_size, codec, created_at, claim_by, expire_at, raw_source,
    generation, defects, body, attachments
FROM hot_get_content($1, $2, $3, $4);

-- name: objects
-- The body is fetched from its place only where it is asked for ($3 for all, $4 for raw sources).
SELECT storage_key, state, content_hash, raw_size, stored_size, codec, created_at, claim_by, expire_at, raw_source,
    generation, attachment_count, defects, CASE WHEN $3 OR ($4 AND raw_source) THEN body END AS body
FROM content_objects
WHERE tenant_id = $1 AND storage_key = ANY ($2::text[]);

-- name: attachments
SELECT storage_key, position, filename, mime_type, disposition, content_id, size, sha256
FROM attachments
WHERE tenant_id = $1 AND storage_key = ANY ($2::text[])
ORDER BY storage_key, position;

-- name: page
SELECT storage_key, state, content_hash, raw_size, stored_size, codec, created_at, claim_by, expire_at, raw_source,
    generation, attachment_count, defects
FROM content_objects
WHERE tenant_id = $1 AND created_at >= $2 AND (created_at, storage_key) > ($2, $3) AND ($4::text = '' OR state = $4)
ORDER BY created_at, storage_key
LIMIT $5;

-- name: quarantined
SELECT storage_key, quarantined_at FROM content_objects
WHERE tenant_id = $1 AND quarantined_at IS NOT NULL AND state = 'quarantined'
  AND (quarantined_at, storage_key) > ($2, $3) AND ($4::timestamptz IS NULL OR quarantined_at < $4)
ORDER BY quarantined_at, storage_key
LIMIT $5;
