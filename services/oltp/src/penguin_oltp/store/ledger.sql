-- name: horizon
SELECT pg_snapshot_xmin(s)::text::bigint AS oldest_open, pg_snapshot_xmax(s)::text::bigint AS above_ended
FROM pg_current_snapshot() AS s;

-- name: changed_days
SELECT DISTINCT (first_at AT TIME ZONE 'UTC')::date AS day FROM email_event_tallies
WHERE tenant_id = $1 AND changed_xid >= $2 AND changed_xid < $3
ORDER BY day;

-- name: count_day
-- One probe per tally, by LATERAL with LIMIT: joined freely, tables not yet analysed may be read whole for each.
SELECT e.campaign_id, e.step_id, e.email_account_id, t.kind, count(*) AS count
FROM email_event_tallies AS t
CROSS JOIN LATERAL (
    SELECT campaign_id, step_id, email_account_id FROM emails WHERE tenant_id = $1 AND id = t.email_id LIMIT 1
) AS e
WHERE t.tenant_id = $1 AND t.first_at >= $2 AND t.first_at < $3 AND t.count > 0
GROUP BY e.campaign_id, e.step_id, e.email_account_id, t.kind
ORDER BY e.campaign_id, e.step_id, e.email_account_id, t.kind;
