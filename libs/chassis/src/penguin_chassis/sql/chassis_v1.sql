-- What every tier's database begins with: the tenant policy as one function, the step barrier and the outbox.
-- The migration runner sets penguin.tier to the tier's name; roles are <tier>_app, <tier>_maintenance, <tier>_readonly.

CREATE FUNCTION protect_tenant_table(target regclass) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    tier text := current_setting('penguin.tier');
    -- As a sub-select it is computed once per statement, not once per row. No context: NULL, and so no row.
    mine text := 'tenant_id = (SELECT nullif(current_setting(''app.current_tenant_id'', true), '''')::uuid)';
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', target);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', target);
    EXECUTE format('CREATE POLICY tenant_isolation ON %s TO %I, %I USING (%s) WITH CHECK (%s)',
                   target, tier || '_app', tier || '_readonly', mine, mine);
    EXECUTE format('CREATE POLICY maintenance_duties ON %s TO %I USING (true) WITH CHECK (true)',
                   target, tier || '_maintenance');
END $$;

CREATE FUNCTION grant_tenant_table(target regclass) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    tier text := current_setting('penguin.tier');
BEGIN
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO %I, %I', target, tier || '_app', tier || '_maintenance');
    EXECUTE format('GRANT SELECT ON %s TO %I', target, tier || '_readonly');
END $$;

-- Protect a tenant's table and open it to the tier's roles. Partitions are protected too, and get no grant: they are
-- reached through their parent.
CREATE FUNCTION adopt_tenant_table(target regclass) RETURNS void
LANGUAGE sql AS $$
    SELECT protect_tenant_table(target);
    SELECT grant_tenant_table(target);
$$;

-- One row per mutation that was carried out, committed with it. key is "req:<request_id>" or "saga:<saga_id>:<step>".
CREATE TABLE step_barrier (
    tenant_id uuid NOT NULL,
    key text NOT NULL CHECK (length(key) BETWEEN 1 AND 200),
    operation text NOT NULL CHECK (operation IN ('request', 'action', 'compensation')),
    digest bytea NOT NULL,
    reply bytea,
    -- An action that its compensation has undone, or overtaken: it must not be carried out any more.
    compensated boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, key, operation)
);
CREATE INDEX step_barrier_created ON step_barrier (tenant_id, created_at);
SELECT adopt_tenant_table('step_barrier');

-- What this tier owes to others, committed with the write that owes it. A lease moves available_at forward.
CREATE TABLE outbox (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    destination text NOT NULL CHECK (length(destination) BETWEEN 1 AND 50),
    kind text NOT NULL CHECK (length(kind) BETWEEN 1 AND 50),
    payload bytea NOT NULL,
    traceparent text NOT NULL DEFAULT '',
    attempt integer NOT NULL DEFAULT 0,
    lease_token uuid,
    last_error text NOT NULL DEFAULT '',
    available_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX outbox_due ON outbox (tenant_id, available_at, id);
SELECT adopt_tenant_table('outbox');
