-- include: penguin_chassis.sql/chassis_v1.sql

-- The kinds of jobs there are, by a number that rows carry in place of the name. Whose jobs they are of is not told here.
CREATE TABLE kinds (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 200)
);
GRANT SELECT, INSERT ON kinds TO queue_app;
GRANT SELECT ON kinds TO queue_maintenance, queue_readonly;

-- Jobs' ids are given out in blocks of 10000 to the processes that store them: one look-up for many jobs, and the jobs of
-- one call in a row. A process that ends leaves the rest of its block unused.
CREATE SEQUENCE job_id_blocks AS bigint INCREMENT BY 10000 START WITH 10000;
GRANT USAGE ON SEQUENCE job_id_blocks TO queue_app;

-- Jobs that are still to be done. Rows live for seconds and are rewritten at every step, so the table is narrow and in the
-- order of alignment, and is vacuumed by count of dead rows rather than by share.
CREATE TABLE jobs (
    id bigint PRIMARY KEY,
    -- Whose word counts. It outlives the lease's time, and ends with the next lease or with the holder's last word.
    lease_token bigint,
    run_at timestamptz NOT NULL,
    leased_until timestamptz,
    created_at timestamptz NOT NULL,
    tenant_id uuid NOT NULL,
    kind_id integer NOT NULL,
    snoozes integer NOT NULL DEFAULT 0,
    -- 1 high, 2 normal, 3 low; rank orders within.
    priority smallint NOT NULL CHECK (priority BETWEEN 1 AND 3),
    rank smallint NOT NULL DEFAULT 0,
    attempts smallint NOT NULL DEFAULT 0,
    max_attempts smallint NOT NULL CHECK (max_attempts BETWEEN 1 AND 100),
    lost_leases smallint NOT NULL DEFAULT 0,
    -- 0 scheduled: not yet due, or due and not yet swept. 1 ready: to be leased now. 2 leased.
    state smallint NOT NULL CHECK (state BETWEEN 0 AND 2),
    payload bytea NOT NULL CHECK (octet_length(payload) <= 65536),
    traceparent text,
    worker_id text,
    last_error text
) WITH (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 10000,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0
);
-- A row stands in one of these three at a time. The first answers "whose turn is it" by probes, however deep a backlog is.
CREATE INDEX jobs_ready ON jobs (priority, kind_id, tenant_id, rank, run_at, id) WHERE state = 1;
CREATE INDEX jobs_scheduled ON jobs (run_at) WHERE state = 0;
CREATE INDEX jobs_leased ON jobs (leased_until) WHERE state = 2;
-- A tenant's own view of its jobs, newest first.
CREATE INDEX jobs_tenant ON jobs (tenant_id, id);
SELECT adopt_tenant_table('jobs');

-- What is over. Completed jobs go after days and dead letters after a year, so they stand apart and each is dropped by
-- partition. The default partition holds what a missing partition would have refused.
CREATE TABLE completed_jobs (
    id bigint NOT NULL,
    -- Under which lease it ended: a repeat of that last word is known for what it is.
    lease_token bigint,
    run_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    finished_at timestamptz NOT NULL,
    tenant_id uuid NOT NULL,
    kind_id integer NOT NULL,
    snoozes integer NOT NULL,
    priority smallint NOT NULL,
    rank smallint NOT NULL,
    attempts smallint NOT NULL,
    max_attempts smallint NOT NULL,
    lost_leases smallint NOT NULL,
    payload bytea NOT NULL,
    traceparent text,
    worker_id text,
    last_error text
) PARTITION BY RANGE (finished_at);
CREATE TABLE dead_jobs (LIKE completed_jobs) PARTITION BY RANGE (finished_at);
CREATE INDEX completed_jobs_tenant ON completed_jobs (tenant_id, id);
-- Jobs end about in the order of their ids: enough to find a repeated word's job without a second tree.
CREATE INDEX completed_jobs_ids ON completed_jobs USING brin (id) WITH (pages_per_range = 16, autosummarize = on);
CREATE UNIQUE INDEX dead_jobs_tenant ON dead_jobs (tenant_id, id, finished_at);
CREATE TABLE completed_jobs_default PARTITION OF completed_jobs DEFAULT;
CREATE TABLE dead_jobs_default PARTITION OF dead_jobs DEFAULT;
SELECT adopt_tenant_table('completed_jobs'), protect_tenant_table('completed_jobs_default'),
       adopt_tenant_table('dead_jobs'), protect_tenant_table('dead_jobs_default');
SELECT ensure_partitions('completed_jobs', 'day', current_date, current_date + 7),
       ensure_partitions('dead_jobs', 'month', current_date, current_date + 62);

-- Lease up to `wanted` ready jobs: high priority first, and within a priority an even share to each (kind, tenant) that
-- has ready jobs, going round from `after_tenant`; what the shares leave over goes to whoever has more. A backlog is
-- never read: one probe finds each next kind and tenant. The settings hold the plan to those probes, whatever the table
-- looked like when it was planned, and plan once per connection.
CREATE FUNCTION lease_ready(
    after_tenant uuid, wanted integer, kinds integer[], token bigint, until timestamptz, worker text
) RETURNS SETOF jobs
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    -- More tenants than this wait for the next call, which goes on from where this one ends.
    reach integer := least(wanted, 64);
    remaining integer := wanted;
    turn record;
    taken integer;
    turns integer;
