-- name: open_month
SELECT open_month(parent, $1::date)
FROM unnest(ARRAY['campaign_analytics', 'sequence_step_analytics', 'mailbox_analytics', 'billing_analytics']::regclass[])
    AS parents (parent);
