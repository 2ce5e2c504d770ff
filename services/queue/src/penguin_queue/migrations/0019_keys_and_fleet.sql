-- A dead letter keeps its place in its key's order, and has it again when it is redriven: at the end, what waits for it could stand
-- before it, and neither would ever run.
ALTER TABLE dead_jobs ADD COLUMN position bigint;
-- Whoever of a key is not held: one at most, and as a rule the first.
CREATE INDEX jobs_in_turn ON jobs (tenant_id, ordering_key) WHERE ordering_key IS NOT NULL AND state <> 6;

CREATE OR REPLACE FUNCTION take_position() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(turn_lock(NEW.tenant_id, NEW.ordering_key));
    NEW.position := coalesce(NEW.position, nextval('job_positions'));
    -- In a snapshot taken after the lock: it has what the last holder stored, and the earlier rows of this statement.
    IF EXISTS (SELECT FROM jobs AS j
               WHERE j.tenant_id = NEW.tenant_id AND j.ordering_key = NEW.ordering_key AND j.position < NEW.position)
       OR EXISTS (SELECT FROM jobs AS j
                  WHERE j.tenant_id = NEW.tenant_id AND j.ordering_key = NEW.ordering_key AND j.state <> 6) THEN
        NEW.state := 6;
    END IF;
    RETURN NEW;
END $$;

-- What all processes of the tier have heard of workers and lost to them, and when they last looked: one row, which each of them
-- adds to once a second.
CREATE TABLE fleet (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    -- Leases ended by a word of their workers, and run out without one: what is a minute old counts half.
    heard double precision NOT NULL DEFAULT 0,
    lost double precision NOT NULL DEFAULT 0,
    at timestamptz,
    -- The last time that none of them was there, or the database was not: workers could not speak then.
    away_since timestamptz,
    away_until timestamptz
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
INSERT INTO fleet DEFAULT VALUES;
GRANT SELECT ON fleet TO queue_app, queue_readonly;
GRANT SELECT, UPDATE ON fleet TO queue_maintenance;

-- Since when there is nothing of a kind and nobody has asked for it: it goes when that is long ago.
ALTER TABLE kinds ADD COLUMN unused_since timestamptz;
GRANT UPDATE (unused_since) ON kinds TO queue_app;
GRANT DELETE ON kinds TO queue_maintenance;
-- Which kinds a tenant was the first to name: so many each, or one could use up all that there may be.
CREATE TABLE kinds_made (
    tenant_id uuid NOT NULL,
    kind_id integer NOT NULL,
    PRIMARY KEY (tenant_id, kind_id)
);
CREATE INDEX kinds_made_kind ON kinds_made (kind_id);
SELECT adopt_tenant_table('kinds_made');
