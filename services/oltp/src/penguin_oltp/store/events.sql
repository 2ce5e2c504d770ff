-- name: oldest_held_id
-- What is kept by a legal hold: the oldest day of a tenant that has one on a person, and all since.
SELECT min(occurred_on) FROM email_event_ids
WHERE tenant_id IN (SELECT tenant_id FROM legal_holds WHERE subject <> '');

-- name: remember
-- What comes back is new; a repeat names the same day, so it meets its first in the same partition.
INSERT INTO email_event_ids (tenant_id, email_id, kind, provider_event_id, occurred_on)
SELECT $1, email_id, kind, provider_event_id, occurred_on
FROM unnest($2::uuid[], $3::text[], $4::text[], $5::date[]) AS e (email_id, kind, provider_event_id, occurred_on)
ORDER BY email_id, kind, provider_event_id, occurred_on
ON CONFLICT DO NOTHING
RETURNING email_id, kind, provider_event_id, occurred_on;

-- name: suppress
INSERT INTO suppressions (tenant_id, id, address, reason, created_at, updated_at)
SELECT $1, id, address, reason, $5, $5 FROM unnest($2::uuid[], $3::text[], $4::text[]) AS s (id, address, reason)
ORDER BY lower(address)
ON CONFLICT (tenant_id, address_key) DO NOTHING;

-- name: mark_leads
UPDATE leads AS l SET status = m.status, version = l.version + 1, updated_at = $4
FROM unnest($2::uuid[], $3::text[]) AS m (id, status)
WHERE l.tenant_id = $1 AND l.id = ANY ($2::uuid[]) AND l.id = m.id AND l.status <> m.status;
