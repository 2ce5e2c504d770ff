-- include: penguin_chassis.sql/chassis_v1.sql

CREATE TABLE tenants (
    tenant_id uuid PRIMARY KEY,
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    status text NOT NULL CHECK (status IN ('active', 'closed')),
    unknown_outcome_policy text NOT NULL CHECK (unknown_outcome_policy IN ('hold', 'resend')),
    version integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);
SELECT adopt_tenant_table('tenants');

CREATE TABLE users (
    tenant_id uuid NOT NULL REFERENCES tenants,
    id uuid NOT NULL,
    email text NOT NULL,
    display_name text NOT NULL,
    version integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
CREATE UNIQUE INDEX users_email ON users (tenant_id, lower(email));
SELECT adopt_tenant_table('users');

CREATE TABLE tenant_users (
    tenant_id uuid NOT NULL,
    user_id uuid NOT NULL,
    roles text[] NOT NULL,
    PRIMARY KEY (tenant_id, user_id),
    FOREIGN KEY (tenant_id, user_id) REFERENCES users ON DELETE CASCADE
);
SELECT adopt_tenant_table('tenant_users');

CREATE TABLE companies (
    tenant_id uuid NOT NULL REFERENCES tenants,
    id uuid NOT NULL,
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    website text NOT NULL,
    version integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
SELECT adopt_tenant_table('companies');

CREATE TABLE domains (
    tenant_id uuid NOT NULL REFERENCES tenants,
    id uuid NOT NULL,
    domain text NOT NULL CHECK (length(domain) BETWEEN 1 AND 253),
    verification_status text NOT NULL CHECK (verification_status IN ('pending', 'verified', 'failed')),
    dns_records jsonb NOT NULL,
    is_primary boolean NOT NULL,
    company_id uuid,
    version integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, company_id) REFERENCES companies
);
CREATE UNIQUE INDEX domains_name ON domains (tenant_id, lower(domain));
SELECT adopt_tenant_table('domains');

CREATE TABLE email_accounts (
    tenant_id uuid NOT NULL REFERENCES tenants,
    id uuid NOT NULL,
    email text NOT NULL,
    display_name text NOT NULL,
    provider text NOT NULL,
    status text NOT NULL CHECK (status IN ('active', 'warming', 'paused', 'disabled')),
    -- Where the vault keeps the secret; the secret itself is never here.
    vault_key_path text NOT NULL,
    smtp jsonb NOT NULL,
    imap jsonb NOT NULL,
    daily_limit integer NOT NULL CHECK (daily_limit >= 0),
    last_warmed_at timestamptz,
    domain_id uuid,
    version integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, domain_id) REFERENCES domains
);
CREATE UNIQUE INDEX email_accounts_email ON email_accounts (tenant_id, lower(email));
SELECT adopt_tenant_table('email_accounts');

CREATE TABLE leads (
    tenant_id uuid NOT NULL REFERENCES tenants,
    id uuid NOT NULL,
    email text NOT NULL,
    -- What addresses are compared by. A column, since lower() is not leakproof: under row-level security an index on the
    -- expression would never be used.
    email_key text NOT NULL GENERATED ALWAYS AS (lower(email)) STORED,
    first_name text NOT NULL,
    last_name text NOT NULL,
    company text NOT NULL,
    list text NOT NULL,
    custom_fields jsonb NOT NULL,
    status text NOT NULL CHECK (status IN ('active', 'replied', 'bounced', 'unsubscribed')),
    version integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
-- One person stands once in each audience.
CREATE UNIQUE INDEX leads_list_email ON leads (tenant_id, list, email_key);
CREATE INDEX leads_list ON leads (tenant_id, list, id);
CREATE INDEX leads_email ON leads (tenant_id, email_key, id);
SELECT adopt_tenant_table('leads');

CREATE TABLE templates (
    tenant_id uuid NOT NULL REFERENCES tenants,
    id uuid NOT NULL,
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    subject text NOT NULL,
    content_storage_key text NOT NULL CHECK (length(content_storage_key) BETWEEN 1 AND 500),
    content_generation bigint NOT NULL,
    version integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
CREATE UNIQUE INDEX templates_content ON templates (tenant_id, content_storage_key);
SELECT adopt_tenant_table('templates');

CREATE TABLE campaigns (
    tenant_id uuid NOT NULL REFERENCES tenants,
    id uuid NOT NULL,
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    audience_list text NOT NULL CHECK (length(audience_list) BETWEEN 1 AND 100),
    company_id uuid,
    status text NOT NULL CHECK (status IN ('draft', 'running', 'paused', 'completed', 'cancelled')),
    launched_at timestamptz,
    -- Every recipient's email stands in the ledger: from here on it can complete.
    sealed_at timestamptz,
    completed_at timestamptz,
    version integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, company_id) REFERENCES companies
);
CREATE INDEX campaigns_status ON campaigns (tenant_id, status, id);
SELECT adopt_tenant_table('campaigns');

CREATE TABLE campaign_sequence_steps (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    campaign_id uuid NOT NULL,
    step_order integer NOT NULL CHECK (step_order BETWEEN 1 AND 100),
    step_type text NOT NULL CHECK (step_type IN ('email', 'wait')),
    email_account_id uuid,
    template_id uuid,
    subject_override text NOT NULL,
    wait_duration_hours integer NOT NULL CHECK (wait_duration_hours BETWEEN 0 AND 8760),
    wait_until timestamptz,
    condition_type text NOT NULL CHECK (condition_type IN ('always', 'not_replied', 'opened', 'clicked')),
    condition_value text NOT NULL,
    is_active boolean NOT NULL,
    version integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, campaign_id) REFERENCES campaigns,
    FOREIGN KEY (tenant_id, email_account_id) REFERENCES email_accounts,
    FOREIGN KEY (tenant_id, template_id) REFERENCES templates
);
CREATE UNIQUE INDEX campaign_sequence_steps_order ON campaign_sequence_steps (tenant_id, campaign_id, step_order);
SELECT adopt_tenant_table('campaign_sequence_steps');

CREATE TABLE suppressions (
    tenant_id uuid NOT NULL REFERENCES tenants,
    id uuid NOT NULL,
    address text NOT NULL,
    address_key text NOT NULL GENERATED ALWAYS AS (lower(address)) STORED,
    reason text NOT NULL CHECK (reason IN ('manual', 'unsubscribed', 'bounced', 'complained')),
    version integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
CREATE UNIQUE INDEX suppressions_address ON suppressions (tenant_id, address_key);
SELECT adopt_tenant_table('suppressions');
