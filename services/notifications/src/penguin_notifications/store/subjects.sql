-- name: scan
SELECT id::text AS key, array_remove(ARRAY[
    CASE WHEN position($4 IN lower(title)) > 0 THEN 'title' END,
    CASE WHEN position($4 IN lower(message)) > 0 THEN 'message' END,
    CASE WHEN position($4 IN lower(type)) > 0 THEN 'type' END,
    CASE WHEN position($4 IN lower(subject_ref)) > 0 THEN 'subject_ref' END], NULL) AS places
FROM notifications
WHERE tenant_id = $1 AND id > coalesce(nullif($2, ''), '00000000-0000-0000-0000-000000000000')::uuid
ORDER BY id LIMIT $3;

-- name: remove
DELETE FROM notifications WHERE tenant_id = $1 AND id = ANY ($2::text[]::uuid[]);

-- name: scan_events
SELECT id::text AS key, array_remove(ARRAY[
    CASE WHEN position($4 IN lower(description)) > 0 THEN 'description' END,
    CASE WHEN position($4 IN lower(details::text)) > 0 THEN 'details' END,
    CASE WHEN position($4 IN lower(dedupe_key)) > 0 THEN 'dedupe_key' END,
    CASE WHEN position($4 IN lower(resolved_by)) > 0 THEN 'resolved_by' END,
    CASE WHEN position($4 IN lower(resolution)) > 0 THEN 'resolution' END], NULL) AS places
FROM admin_system_events
WHERE tenant_id = $1 AND id > coalesce(nullif($2, ''), '00000000-0000-0000-0000-000000000000')::uuid
ORDER BY id LIMIT $3;

-- name: empty_events
-- What happened stays on record; whom it was about does not.
UPDATE admin_system_events
SET description = 'Erased.', details = '{}', dedupe_key = '', resolved_by = '', resolution = ''
WHERE tenant_id = $1 AND id = ANY ($2::text[]::uuid[]);

-- name: export
SELECT id::text AS key, CASE WHEN position($4 IN lower(title || ' ' || message || ' ' || type || ' ' || subject_ref)) > 0
    THEN (to_jsonb(n) - 'feed_xid')::text END AS record
FROM notifications AS n
WHERE tenant_id = $1 AND id > coalesce(nullif($2, ''), '00000000-0000-0000-0000-000000000000')::uuid
ORDER BY id LIMIT $3;