BEGIN
    FOR level IN 1..3 LOOP
        CONTINUE WHEN NOT EXISTS (SELECT FROM jobs j WHERE j.state = 1 AND j.priority = level);
        FOR pass IN 1..2 LOOP
            turns := NULL;
            FOR turn IN
                WITH RECURSIVE there AS (
                    (SELECT j.kind_id AS kind FROM jobs j WHERE j.state = 1 AND j.priority = level ORDER BY j.kind_id LIMIT 1)
                    UNION ALL
                    SELECT (SELECT j.kind_id FROM jobs j
                            WHERE j.state = 1 AND j.priority = level AND j.kind_id > there.kind
                            ORDER BY j.kind_id LIMIT 1)
                    FROM there WHERE there.kind IS NOT NULL
                ), walk AS (
                    SELECT there.kind, first.tenant_id, first.lap, 1 AS n
                    FROM there, LATERAL (
                        (SELECT j.tenant_id, 0 AS lap FROM jobs j
                         WHERE j.state = 1 AND j.priority = level AND j.kind_id = there.kind
                           AND j.tenant_id > after_tenant
                         ORDER BY j.tenant_id LIMIT 1)
                        UNION ALL
                        (SELECT j.tenant_id, 1 FROM jobs j
                         WHERE j.state = 1 AND j.priority = level AND j.kind_id = there.kind
                           AND j.tenant_id <= after_tenant
                         ORDER BY j.tenant_id LIMIT 1)
                        LIMIT 1
                    ) AS first
                    WHERE there.kind IS NOT NULL AND (cardinality(kinds) = 0 OR there.kind = ANY (kinds))
                    UNION ALL
                    SELECT walk.kind, next.tenant_id, next.lap, walk.n + 1
                    FROM walk, LATERAL (
                        (SELECT j.tenant_id, walk.lap AS lap FROM jobs j
                         WHERE j.state = 1 AND j.priority = level AND j.kind_id = walk.kind
                           AND j.tenant_id > walk.tenant_id AND (walk.lap = 0 OR j.tenant_id <= after_tenant)
                         ORDER BY j.tenant_id LIMIT 1)
                        UNION ALL
                        (SELECT j.tenant_id, 1 FROM jobs j
                         WHERE walk.lap = 0
                           AND j.state = 1 AND j.priority = level AND j.kind_id = walk.kind
                           AND j.tenant_id <= after_tenant
                         ORDER BY j.tenant_id LIMIT 1)
                        LIMIT 1
                    ) AS next
                    WHERE walk.n < reach
                )
                -- By chance among kinds, so that small leases pass none over for ever.
                SELECT walk.kind, walk.tenant_id, count(*) OVER () AS turns FROM walk ORDER BY walk.n, random()
            LOOP
                turns := coalesce(turns, turn.turns::integer);
                RETURN QUERY
                    UPDATE jobs AS j
                    SET state = 2, lease_token = token, leased_until = until, worker_id = worker
                    -- An array: as a sub-select on the inner side of a join it would be run, and lock, again.
                    WHERE j.id = ANY (ARRAY(
                        SELECT r.id FROM jobs r
                        WHERE r.state = 1 AND r.priority = level AND r.kind_id = turn.kind
                          AND r.tenant_id = turn.tenant_id
                        ORDER BY r.rank, r.run_at, r.id
                        LIMIT CASE pass WHEN 1 THEN ceil(remaining::numeric / turns)::integer ELSE remaining END
                        FOR UPDATE SKIP LOCKED))
                    RETURNING j.*;
                GET DIAGNOSTICS taken = ROW_COUNT;
                remaining := remaining - taken;
                turns := greatest(turns - 1, 1);
                IF remaining = 0 THEN
                    RETURN;
                END IF;
            END LOOP;
            EXIT WHEN turns IS NULL;
        END LOOP;
    END LOOP;
END $$;
REVOKE EXECUTE ON FUNCTION lease_ready FROM PUBLIC, queue_app, queue_readonly;
GRANT EXECUTE ON FUNCTION lease_ready TO queue_maintenance;

-- The quick way in: a batch of one kind, claimed by its request_id, recorded and stored in one trip. Where it was stored
-- before, what the first call was and answered. It runs as its caller, and the tenant it is given is the only one it sees.
CREATE FUNCTION hot_enqueue(
    tenant uuid, request_key text, request_digest bytea, answer bytea, at timestamptz, first_id bigint, due timestamptz,
    kind integer, priority smallint, rank smallint, max_attempts smallint, traceparents text[], payloads bytea[],
    token bigint, until timestamptz, worker text
) RETURNS TABLE (fresh boolean, digest bytea, reply bytea, compensated boolean)
LANGUAGE plpgsql VOLATILE SECURITY INVOKER SET search_path = public, pg_temp AS $$
#variable_conflict use_column
BEGIN
    EXECUTE format('SET LOCAL app.current_tenant_id = %L', tenant);
    INSERT INTO step_barrier (tenant_id, key, operation, digest, reply, created_at)
    VALUES (tenant, request_key, 'request', request_digest, answer, at)
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN QUERY
            SELECT false, b.digest, b.reply, b.compensated
            FROM (SELECT) AS one LEFT JOIN step_barrier AS b
                ON b.tenant_id = tenant AND b.key = request_key AND b.operation = 'request';
        RETURN;
    END IF;
    INSERT INTO jobs (id, run_at, created_at, tenant_id, kind_id, priority, rank, max_attempts, state, payload,
                      traceparent, lease_token, leased_until, worker_id)
    SELECT first_id + n - 1, due, at, tenant, hot_enqueue.kind, hot_enqueue.priority, hot_enqueue.rank,
           hot_enqueue.max_attempts, CASE WHEN token IS NOT NULL THEN 2 WHEN due <= at THEN 1 ELSE 0 END, new.payload,
           nullif(new.traceparent, ''), token, until, worker
    FROM unnest(payloads, traceparents) WITH ORDINALITY AS new (payload, traceparent, n);
    RETURN QUERY SELECT true, NULL::bytea, NULL::bytea, NULL::boolean;
END $$;
