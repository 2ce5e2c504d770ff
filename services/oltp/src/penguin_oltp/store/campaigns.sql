-- name: insert
INSERT INTO campaigns (
    tenant_id, id, name, audience_list, company_id, status, launched_at, sealed_at, completed_at, version,
    created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12);

-- name: get
SELECT * FROM campaigns WHERE tenant_id = $1 AND id = $2;

-- name: list
SELECT * FROM campaigns WHERE tenant_id = $1 AND id > $2 ORDER BY id LIMIT $3;

-- name: list_in_status
SELECT * FROM campaigns WHERE tenant_id = $1 AND id > $2 AND status = $4 ORDER BY id LIMIT $3;

-- name: hold
SELECT * FROM campaigns WHERE tenant_id = $1 AND id = $2 FOR NO KEY UPDATE;

-- name: update
-- The whole row.
UPDATE campaigns
SET name = $3, audience_list = $4, company_id = $5, status = $6, launched_at = $7, sealed_at = $8, completed_at = $9,
    version = $10, created_at = $11, updated_at = $12
WHERE tenant_id = $1 AND id = $2;

-- name: delete
DELETE FROM campaigns WHERE tenant_id = $1 AND id = $2;

-- name: take_back
-- Some at a time, and none that is being claimed: it never waits, so its order does not matter. As an array they are
-- picked once, and lead through the primary key; as a sub-select they may be picked again for each row. One that an attempt
-- may have delivered all the same is left to whoever has its job, who is told to hold it.
UPDATE emails SET status = 'cancelled', finished_at = $3, version = version + 1
WHERE tenant_id = $1 AND id = ANY (ARRAY(
    SELECT id FROM emails
    WHERE tenant_id = $1 AND campaign_id = $2 AND status = 'queued'
      AND NOT (attempt > 0 AND EXISTS (
          SELECT FROM email_attempts AS a WHERE a.tenant_id = $1 AND a.email_id = emails.id AND a.outcome = 'unknown'
            AND a.note = ''))
    LIMIT $4 FOR NO KEY UPDATE SKIP LOCKED));

-- name: open_emails
-- Counts no further than the limit: whether any is open is what matters.
SELECT count(*) FROM (
    SELECT FROM emails WHERE tenant_id = $1 AND campaign_id = $2 AND status IN ('queued', 'sending') LIMIT $3
) AS counted;

-- name: pending
-- Looks at a bounded stretch of the audience, so that a page costs the same wherever it begins. LATERAL with LIMIT keeps
-- it to one probe per lead: an anti-join is a hash over every email of the step as soon as the planner thinks so.
-- Where people were erased, each lead's HMAC is computed beside it: in a condition it would keep the index from being used.
WITH stretch AS MATERIALIZED (
    SELECT l.*, CASE WHEN k.tenant_id IS NOT NULL THEN subject_of(k.inner_pad, k.outer_pad, l.email_key) END AS subject
    FROM (SELECT * FROM leads WHERE tenant_id = $1 AND list = $2 AND id > $4 ORDER BY id LIMIT $6) AS l
    LEFT JOIN LATERAL (
        SELECT tenant_id, inner_pad, outer_pad FROM subject_keys WHERE tenant_id = $1 LIMIT 1
    ) AS k ON true
)
SELECT s.* FROM stretch AS s
LEFT JOIN LATERAL (
    SELECT true AS stands FROM emails AS e
    WHERE e.tenant_id = $1 AND e.lead_id = s.id AND e.step_id = $3 LIMIT 1
) AS written ON true
LEFT JOIN LATERAL (
    SELECT true AS stands FROM suppressions AS p WHERE p.tenant_id = $1 AND p.address_key = s.email_key LIMIT 1
) AS barred ON true
LEFT JOIN LATERAL (
    SELECT true AS stands FROM erased_subjects AS x WHERE x.tenant_id = $1 AND x.subject = s.subject LIMIT 1
) AS erased ON true
WHERE s.status = 'active' AND written.stands IS NULL AND barred.stands IS NULL AND erased.stands IS NULL
ORDER BY s.id LIMIT $5;

-- name: stretch_end
-- The last lead of a stretch of $4 + 1; none where the audience ends before.
SELECT id FROM leads WHERE tenant_id = $1 AND list = $2 AND id > $3 ORDER BY id OFFSET $4 LIMIT 1;

-- name: step
SELECT id FROM campaign_sequence_steps WHERE tenant_id = $1 AND campaign_id = $2 AND id = $3;

-- name: count_statuses
SELECT status, count(*) AS count FROM emails WHERE tenant_id = $1 AND campaign_id = $2 GROUP BY status ORDER BY status;

-- name: count_events
-- One probe per email; OFFSET 0 keeps it so.
SELECT t.kind, count(*) AS count
FROM emails AS e
CROSS JOIN LATERAL (
    SELECT kind FROM email_event_tallies
    WHERE tenant_id = $1 AND email_id = e.id AND count > 0 AND kind NOT IN ('sent', 'failed', 'outcome_unknown')
    OFFSET 0
) AS t
WHERE e.tenant_id = $1 AND e.campaign_id = $2
GROUP BY t.kind ORDER BY t.kind;
