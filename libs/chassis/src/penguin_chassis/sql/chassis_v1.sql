-- What every tier's database begins with: the tenant policy as one function, partitions, the step barrier, the outbox.
-- Roles are <tier>_owner (which owns the tables), <tier>_app, <tier>_maintenance and <tier>_readonly.

CREATE FUNCTION tier_of(target regclass) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT regexp_replace(pg_get_userbyid(relowner)::text, '_owner$', '') FROM pg_class WHERE oid = target;
$$;

CREATE FUNCTION protect_tenant_table(target regclass) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    tier text := tier_of(target);
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

-- Protect a tenant's table and open it to the tier's roles. Partitions are protected too, and get no grant: they are
-- reached through their parent.
CREATE FUNCTION adopt_tenant_table(target regclass) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    tier text := tier_of(target);
BEGIN
    PERFORM protect_tenant_table(target);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO %I, %I', target, tier || '_app', tier || '_maintenance');
    EXECUTE format('GRANT SELECT ON %s TO %I', target, tier || '_readonly');
END $$;

-- Create the partitions of `parent` (by range of a date or timestamptz) from `first` to `last`, one per `step` ('day'
-- or 'month'), where they are missing. Runs as the owner, so that the maintenance role can call it.
CREATE FUNCTION ensure_partitions(parent regclass, step text, first date, last date) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    starts date := date_trunc(step, first::timestamp)::date;
    ends date;
    child text;
    made integer := 0;
BEGIN
    IF step NOT IN ('day', 'month') OR last - first > 1000 THEN
        RAISE EXCEPTION 'ensure_partitions: a step of day or month, over at most 1000 days';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('ensure_partitions'), parent::oid::integer);
    WHILE starts <= last LOOP
        ends := (starts + ('1 ' || step)::interval)::date;
        child := parent::text || '_' || to_char(starts, CASE step WHEN 'day' THEN 'YYYYMMDD' ELSE 'YYYYMM' END);
        IF to_regclass(child) IS NULL THEN
            BEGIN
                EXECUTE format('CREATE TABLE %I PARTITION OF %s FOR VALUES FROM (%L) TO (%L)',
                               child, parent, starts, ends);
                PERFORM protect_tenant_table(child::regclass);
                made := made + 1;
            EXCEPTION WHEN check_violation THEN
                -- The default partition holds rows of these days already: they stay there, and the others go on.
                RAISE WARNING 'no partition % : its rows stand in the default partition', child;
            END;
        END IF;
        starts := ends;
    END LOOP;
    RETURN made;
END $$;

-- Drop the partitions of `parent` that end on or before `before`: retention without a single row deleted.
CREATE FUNCTION drop_partitions(parent regclass, before date) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    child record;
    dropped integer := 0;
BEGIN
    FOR child IN
        SELECT c.oid::regclass AS name, substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO \(''([0-9-]+)') AS bound
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = parent
    LOOP
        IF child.bound IS NOT NULL AND child.bound::date <= before THEN
            EXECUTE format('DROP TABLE %s', child.name);
            dropped := dropped + 1;
        END IF;
    END LOOP;
    RETURN dropped;
END $$;

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
CREATE INDEX outbox_due ON outbox (tenant_id, destination, available_at, id);
SELECT adopt_tenant_table('outbox');

DO $$
DECLARE
    tier text := tier_of('outbox');
BEGIN
    REVOKE EXECUTE ON FUNCTION protect_tenant_table, adopt_tenant_table, ensure_partitions, drop_partitions FROM PUBLIC;
    EXECUTE format('REVOKE EXECUTE ON FUNCTION ensure_partitions, drop_partitions FROM %I, %I',
                   tier || '_app', tier || '_readonly');
    EXECUTE format('GRANT EXECUTE ON FUNCTION ensure_partitions, drop_partitions TO %I', tier || '_maintenance');
END $$;
