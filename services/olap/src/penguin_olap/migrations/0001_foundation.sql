-- include: penguin_chassis.sql/chassis_v1.sql

-- One row per (tenant, day) that was ever loaded: loads of the same day take turns on it, and an older count stops at it.
CREATE TABLE day_loads (
    tenant_id uuid NOT NULL,
    day date NOT NULL,
    computed_at timestamptz NOT NULL,
    -- Of what the load said: the same count loaded twice is no stale load.
    digest bytea NOT NULL,
    cells integer NOT NULL CHECK (cells >= 0),
    loaded_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, day)
) WITH (fillfactor = 80);
SELECT adopt_tenant_table('day_loads');

CREATE TABLE watermarks (
    tenant_id uuid NOT NULL,
    source text NOT NULL CHECK (length(source) BETWEEN 1 AND 100),
    cursor text NOT NULL CHECK (length(cursor) <= 200),
    data_through timestamptz NOT NULL,
    committed_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, source)
) WITH (fillfactor = 80);
SELECT adopt_tenant_table('watermarks');

-- Facts are kept apart by what they are asked for, so that each report reads one narrow table. The nil UUID stands for
-- "none". A month without a partition of its own falls to the default one, until open_month moves it out.
CREATE TABLE campaign_analytics (
    tenant_id uuid NOT NULL,
    day date NOT NULL,
    campaign_id uuid NOT NULL,
    sent bigint NOT NULL CHECK (sent >= 0),
    delivered bigint NOT NULL CHECK (delivered >= 0),
    opened bigint NOT NULL CHECK (opened >= 0),
    opened_machine bigint NOT NULL CHECK (opened_machine >= 0),
    clicked bigint NOT NULL CHECK (clicked >= 0),
    replied bigint NOT NULL CHECK (replied >= 0),
    bounced bigint NOT NULL CHECK (bounced >= 0),
    unsubscribed bigint NOT NULL CHECK (unsubscribed >= 0),
    spam_complaints bigint NOT NULL CHECK (spam_complaints >= 0),
    failed bigint NOT NULL CHECK (failed >= 0),
    outcome_unknown bigint NOT NULL CHECK (outcome_unknown >= 0),
    computed_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, day, campaign_id)
) PARTITION BY RANGE (day);
CREATE TABLE campaign_analytics_default PARTITION OF campaign_analytics DEFAULT;
CREATE INDEX campaign_analytics_subject ON campaign_analytics (tenant_id, campaign_id, day);
SELECT adopt_tenant_table('campaign_analytics'), protect_tenant_table('campaign_analytics_default');

CREATE TABLE sequence_step_analytics (
    tenant_id uuid NOT NULL,
    day date NOT NULL,
    campaign_id uuid NOT NULL,
    step_id uuid NOT NULL,
    sent bigint NOT NULL CHECK (sent >= 0),
    delivered bigint NOT NULL CHECK (delivered >= 0),
    opened bigint NOT NULL CHECK (opened >= 0),
    opened_machine bigint NOT NULL CHECK (opened_machine >= 0),
    clicked bigint NOT NULL CHECK (clicked >= 0),
    replied bigint NOT NULL CHECK (replied >= 0),
    bounced bigint NOT NULL CHECK (bounced >= 0),
    unsubscribed bigint NOT NULL CHECK (unsubscribed >= 0),
    spam_complaints bigint NOT NULL CHECK (spam_complaints >= 0),
    failed bigint NOT NULL CHECK (failed >= 0),
    outcome_unknown bigint NOT NULL CHECK (outcome_unknown >= 0),
    computed_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, day, campaign_id, step_id)
) PARTITION BY RANGE (day);
CREATE TABLE sequence_step_analytics_default PARTITION OF sequence_step_analytics DEFAULT;
CREATE INDEX sequence_step_analytics_subject ON sequence_step_analytics (tenant_id, campaign_id, day, step_id);
SELECT adopt_tenant_table('sequence_step_analytics'), protect_tenant_table('sequence_step_analytics_default');

