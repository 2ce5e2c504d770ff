-- Queues: what holds for all jobs of their kinds. A kind is in one queue; who names none is in the first.
CREATE TABLE queues (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 100),
    paused boolean NOT NULL DEFAULT false,
    -- What jobs have that are enqueued without.
    priority smallint NOT NULL DEFAULT 2 CHECK (priority BETWEEN 1 AND 3),
    max_attempts smallint NOT NULL DEFAULT 10 CHECK (max_attempts BETWEEN 1 AND 100),
    -- Back-off after the first failure, doubled with each, and its cap (milliseconds).
    backoff_base integer NOT NULL DEFAULT 1000 CHECK (backoff_base BETWEEN 1 AND 86400000),
    backoff_cap integer NOT NULL DEFAULT 3600000 CHECK (backoff_cap BETWEEN backoff_base AND 604800000),
    -- A job may lose this many leases; one more makes it a dead letter.
    lost_lease_limit smallint NOT NULL DEFAULT 5 CHECK (lost_lease_limit BETWEEN 0 AND 100),
    -- Jobs in workers' hands at once, over all tenants; none: as many as there are workers for.
    max_in_flight integer CHECK (max_in_flight BETWEEN 1 AND 1000000),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
GRANT SELECT ON queues TO queue_app, queue_readonly;
GRANT SELECT, INSERT, UPDATE ON queues TO queue_maintenance;
INSERT INTO queues (name) VALUES ('default');

ALTER TABLE kinds ADD COLUMN queue_id integer NOT NULL DEFAULT 1 REFERENCES queues,
    ADD COLUMN paused boolean NOT NULL DEFAULT false;
CREATE INDEX kinds_queue ON kinds (queue_id);
GRANT INSERT, UPDATE ON kinds TO queue_maintenance;

-- Tenants whose jobs rest: those of one kind, or (0) of all.
CREATE TABLE pauses (
    tenant_id uuid NOT NULL,
    kind_id integer NOT NULL,
    paused_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, kind_id)
);
SELECT adopt_tenant_table('pauses');

-- Whether a job of this tenant and kind may be leased alone, with no look at others: nothing rests, nothing is limited.
CREATE FUNCTION unhindered(tenant uuid, kind integer) RETURNS boolean
LANGUAGE sql STABLE SECURITY INVOKER AS $$
    SELECT NOT EXISTS (
        SELECT FROM kinds AS k JOIN queues AS q ON q.id = k.queue_id
        WHERE k.id = kind AND (k.paused OR q.paused OR q.max_in_flight IS NOT NULL)
    ) AND NOT EXISTS (SELECT FROM pauses AS p WHERE p.tenant_id = tenant AND p.kind_id IN (0, kind))
$$;

-- As before, and what rests is passed over: kinds, queues, and tenants, who then have no part in the round. A queue with a
-- limit is leased from by one call at a time; the others pass it over meanwhile.
CREATE OR REPLACE FUNCTION lease_ready(
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
    most integer;
    -- Queues with a limit, and how many jobs may still be taken of each.
    limited integer[];
    locked integer[];
    rooms integer[];
    place integer;
BEGIN
    limited := ARRAY(SELECT q.id FROM queues q WHERE q.max_in_flight IS NOT NULL);
    IF cardinality(limited) > 0 THEN
        locked := ARRAY(
            SELECT q.id FROM queues q
            WHERE q.max_in_flight IS NOT NULL AND NOT q.paused AND (cardinality(kinds) = 0 OR EXISTS (
                SELECT FROM kinds k WHERE k.queue_id = q.id AND k.id = ANY (lease_ready.kinds)))
            FOR NO KEY UPDATE SKIP LOCKED);
        -- Only now, in a snapshot that has what the last holder of the lock leased.
        rooms := ARRAY(
            SELECT CASE WHEN l.id = ANY (locked) THEN q.max_in_flight - (
                       SELECT count(*)::integer FROM jobs j JOIN kinds k ON k.id = j.kind_id
                       WHERE j.state = 2 AND k.queue_id = l.id)
                   ELSE 0 END
            FROM unnest(limited) WITH ORDINALITY AS l (id, n) JOIN queues q ON q.id = l.id ORDER BY l.n);
    END IF;
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
                    SELECT there.kind, k.queue_id, first.tenant_id, first.lap, a.awake, a.awake::integer AS n
                    FROM there
                    JOIN kinds k ON k.id = there.kind
                    JOIN queues q ON q.id = k.queue_id,
                    LATERAL (
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
                    ) AS first,
                    LATERAL (SELECT NOT EXISTS (SELECT FROM pauses p
                        WHERE p.tenant_id = first.tenant_id AND p.kind_id IN (0, there.kind)) AS awake) AS a
                    WHERE there.kind IS NOT NULL AND NOT (k.paused OR q.paused)
                      AND (cardinality(kinds) = 0 OR there.kind = ANY (kinds))
                      AND coalesce(rooms[array_position(limited, k.queue_id)] > 0, true)
                    UNION ALL
                    SELECT walk.kind, walk.queue_id, next.tenant_id, next.lap, a.awake, walk.n + a.awake::integer
                    FROM walk,
                    LATERAL (
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
                    ) AS next,
                    LATERAL (SELECT NOT EXISTS (SELECT FROM pauses p
                        WHERE p.tenant_id = next.tenant_id AND p.kind_id IN (0, walk.kind)) AS awake) AS a
                    WHERE walk.n < reach
                )
                -- By chance among kinds, so that small leases pass none over for ever.
                SELECT walk.kind, walk.queue_id, walk.tenant_id, count(*) OVER () AS turns
                FROM walk WHERE walk.awake ORDER BY walk.n, random()
            LOOP
                turns := coalesce(turns, turn.turns::integer);
                most := CASE pass WHEN 1 THEN ceil(remaining::numeric / turns)::integer ELSE remaining END;
                place := array_position(limited, turn.queue_id);
                IF place IS NOT NULL THEN
                    most := least(most, rooms[place]);
                END IF;
                taken := 0;
                IF most > 0 THEN
                    RETURN QUERY
                        UPDATE jobs AS j
                        SET state = 2, lease_token = token, leased_until = until, worker_id = worker
                        -- An array: as a sub-select on the inner side of a join it would be run, and lock, again.
                        WHERE j.id = ANY (ARRAY(
                            SELECT r.id FROM jobs r
                            WHERE r.state = 1 AND r.priority = level AND r.kind_id = turn.kind
                              AND r.tenant_id = turn.tenant_id
                            ORDER BY r.rank, r.run_at, r.id
                            LIMIT most
                            FOR UPDATE SKIP LOCKED))
                        RETURNING j.*;
                    GET DIAGNOSTICS taken = ROW_COUNT;
                END IF;
                IF place IS NOT NULL THEN
                    rooms[place] := rooms[place] - taken;
                END IF;
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

