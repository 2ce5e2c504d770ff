-- name: add
-- first_at stays what it was: the day an email counts on does not move.
INSERT INTO email_event_tallies AS t (tenant_id, email_id, kind, count, first_at, last_at)
SELECT $1, email_id, kind, count, first_at, last_at
FROM unnest($2::uuid[], $3::text[], $4::integer[], $5::timestamptz[], $6::timestamptz[])
    AS n (email_id, kind, count, first_at, last_at)
ORDER BY email_id, kind
ON CONFLICT (tenant_id, email_id, kind) DO UPDATE
SET count = t.count + excluded.count, last_at = GREATEST(t.last_at, excluded.last_at),
    changed_xid = pg_current_xact_id()::text::bigint;

-- name: take_back
UPDATE email_event_tallies SET count = 0, changed_xid = pg_current_xact_id()::text::bigint
WHERE tenant_id = $1 AND email_id = ANY ($2::uuid[]) AND (email_id, kind) IN (SELECT * FROM unnest($2::uuid[], $3::text[])) AND count > 0;
