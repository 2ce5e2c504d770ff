-- name: data_through
SELECT data_through FROM watermarks WHERE tenant_id = $1 AND source = $2;

-- name: campaign
-- Days and steps in one statement, so that both are of one moment.
SELECT day, NULL::uuid AS step_id, sent, delivered, opened, opened_machine, clicked, replied, bounced,
    unsubscribed, spam_complaints, failed, outcome_unknown, computed_at
FROM campaign_analytics
WHERE tenant_id = $1 AND campaign_id = $2 AND day BETWEEN $3 AND $4
UNION ALL
SELECT NULL::date, step_id, sum(sent)::bigint, sum(delivered)::bigint, sum(opened)::bigint,
    sum(opened_machine)::bigint, sum(clicked)::bigint, sum(replied)::bigint, sum(bounced)::bigint,
    sum(unsubscribed)::bigint, sum(spam_complaints)::bigint, sum(failed)::bigint, sum(outcome_unknown)::bigint,
    max(computed_at)
FROM sequence_step_analytics
WHERE tenant_id = $1 AND campaign_id = $2 AND day BETWEEN $3 AND $4 AND step_id <> '00000000-0000-0000-0000-000000000000'
GROUP BY step_id
ORDER BY day, step_id;

-- name: campaign_totals
-- Emails outside a campaign stand under the nil UUID, which no page begins before.
SELECT campaign_id, sum(sent)::bigint AS sent, sum(delivered)::bigint AS delivered, sum(opened)::bigint AS opened,
    sum(opened_machine)::bigint AS opened_machine, sum(clicked)::bigint AS clicked,
    sum(replied)::bigint AS replied, sum(bounced)::bigint AS bounced, sum(unsubscribed)::bigint AS unsubscribed,
    sum(spam_complaints)::bigint AS spam_complaints, sum(failed)::bigint AS failed,
    sum(outcome_unknown)::bigint AS outcome_unknown, max(computed_at) AS computed_at
FROM campaign_analytics
WHERE tenant_id = $1 AND campaign_id > $2 AND day BETWEEN $3 AND $4
GROUP BY campaign_id ORDER BY campaign_id LIMIT $5;

-- name: mailbox
SELECT day, sent, delivered, opened, opened_machine, clicked, replied, bounced, unsubscribed, spam_complaints,
    failed, outcome_unknown, computed_at
FROM mailbox_analytics
WHERE tenant_id = $1 AND email_account_id = $2 AND day BETWEEN $3 AND $4
ORDER BY day;

-- name: billing
SELECT day, emails_sent, emails_delivered, emails_bounced, content_bytes, estimated_cost_usd_micros, computed_at
FROM billing_analytics
WHERE tenant_id = $1 AND day BETWEEN $2 AND $3
ORDER BY day;