-- As before; its queue says what a batch does not, and one that rests or is limited is not handed over. The answer tells.
DROP FUNCTION hot_enqueue;
CREATE FUNCTION hot_enqueue(
    tenant uuid, request_key text, request_digest bytea, answer bytea, at timestamptz, first_id bigint, due timestamptz,
    kind integer, priority smallint, rank smallint, max_attempts smallint, traceparents text[], payloads bytea[],
    token bigint, until timestamptz, worker text
) RETURNS TABLE (fresh boolean, handed boolean, rated smallint, tries smallint, digest bytea, reply bytea, compensated boolean)
LANGUAGE plpgsql VOLATILE SECURITY INVOKER SET search_path = public, pg_temp AS $$
#variable_conflict use_column
DECLARE
    level smallint;
    most smallint;
    hindered boolean;
BEGIN
    EXECUTE format('SET LOCAL app.current_tenant_id = %L', tenant);
    INSERT INTO step_barrier (tenant_id, key, operation, digest, reply, created_at)
    VALUES (tenant, request_key, 'request', request_digest, answer, at)
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN QUERY
            SELECT false, false, NULL::smallint, NULL::smallint, b.digest, b.reply, b.compensated
            FROM (SELECT) AS one LEFT JOIN step_barrier AS b
                ON b.tenant_id = tenant AND b.key = request_key AND b.operation = 'request';
        RETURN;
    END IF;
    SELECT coalesce(nullif(hot_enqueue.priority, 0), q.priority),
           coalesce(nullif(hot_enqueue.max_attempts, 0), q.max_attempts),
           token IS NOT NULL AND NOT unhindered(tenant, k.id)
    INTO level, most, hindered
    FROM kinds AS k JOIN queues AS q ON q.id = k.queue_id WHERE k.id = hot_enqueue.kind;
    IF hindered THEN
        token := NULL;
    END IF;
    INSERT INTO jobs (id, run_at, created_at, tenant_id, kind_id, priority, rank, max_attempts, state, payload,
                      traceparent, lease_token, leased_until, worker_id)
    SELECT first_id + n - 1, due, at, tenant, hot_enqueue.kind, level, hot_enqueue.rank, most,
           CASE WHEN token IS NOT NULL THEN 2 WHEN due <= at THEN 1 ELSE 0 END, new.payload, nullif(new.traceparent, ''),
           token, CASE WHEN token IS NOT NULL THEN until END,
           CASE WHEN token IS NOT NULL THEN worker END
    FROM unnest(payloads, traceparents) WITH ORDINALITY AS new (payload, traceparent, n);
    RETURN QUERY SELECT true, token IS NOT NULL, level, most, NULL::bytea, NULL::bytea, NULL::boolean;
END $$;
