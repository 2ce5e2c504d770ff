-- Keys are read with their generations from the index alone. No index of its own: rows are rewritten at every step of an
-- email, and one more index would cost a sixth of their WAL. So a sum over few generations reads all the tenant's keys.
CREATE UNIQUE INDEX emails_content_new ON emails (tenant_id, content_storage_key) INCLUDE (content_generation);
DROP INDEX emails_content;
ALTER INDEX emails_content_new RENAME TO emails_content;
CREATE UNIQUE INDEX inbox_message_refs_content_new ON inbox_message_refs (tenant_id, content_storage_key)
    INCLUDE (content_generation);
DROP INDEX inbox_message_refs_content;
ALTER INDEX inbox_message_refs_content_new RENAME TO inbox_message_refs_content;

-- Where this tier holds storage keys: what KeyService reads. As its caller, so that policies hold.
CREATE VIEW storage_keys WITH (security_invoker = true) AS
    SELECT tenant_id, 'emails'::text AS source, content_generation AS generation, content_storage_key AS storage_key
    FROM emails
    UNION ALL
    SELECT tenant_id, 'templates'::text, content_generation, content_storage_key FROM templates
    UNION ALL
    SELECT tenant_id, 'inbox_message_refs'::text, content_generation, content_storage_key FROM inbox_message_refs;
GRANT SELECT ON storage_keys TO oltp_app, oltp_maintenance, oltp_readonly;

-- Receipts of reconcile. A run over all tenants is the platform's, whose tenant_id is all zeros.
CREATE TABLE reconcile_runs (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    apply boolean NOT NULL,
    grace_s bigint NOT NULL CHECK (grace_s >= 0),
    cap integer NOT NULL CHECK (cap >= 0),
    status text NOT NULL CHECK (status IN ('running', 'finished', 'refused')),
    -- Who is at it, and until when it is theirs without another word.
    owner uuid NOT NULL,
    leased_until timestamptz NOT NULL,
    started_at timestamptz NOT NULL,
    finished_at timestamptz,
    refused_reason text NOT NULL DEFAULT '',
    counts jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX reconcile_runs_started ON reconcile_runs (started_at);
SELECT adopt_tenant_table('reconcile_runs');

-- How far one part of one tenant has come in a run.
CREATE TABLE reconcile_progress (
    tenant_id uuid NOT NULL,
    run_id uuid NOT NULL,
    part text NOT NULL CHECK (length(part) BETWEEN 1 AND 30),
    to_generation bigint NOT NULL,
    done boolean NOT NULL,
    counts jsonb NOT NULL,
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, run_id, part)
);
CREATE INDEX reconcile_progress_run ON reconcile_progress (run_id);
SELECT adopt_tenant_table('reconcile_progress');

CREATE TABLE reconcile_findings (
    tenant_id uuid NOT NULL,
    run_id uuid NOT NULL,
    kind text NOT NULL CHECK (length(kind) BETWEEN 1 AND 30),
    subject text NOT NULL CHECK (length(subject) BETWEEN 1 AND 500),
    source text NOT NULL,
    action text NOT NULL,
    found_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, run_id, kind, subject)
);
CREATE INDEX reconcile_findings_run ON reconcile_findings (run_id, tenant_id, kind, subject);
SELECT adopt_tenant_table('reconcile_findings');
