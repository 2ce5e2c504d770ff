-- name: lock
-- In the order of ids, so that two batches never wait for each other in a ring.
SELECT * FROM emails WHERE tenant_id = $1 AND id = ANY ($2::uuid[]) ORDER BY id FOR UPDATE;

-- name: put_back_at
-- When this life of the database began: with its first migration, or when it was put back to an older state.
SELECT began_at FROM incarnation;

-- name: tenant
SELECT unknown_outcome_policy, status FROM tenants WHERE tenant_id = $1;

-- name: suppressed
-- By address, or because their person was erased.
SELECT address_key FROM suppressions WHERE tenant_id = $1 AND address_key = ANY ($2::text[])
UNION ALL
SELECT * FROM erased_among($1, $2::text[]);

-- name: cancelled_campaigns
SELECT id FROM campaigns WHERE tenant_id = $1 AND id = ANY ($2::uuid[]) AND status = 'cancelled';

-- name: move
-- The ids stand twice: as a list they lead through the primary key whatever the planner knows of the table; joined alone,
-- a table not yet analysed would be read whole.
UPDATE emails AS e
SET status = m.status, attempt = m.attempt, version = m.version, sending_at = m.sending_at, sent_at = m.sent_at,
    finished_at = m.finished_at
FROM unnest($2::uuid[], $3::text[], $4::integer[], $5::integer[], $6::timestamptz[], $7::timestamptz[],
            $8::timestamptz[])
    AS m (id, status, attempt, version, sending_at, sent_at, finished_at)
WHERE e.tenant_id = $1 AND e.id = ANY ($2::uuid[]) AND e.id = m.id;

-- name: in_doubt
-- What somebody has settled has a note, and is in doubt no more.
SELECT DISTINCT a.email_id FROM email_attempts AS a
JOIN unnest($2::uuid[], $3::integer[]) AS e (id, before) ON e.id = a.email_id AND a.attempt < e.before
WHERE a.tenant_id = $1 AND a.email_id = ANY ($2::uuid[]) AND a.outcome = 'unknown' AND a.note = '';

-- name: begun_since
SELECT DISTINCT email_id FROM email_attempts
WHERE tenant_id = $1 AND email_id = ANY ($2::uuid[]) AND started_at >= $3;

-- name: begin
INSERT INTO email_attempts (tenant_id, email_id, attempt, started_at)
SELECT $1, email_id, attempt, started_at
FROM unnest($2::uuid[], $3::integer[], $4::timestamptz[]) AS a (email_id, attempt, started_at)
ON CONFLICT DO NOTHING;

-- name: finish
-- A first word on an attempt stands, except that evidence replaces "unknown".
UPDATE email_attempts AS a
SET outcome = o.outcome, finished_at = o.finished_at, smtp_code = o.smtp_code, enhanced_status = o.enhanced_status,
    note = CASE WHEN o.note = '' THEN a.note ELSE o.note END
FROM unnest($2::uuid[], $3::integer[], $4::text[], $5::timestamptz[], $6::integer[], $7::text[], $8::text[])
    AS o (email_id, attempt, outcome, finished_at, smtp_code, enhanced_status, note)
WHERE a.tenant_id = $1 AND a.email_id = ANY ($2::uuid[]) AND a.email_id = o.email_id AND a.attempt = o.attempt
  AND (a.outcome IS NULL OR a.outcome = 'unknown');
