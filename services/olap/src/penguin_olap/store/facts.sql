-- name: take_turn
-- Nothing comes back for a count that is not newer than the stored one; concurrent loads of the day wait here.
INSERT INTO day_loads AS d (tenant_id, day, computed_at, digest, cells, loaded_at)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (tenant_id, day) DO UPDATE
SET computed_at = excluded.computed_at, digest = excluded.digest, cells = excluded.cells, loaded_at = excluded.loaded_at
WHERE d.computed_at < excluded.computed_at
RETURNING day;

-- name: stored_load
SELECT computed_at, digest, cells FROM day_loads WHERE tenant_id = $1 AND day = $2;

-- name: put_campaigns
INSERT INTO campaign_analytics (
    tenant_id, day, campaign_id, sent, delivered, opened, opened_machine, clicked, replied, bounced, unsubscribed,
    spam_complaints, failed, outcome_unknown, computed_at)
SELECT $1, $2, campaign_id, sent, delivered, opened, opened_machine, clicked, replied, bounced, unsubscribed,
    spam_complaints, failed, outcome_unknown, $3
FROM unnest(
    $4::uuid[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[],
    $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[])
    AS c (campaign_id, sent, delivered, opened, opened_machine, clicked, replied, bounced, unsubscribed,
    spam_complaints, failed, outcome_unknown)
ORDER BY campaign_id
ON CONFLICT (tenant_id, day, campaign_id) DO UPDATE
SET sent = excluded.sent, delivered = excluded.delivered, opened = excluded.opened,
    opened_machine = excluded.opened_machine, clicked = excluded.clicked, replied = excluded.replied,
    bounced = excluded.bounced, unsubscribed = excluded.unsubscribed, spam_complaints = excluded.spam_complaints,
    failed = excluded.failed, outcome_unknown = excluded.outcome_unknown, computed_at = excluded.computed_at;

-- name: put_steps
INSERT INTO sequence_step_analytics (
    tenant_id, day, campaign_id, step_id, sent, delivered, opened, opened_machine, clicked, replied, bounced,
    unsubscribed, spam_complaints, failed, outcome_unknown, computed_at)
SELECT $1, $2, campaign_id, step_id, sent, delivered, opened, opened_machine, clicked, replied, bounced,
    unsubscribed, spam_complaints, failed, outcome_unknown, $3
FROM unnest(
    $4::uuid[], $5::uuid[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[],
    $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[], $16::bigint[])
    AS c (campaign_id, step_id, sent, delivered, opened, opened_machine, clicked, replied, bounced, unsubscribed,
    spam_complaints, failed, outcome_unknown)
ORDER BY campaign_id, step_id
ON CONFLICT (tenant_id, day, campaign_id, step_id) DO UPDATE
SET sent = excluded.sent, delivered = excluded.delivered, opened = excluded.opened,
    opened_machine = excluded.opened_machine, clicked = excluded.clicked, replied = excluded.replied,
    bounced = excluded.bounced, unsubscribed = excluded.unsubscribed, spam_complaints = excluded.spam_complaints,
    failed = excluded.failed, outcome_unknown = excluded.outcome_unknown, computed_at = excluded.computed_at;

-- name: put_mailboxes
INSERT INTO mailbox_analytics (
    tenant_id, day, email_account_id, sent, delivered, opened, opened_machine, clicked, replied, bounced,
    unsubscribed, spam_complaints, failed, outcome_unknown, computed_at)
SELECT $1, $2, email_account_id, sent, delivered, opened, opened_machine, clicked, replied, bounced, unsubscribed,
    spam_complaints, failed, outcome_unknown, $3
FROM unnest(
    $4::uuid[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[],
    $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[])
    AS c (email_account_id, sent, delivered, opened, opened_machine, clicked, replied, bounced, unsubscribed,
    spam_complaints, failed, outcome_unknown)
ORDER BY email_account_id
ON CONFLICT (tenant_id, day, email_account_id) DO UPDATE
SET sent = excluded.sent, delivered = excluded.delivered, opened = excluded.opened,
    opened_machine = excluded.opened_machine, clicked = excluded.clicked, replied = excluded.replied,
    bounced = excluded.bounced, unsubscribed = excluded.unsubscribed, spam_complaints = excluded.spam_complaints,
    failed = excluded.failed, outcome_unknown = excluded.outcome_unknown, computed_at = excluded.computed_at;

-- name: put_billing
INSERT INTO billing_analytics (
    tenant_id, day, computed_at, emails_sent, emails_delivered, emails_bounced, content_bytes, estimated_cost_usd_micros)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (tenant_id, day) DO UPDATE
SET emails_sent = excluded.emails_sent, emails_delivered = excluded.emails_delivered,
    emails_bounced = excluded.emails_bounced, content_bytes = excluded.content_bytes,
    estimated_cost_usd_micros = excluded.estimated_cost_usd_micros, computed_at = excluded.computed_at;

-- name: sweep
-- What the newer count no longer has.
WITH campaigns AS (DELETE FROM campaign_analytics WHERE tenant_id = $1 AND day = $2 AND computed_at < $3),
     steps AS (DELETE FROM sequence_step_analytics WHERE tenant_id = $1 AND day = $2 AND computed_at < $3)
DELETE FROM mailbox_analytics WHERE tenant_id = $1 AND day = $2 AND computed_at < $3;

-- name: commit_watermark
-- Nothing comes back for one that lies before the stored one.
INSERT INTO watermarks AS w (tenant_id, source, cursor, data_through, committed_at)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (tenant_id, source) DO UPDATE
SET cursor = excluded.cursor, data_through = excluded.data_through, committed_at = excluded.committed_at
WHERE w.data_through <= excluded.data_through
RETURNING source, cursor, data_through, committed_at;

-- name: watermark
SELECT source, cursor, data_through, committed_at FROM watermarks WHERE tenant_id = $1 AND source = $2;

-- name: day_facts
-- After ($3: a table by number, -1 at first; $4 and $5: its ids). Each part is read by its primary key, and no further than the page.
WITH campaigns AS (
    SELECT 0 AS n, campaign_id AS id, '00000000-0000-0000-0000-000000000000'::uuid AS step_id, sent, delivered, opened,
        opened_machine, clicked, replied, bounced, unsubscribed, spam_complaints, failed, outcome_unknown
    FROM campaign_analytics
    WHERE tenant_id = $1 AND day = $2 AND ($3::integer < 0 OR $3::integer = 0 AND campaign_id > $4::uuid)
    ORDER BY campaign_id LIMIT $6
), steps AS (
    SELECT 1 AS n, campaign_id AS id, step_id, sent, delivered, opened, opened_machine, clicked, replied, bounced,
        unsubscribed, spam_complaints, failed, outcome_unknown
    FROM sequence_step_analytics
    WHERE tenant_id = $1 AND day = $2 AND ($3::integer < 1 OR $3::integer = 1 AND (campaign_id, step_id) > ($4, $5::uuid))
    ORDER BY campaign_id, step_id LIMIT $6
), mailboxes AS (
    SELECT 2 AS n, email_account_id AS id, '00000000-0000-0000-0000-000000000000'::uuid AS step_id, sent, delivered,
        opened, opened_machine, clicked, replied, bounced, unsubscribed, spam_complaints, failed, outcome_unknown
    FROM mailbox_analytics
    WHERE tenant_id = $1 AND day = $2 AND ($3::integer < 2 OR email_account_id > $4)
    ORDER BY email_account_id LIMIT $6
)
SELECT * FROM (TABLE campaigns UNION ALL TABLE steps UNION ALL TABLE mailboxes) AS found ORDER BY n, id, step_id LIMIT $6;
