-- name: raise_event
-- While an unresolved event has the key, that one is counted up.
INSERT INTO admin_system_events AS e (
    tenant_id, id, event_type, severity, description, details, user_id, dedupe_key, created_at, last_seen_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)
ON CONFLICT (tenant_id, dedupe_key) WHERE NOT is_resolved AND dedupe_key <> '' DO UPDATE
SET occurrences = e.occurrences + 1, last_seen_at = GREATEST(e.last_seen_at, excluded.last_seen_at)
RETURNING tenant_id, id, event_type, severity, description, details, user_id, dedupe_key, occurrences, is_resolved,
    resolved_by, resolution, created_at, last_seen_at, resolved_at;

-- name: get
SELECT tenant_id, id, event_type, severity, description, details, user_id, dedupe_key, occurrences, is_resolved,
    resolved_by, resolution, created_at, last_seen_at, resolved_at
FROM admin_system_events WHERE id = $1 ORDER BY tenant_id LIMIT 1;

-- name: list
SELECT tenant_id, id, event_type, severity, description, details, user_id, dedupe_key, occurrences, is_resolved,
    resolved_by, resolution, created_at, last_seen_at, resolved_at
FROM admin_system_events
WHERE (created_at, id) < ($1, $2) AND severity = ANY ($3::text[]) AND ($4::uuid IS NULL OR tenant_id = $4)
  AND (NOT $5::boolean OR NOT is_resolved)
ORDER BY created_at DESC, id DESC LIMIT $6;

-- name: resolve
-- The first to resolve an event has resolved it.
UPDATE admin_system_events SET is_resolved = true, resolved_by = $2, resolution = $3, resolved_at = $4
WHERE id = $1 AND NOT is_resolved;

-- name: remove_resolved
DELETE FROM admin_system_events WHERE (tenant_id, id) IN (
    SELECT tenant_id, id FROM admin_system_events
    WHERE is_resolved AND severity = $1 AND last_seen_at < $2
      AND tenant_id NOT IN (SELECT tenant_id FROM legal_holds WHERE subject <> '') LIMIT $3);

-- name: remove_oldest
-- While a hold stands its tenant's outlive the longest retention, however old and many; they go with the first round after its
-- release.
DELETE FROM admin_system_events WHERE (tenant_id, id) IN (
    SELECT tenant_id, id FROM admin_system_events
    WHERE last_seen_at < $1 AND tenant_id NOT IN (SELECT tenant_id FROM legal_holds WHERE subject <> '') LIMIT $2);
