-- Ties between jobs: unique keys, ordering keys, dependencies and batches. All columns are empty for jobs that have none.
ALTER TABLE jobs
    -- Of one tenant's jobs with the same key one is not held at a time: the one with the least position.
    ADD COLUMN ordering_key text,
    ADD COLUMN position bigint,
    -- How many ends it still waits for.
    ADD COLUMN waits integer,
    -- Any end of what it waits for will do.
    ADD COLUMN run_if_failed boolean,
    -- The callback job that counts its end.
    ADD COLUMN batch_id bigint,
    -- Others wait for its end.
    ADD COLUMN awaited boolean;
-- What a dead letter takes along when it is redriven.
ALTER TABLE dead_jobs ADD COLUMN ordering_key text, ADD COLUMN batch_id bigint;
-- 6 held: waits for other jobs. (3 to 5 are what callers see of the tables of what is over.) Not validated: it allows what
-- the old one did, and would read all rows under a lock.
ALTER TABLE jobs DROP CONSTRAINT jobs_state_check;
ALTER TABLE jobs ADD CONSTRAINT jobs_state_check CHECK (state BETWEEN 0 AND 2 OR state = 6) NOT VALID;
CREATE INDEX jobs_ordered ON jobs (tenant_id, ordering_key, position) WHERE ordering_key IS NOT NULL;
CREATE SEQUENCE job_positions AS bigint;
GRANT USAGE ON SEQUENCE job_positions TO queue_app, queue_maintenance;

-- Which job has a key, and where it must stand for the key to hold: 1 waiting, 2 leased, 4 completed, 8 dead. Whether it
-- does is looked up when another job asks for the key.
CREATE TABLE unique_keys (
    tenant_id uuid NOT NULL,
    kind_id integer NOT NULL,
    key text COLLATE "C" NOT NULL CHECK (length(key) BETWEEN 1 AND 200),
    job_id bigint NOT NULL,
    holds smallint NOT NULL CHECK (holds BETWEEN 1 AND 15),
    until timestamptz,
    PRIMARY KEY (tenant_id, kind_id, key)
);
SELECT adopt_tenant_table('unique_keys');

-- job_id waits for the end of awaits.
CREATE TABLE dependencies (
    tenant_id uuid NOT NULL,
    awaits bigint NOT NULL,
    job_id bigint NOT NULL,
    PRIMARY KEY (tenant_id, awaits, job_id)
);
CREATE INDEX dependencies_job ON dependencies (tenant_id, job_id);
SELECT adopt_tenant_table('dependencies');

-- A callback job's members, by how they ended.
CREATE TABLE batches (
    tenant_id uuid NOT NULL,
    callback_id bigint NOT NULL,
    total bigint NOT NULL,
    completed bigint NOT NULL DEFAULT 0,
    dead bigint NOT NULL DEFAULT 0,
    cancelled bigint NOT NULL DEFAULT 0,
    -- Further calls will add members.
    open boolean NOT NULL,
    PRIMARY KEY (tenant_id, callback_id)
);
SELECT adopt_tenant_table('batches');

-- Tied jobs that have left; the sweep sees to those that waited for them.
CREATE TABLE wakes (
    tenant_id uuid NOT NULL,
    id bigint GENERATED ALWAYS AS IDENTITY,
    job_id bigint NOT NULL,
    ordering_key text,
    batch_id bigint,
    awaited boolean,
    PRIMARY KEY (tenant_id, id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX wakes_order ON wakes (id);
CREATE INDEX wakes_job ON wakes (tenant_id, job_id);
SELECT adopt_tenant_table('wakes');

-- What is locked while a key's order is looked at and changed. Several are taken in the order of these numbers.
CREATE FUNCTION turn_lock(tenant uuid, key text) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$ SELECT hashtextextended(tenant::text || key, 0) $$;

CREATE FUNCTION take_position() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(turn_lock(NEW.tenant_id, NEW.ordering_key));
    NEW.position := nextval('job_positions');
    -- In a snapshot taken after the lock: it has what the last holder stored, and the earlier rows of this statement.
    IF EXISTS (SELECT FROM jobs AS j WHERE j.tenant_id = NEW.tenant_id AND j.ordering_key = NEW.ordering_key) THEN
        NEW.state := 6;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER jobs_take_position BEFORE INSERT ON jobs
    FOR EACH ROW WHEN (NEW.ordering_key IS NOT NULL) EXECUTE FUNCTION take_position();

-- It waits for nobody, so that no statement that ends jobs can be locked out by it. The setting tells that statement.
CREATE FUNCTION leave_wake() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO wakes (tenant_id, job_id, ordering_key, batch_id, awaited)
    VALUES (OLD.tenant_id, OLD.id, OLD.ordering_key, OLD.batch_id, OLD.awaited);
    PERFORM set_config('app.tied', 'yes', true);
    RETURN NULL;
END $$;
CREATE TRIGGER jobs_leave_wake AFTER DELETE ON jobs
    FOR EACH ROW WHEN (OLD.ordering_key IS NOT NULL OR OLD.batch_id IS NOT NULL OR OLD.awaited)
    EXECUTE FUNCTION leave_wake();
