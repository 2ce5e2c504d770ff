-- name: scan
SELECT id::text AS key, array_remove(ARRAY[
    CASE WHEN lower(title) ~ $4 THEN 'title' END,
    CASE WHEN lower(message) ~ $4 THEN 'message' END,
    CASE WHEN lower(type) ~ $4 THEN 'type' END,
    CASE WHEN lower(subject_ref) ~ $4 THEN 'subject_ref' END], NULL) AS places
FROM notifications
WHERE tenant_id = $1 AND id > coalesce(nullif($2, ''), '00000000-0000-0000-0000-000000000000')::uuid
ORDER BY id LIMIT $3;

-- name: remove
DELETE FROM notifications WHERE tenant_id = $1 AND id = ANY ($2::text[]::uuid[]);

-- name: scan_events
SELECT id::text AS key, array_remove(ARRAY[
    CASE WHEN lower(description) ~ $4 THEN 'description' END,
    CASE WHEN lower(details::text) ~ $4 THEN 'details' END,
    CASE WHEN lower(dedupe_key) ~ $4 THEN 'dedupe_key' END,
    CASE WHEN lower(resolved_by) ~ $4 THEN 'resolved_by' END,
    CASE WHEN lower(resolution) ~ $4 THEN 'resolution' END], NULL) AS places
FROM admin_system_events
WHERE tenant_id = $1 AND id > coalesce(nullif($2, ''), '00000000-0000-0000-0000-000000000000')::uuid
ORDER BY id LIMIT $3;

-- name: empty_events
-- What happened stays on record; whom it was about does not.
UPDATE admin_system_events
SET description = 'Erased.', details = '{}', dedupe_key = '', resolved_by = '', resolution = ''
WHERE tenant_id = $1 AND id = ANY ($2::text[]::uuid[]);

-- name: export
SELECT id::text AS key, CASE WHEN lower(title || ' ' || message || ' ' || type || ' ' || subject_ref) ~ $4
    THEN (to_jsonb(n) - 'feed_xid')::text END AS record
FROM notifications AS n
WHERE tenant_id = $1 AND id > coalesce(nullif($2, ''), '00000000-0000-0000-0000-000000000000')::uuid
ORDER BY id LIMIT $3;
