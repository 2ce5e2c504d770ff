-- The per-recipient ledger: one row per email, its attempts, and what happened to it.
CREATE TABLE emails (
    -- No foreign key: tenants are never deleted, and its check would lock one row for every email of a tenant at once.
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    recipient text NOT NULL,
    recipient_key text NOT NULL GENERATED ALWAYS AS (lower(recipient)) STORED,
    recipient_name text NOT NULL,
    sender text NOT NULL,
    sender_name text NOT NULL,
    subject text NOT NULL,
    status text NOT NULL CHECK (status IN (
        'queued', 'sending', 'sent', 'failed', 'outcome_unknown', 'suppressed', 'cancelled')),
    priority text NOT NULL CHECK (priority IN ('high', 'normal', 'low')),
    content_storage_key text NOT NULL CHECK (length(content_storage_key) BETWEEN 1 AND 500),
    content_generation bigint NOT NULL,
    campaign_id uuid,
    step_id uuid,
    lead_id uuid,
    email_account_id uuid,
    -- Fixed at creation: every attempt, and every re-send, carries the same.
    message_id text NOT NULL,
    attempt integer NOT NULL DEFAULT 0,
    version integer NOT NULL DEFAULT 1,
    send_at timestamptz,
    queued_at timestamptz NOT NULL,
    sending_at timestamptz,
    sent_at timestamptz,
    finished_at timestamptz,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, campaign_id) REFERENCES campaigns,
    FOREIGN KEY (tenant_id, step_id) REFERENCES campaign_sequence_steps,
    FOREIGN KEY (tenant_id, lead_id) REFERENCES leads,
    FOREIGN KEY (tenant_id, email_account_id) REFERENCES email_accounts
) WITH (fillfactor = 85);
-- A lead gets each step of a campaign once, whatever is launched twice.
CREATE UNIQUE INDEX emails_step_lead ON emails (tenant_id, lead_id, step_id) WHERE lead_id IS NOT NULL;
CREATE UNIQUE INDEX emails_content ON emails (tenant_id, content_storage_key);
CREATE INDEX emails_campaign ON emails (tenant_id, campaign_id, status) WHERE campaign_id IS NOT NULL;
CREATE INDEX emails_recipient ON emails (tenant_id, recipient_key, id);
-- What a mailbox has sent today.
CREATE INDEX emails_mailbox ON emails (tenant_id, email_account_id, sent_at) WHERE sent_at IS NOT NULL;
-- Few are ever in these states, and those are the ones looked for.
CREATE INDEX emails_open ON emails (tenant_id, status, id) WHERE status IN ('sending', 'outcome_unknown', 'failed');
SELECT adopt_tenant_table('emails');

CREATE TABLE email_attempts (
    tenant_id uuid NOT NULL,
    email_id uuid NOT NULL,
    attempt integer NOT NULL,
    started_at timestamptz NOT NULL,
    finished_at timestamptz,
    outcome text CHECK (outcome IN ('sent', 'deferred', 'rejected', 'unknown')),
    smtp_code integer NOT NULL DEFAULT 0,
    enhanced_status text NOT NULL DEFAULT '',
    -- Who settled an unknown outcome, and why.
    note text NOT NULL DEFAULT '',
    PRIMARY KEY (tenant_id, email_id, attempt),
    FOREIGN KEY (tenant_id, email_id) REFERENCES emails ON DELETE CASCADE
);
SELECT adopt_tenant_table('email_attempts');

-- Per email and kind of event: how often, first and last. Also the ledger's own marks (sent, failed, outcome_unknown), so
-- that a day's counts are read from one place.
CREATE TABLE email_event_tallies (
    tenant_id uuid NOT NULL,
    email_id uuid NOT NULL,
    kind text NOT NULL CHECK (kind IN (
        'sent', 'failed', 'outcome_unknown', 'delivered', 'opened', 'opened_machine', 'clicked', 'replied', 'bounced',
        'unsubscribed', 'complained')),
    -- 0: taken back (an unknown outcome that was settled).
    count integer NOT NULL CHECK (count >= 0),
    -- The day an email counts on, for good: a later arrival of an earlier event does not move it.
    first_at timestamptz NOT NULL,
    last_at timestamptz NOT NULL,
    -- The transaction that wrote it last; readers stop below the oldest one still open, so no change is skipped.
    changed_xid bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint,
    PRIMARY KEY (tenant_id, email_id, kind),
    FOREIGN KEY (tenant_id, email_id) REFERENCES emails ON DELETE CASCADE
) WITH (fillfactor = 85);
CREATE INDEX email_event_tallies_day ON email_event_tallies (tenant_id, first_at);
CREATE INDEX email_event_tallies_changed ON email_event_tallies (tenant_id, changed_xid);
SELECT adopt_tenant_table('email_event_tallies');

-- The ids needed to refuse a repeated event, by the day the event happened; a repeat names the same day.
CREATE TABLE email_event_ids (
    tenant_id uuid NOT NULL,
    email_id uuid NOT NULL,
    kind text NOT NULL,
    provider_event_id text NOT NULL,
    occurred_on date NOT NULL,
    PRIMARY KEY (tenant_id, email_id, kind, provider_event_id, occurred_on)
) PARTITION BY RANGE (occurred_on);
CREATE TABLE email_event_ids_default PARTITION OF email_event_ids DEFAULT;
SELECT adopt_tenant_table('email_event_ids'), protect_tenant_table('email_event_ids_default');
SELECT ensure_partitions('email_event_ids', 'day', current_date - 1, current_date + 7);

CREATE TABLE inbox_message_refs (
    tenant_id uuid NOT NULL REFERENCES tenants,
    id uuid NOT NULL,
    mailbox text NOT NULL,
    mailbox_key text NOT NULL GENERATED ALWAYS AS (lower(mailbox)) STORED,
    direction text NOT NULL CHECK (direction IN ('inbound', 'outbound')),
    message_id text NOT NULL,
    in_reply_to text NOT NULL,
    thread_id text NOT NULL,
    sender text NOT NULL,
    subject text NOT NULL,
    sent_at timestamptz,
    received_at timestamptz NOT NULL,
    content_storage_key text NOT NULL CHECK (length(content_storage_key) BETWEEN 1 AND 500),
    content_generation bigint NOT NULL,
    fingerprint text NOT NULL,
    defects text[] NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
CREATE UNIQUE INDEX inbox_message_refs_fingerprint ON inbox_message_refs (tenant_id, mailbox_key, fingerprint);
CREATE UNIQUE INDEX inbox_message_refs_content ON inbox_message_refs (tenant_id, content_storage_key);
CREATE INDEX inbox_message_refs_mailbox ON inbox_message_refs (tenant_id, mailbox_key, id);
-- A thread's root may be a long line of somebody else's; a hash keeps the index narrow.
CREATE INDEX inbox_message_refs_thread ON inbox_message_refs (tenant_id, md5(thread_id), id);
SELECT adopt_tenant_table('inbox_message_refs');