CREATE TABLE mailbox_analytics (
    tenant_id uuid NOT NULL,
    day date NOT NULL,
    email_account_id uuid NOT NULL,
    sent bigint NOT NULL CHECK (sent >= 0),
    delivered bigint NOT NULL CHECK (delivered >= 0),
    opened bigint NOT NULL CHECK (opened >= 0),
    opened_machine bigint NOT NULL CHECK (opened_machine >= 0),
    clicked bigint NOT NULL CHECK (clicked >= 0),
    replied bigint NOT NULL CHECK (replied >= 0),
    bounced bigint NOT NULL CHECK (bounced >= 0),
    unsubscribed bigint NOT NULL CHECK (unsubscribed >= 0),
    spam_complaints bigint NOT NULL CHECK (spam_complaints >= 0),
    failed bigint NOT NULL CHECK (failed >= 0),
    outcome_unknown bigint NOT NULL CHECK (outcome_unknown >= 0),
    computed_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, day, email_account_id)
) PARTITION BY RANGE (day);
CREATE TABLE mailbox_analytics_default PARTITION OF mailbox_analytics DEFAULT;
CREATE INDEX mailbox_analytics_subject ON mailbox_analytics (tenant_id, email_account_id, day);
SELECT adopt_tenant_table('mailbox_analytics'), protect_tenant_table('mailbox_analytics_default');

CREATE TABLE billing_analytics (
    tenant_id uuid NOT NULL,
    day date NOT NULL,
    emails_sent bigint NOT NULL CHECK (emails_sent >= 0),
    emails_delivered bigint NOT NULL CHECK (emails_delivered >= 0),
    emails_bounced bigint NOT NULL CHECK (emails_bounced >= 0),
    content_bytes bigint NOT NULL CHECK (content_bytes >= 0),
    -- At the price of the time it was loaded: a new price changes no bill of old.
    estimated_cost_usd_micros bigint NOT NULL CHECK (estimated_cost_usd_micros >= 0),
    computed_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, day)
) PARTITION BY RANGE (day);
CREATE TABLE billing_analytics_default PARTITION OF billing_analytics DEFAULT;
SELECT adopt_tenant_table('billing_analytics'), protect_tenant_table('billing_analytics_default');

-- Give a month its partition, and move what had fallen to the default one there: PostgreSQL refuses a partition whose rows
-- stand in the default. Runs as the maintenance role, which alone sees all tenants' rows.
CREATE FUNCTION open_month(parent regclass, month date) RETURNS boolean
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    starts date := date_trunc('month', month::timestamp)::date;
    ends date := (starts + interval '1 month')::date;
    fallen jsonb;
BEGIN
    IF to_regclass(parent::text || '_' || to_char(starts, 'YYYYMM')) IS NOT NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('WITH fallen AS (DELETE FROM %s WHERE day >= $1 AND day < $2 RETURNING *)
                    SELECT jsonb_agg(fallen) FROM fallen', parent) INTO fallen USING starts, ends;
    PERFORM ensure_partitions(parent, 'month', starts, starts);
    IF fallen IS NOT NULL THEN
        EXECUTE format('INSERT INTO %s SELECT * FROM jsonb_populate_recordset(NULL::%s, $1)', parent, parent) USING fallen;
    END IF;
    RETURN true;
END $$;
REVOKE EXECUTE ON FUNCTION open_month FROM PUBLIC, olap_app, olap_readonly;
GRANT EXECUTE ON FUNCTION open_month TO olap_maintenance;

-- From the year before: a backfill usually begins there.
SELECT ensure_partitions(parent, 'month', (current_date - interval '12 months')::date, (current_date + interval '3 months')::date)
FROM unnest(ARRAY['campaign_analytics', 'sequence_step_analytics', 'mailbox_analytics', 'billing_analytics']::regclass[])
    AS parents (parent);
