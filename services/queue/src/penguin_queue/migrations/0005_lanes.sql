-- A lane is the ready jobs of one priority, kind and tenant, in the order of (rank, run_at, id). Who leases says which lanes, in
-- what order, how much of each, and from which place on: what has left the head of a lane is passed over, not scanned, however
-- long vacuum is kept from removing it.

-- Whether jobs of this tenant and kind rest just now.
CREATE FUNCTION resting(tenant uuid, kind integer) RETURNS boolean
LANGUAGE sql STABLE SECURITY INVOKER AS $$
    SELECT EXISTS (
        SELECT FROM kinds AS k JOIN queues AS q ON q.id = k.queue_id WHERE k.id = kind AND (k.paused OR q.paused)
    ) OR EXISTS (SELECT FROM pauses AS p WHERE p.tenant_id = tenant AND p.kind_id IN (0, kind))
$$;

-- The first ready job of up to `most` lanes after one, in the order of lanes, and whether it rests.
CREATE FUNCTION survey_lanes(after_priority smallint, after_kind integer, after_tenant uuid, most integer)
RETURNS TABLE (priority smallint, kind_id integer, tenant_id uuid, rank smallint, run_at timestamptz, id bigint,
               resting boolean)
LANGUAGE sql STABLE
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_sort = off
SET jit = off
AS $$
    WITH RECURSIVE heads AS (
        (SELECT j.priority, j.kind_id, j.tenant_id, j.rank, j.run_at, j.id, 1 AS n FROM jobs AS j
         WHERE j.state = 1 AND (j.priority, j.kind_id, j.tenant_id) > (after_priority, after_kind, after_tenant)
         ORDER BY j.priority, j.kind_id, j.tenant_id, j.rank, j.run_at, j.id LIMIT 1)
        UNION ALL
        SELECT next.*, h.n + 1
        FROM heads AS h, LATERAL (
            SELECT j.priority, j.kind_id, j.tenant_id, j.rank, j.run_at, j.id FROM jobs AS j
            WHERE j.state = 1 AND (j.priority, j.kind_id, j.tenant_id) > (h.priority, h.kind_id, h.tenant_id)
            ORDER BY j.priority, j.kind_id, j.tenant_id, j.rank, j.run_at, j.id LIMIT 1
        ) AS next
        WHERE h.n < most
    )
    SELECT h.priority, h.kind_id, h.tenant_id, h.rank, h.run_at, h.id, resting(h.tenant_id, h.kind_id) FROM heads AS h
$$;

-- Lease from lanes. They come band by band: a band has nothing while an earlier one still has. Within a band each lane gives its
-- share at first, and then what the others left over, up to its cap. Several callers are served at once: the n-th job goes to the
-- caller whose number stands n-th in `slots`, under that caller's token; no slots: all to the first. A queue with a limit is leased from by one call at a time; the others
-- pass it over meanwhile.
CREATE FUNCTION lease_lanes(
    bands smallint[], levels smallint[], kinds integer[], tenants uuid[], ranks smallint[], dues timestamptz[], ids bigint[],
    shares integer[], caps integer[], wanted integer, tokens bigint[], untils timestamptz[], workers text[], slots integer[]
) RETURNS SETOF jobs
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_sort = off
SET jit = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    remaining integer := wanted;
    at_hand integer;
    most integer;
    taken integer;
    found tid[];
    short boolean[] := array_fill(false, ARRAY[cardinality(bands)]);
    -- Queues with a limit, and how many jobs may still be taken of each; each lane's place among them.
    limited integer[];
    locked integer[];
    rooms integer[];
    places integer[];
BEGIN
    limited := ARRAY(SELECT q.id FROM queues q WHERE q.max_in_flight IS NOT NULL);
    IF cardinality(limited) > 0 THEN
        locked := ARRAY(
            SELECT q.id FROM queues q
            WHERE q.max_in_flight IS NOT NULL AND EXISTS (
                SELECT FROM kinds k WHERE k.queue_id = q.id AND k.id = ANY (lease_lanes.kinds))
            FOR NO KEY UPDATE SKIP LOCKED);
        -- Only now, in a snapshot that has what the last holder of the lock leased.
        rooms := ARRAY(
            SELECT CASE WHEN l.id = ANY (locked) THEN q.max_in_flight - (
                       SELECT count(*)::integer FROM jobs j JOIN kinds k ON k.id = j.kind_id
                       WHERE j.state = 2 AND k.queue_id = l.id)
                   ELSE 0 END
            FROM unnest(limited) WITH ORDINALITY AS l (id, n) JOIN queues q ON q.id = l.id ORDER BY l.n);
        places := ARRAY(
            SELECT array_position(limited, k.queue_id)
            FROM unnest(lease_lanes.kinds) WITH ORDINALITY AS l (kind, n) JOIN kinds k ON k.id = l.kind ORDER BY l.n);
    END IF;
    FOR band IN 1..3 LOOP
        CONTINUE WHEN array_position(bands, band::smallint) IS NULL;
        at_hand := remaining;
        FOR pass IN 1..2 LOOP
            FOR lane IN 1..cardinality(bands) LOOP
                CONTINUE WHEN bands[lane] <> band OR short[lane];
                most := CASE pass WHEN 1 THEN least(remaining, ceil(shares[lane]::numeric * at_hand / wanted)::integer)
                                  ELSE remaining END;
                most := least(most, caps[lane], rooms[places[lane]]);
                CONTINUE WHEN most <= 0;
                -- Locked first, and as an array: as a sub-select on the inner side of a join it would be run, and lock, again.
                found := ARRAY(
                    SELECT r.ctid FROM jobs r
                    WHERE r.state = 1 AND r.priority = levels[lane] AND r.kind_id = lease_lanes.kinds[lane]
                      AND r.tenant_id = tenants[lane]
                      AND (r.rank, r.run_at, r.id) >= (ranks[lane], dues[lane], lease_lanes.ids[lane])
                      AND (SELECT NOT resting(tenants[lane], lease_lanes.kinds[lane]))
                    ORDER BY r.rank, r.run_at, r.id
                    LIMIT most
                    FOR UPDATE SKIP LOCKED);
                IF cardinality(slots) = 0 THEN
                    RETURN QUERY
                        UPDATE jobs AS j
                        SET state = 2, lease_token = tokens[1], leased_until = untils[1], worker_id = workers[1]
                        WHERE j.ctid = ANY (found)
                        RETURNING j.*;
                ELSE
                    RETURN QUERY
                        UPDATE jobs AS j
                        SET state = 2, lease_token = tokens[slots[wanted - remaining + f.n]],
                            leased_until = untils[slots[wanted - remaining + f.n]],
                            worker_id = workers[slots[wanted - remaining + f.n]]
                        FROM unnest(found) WITH ORDINALITY AS f (place, n)
                        WHERE j.ctid = f.place
                        RETURNING j.*;
                END IF;
                GET DIAGNOSTICS taken = ROW_COUNT;
                short[lane] := taken < most;
                caps[lane] := caps[lane] - taken;
                IF places[lane] IS NOT NULL THEN
                    rooms[places[lane]] := rooms[places[lane]] - taken;
                END IF;
                remaining := remaining - taken;
                IF remaining = 0 THEN
                    RETURN;
                END IF;
            END LOOP;
        END LOOP;
    END LOOP;
END $$;
REVOKE EXECUTE ON FUNCTION survey_lanes, lease_lanes FROM PUBLIC, queue_app, queue_readonly;
GRANT EXECUTE ON FUNCTION survey_lanes, lease_lanes TO queue_maintenance;

-- What an ordinary tenant has is 100; who is not listed has that.
CREATE TABLE tenant_weights (
    tenant_id uuid PRIMARY KEY,
    weight integer NOT NULL CHECK (weight BETWEEN 1 AND 10000),
    updated_at timestamptz NOT NULL
);
SELECT adopt_tenant_table('tenant_weights');

-- Token buckets: so many jobs in so long (milliseconds), and how many a bucket holds; of the queue, of each tenant in it, and of
-- each rate key of a tenant's jobs in it.
ALTER TABLE queues
    ADD COLUMN rate_jobs integer CHECK (rate_jobs BETWEEN 1 AND 10000000),
    ADD COLUMN rate_ms integer CHECK (rate_ms BETWEEN 1 AND 604800000),
    ADD COLUMN rate_burst integer CHECK (rate_burst BETWEEN 1 AND 10000000),
    ADD COLUMN tenant_rate_jobs integer CHECK (tenant_rate_jobs BETWEEN 1 AND 10000000),
    ADD COLUMN tenant_rate_ms integer CHECK (tenant_rate_ms BETWEEN 1 AND 604800000),
    ADD COLUMN tenant_rate_burst integer CHECK (tenant_rate_burst BETWEEN 1 AND 10000000),
    ADD COLUMN key_rate_jobs integer CHECK (key_rate_jobs BETWEEN 1 AND 10000000),
    ADD COLUMN key_rate_ms integer CHECK (key_rate_ms BETWEEN 1 AND 604800000),
    ADD COLUMN key_rate_burst integer CHECK (key_rate_burst BETWEEN 1 AND 10000000);
-- Whose rate a job goes by (a mailbox, a domain), and whether it has been given a place in that line.
ALTER TABLE jobs ADD COLUMN rate_key text CHECK (length(rate_key) BETWEEN 1 AND 200), ADD COLUMN lined boolean;
ALTER TABLE dead_jobs ADD COLUMN rate_key text;
ALTER TABLE completed_jobs ADD COLUMN rate_key text;

-- As before, and nothing that goes by a rate.
CREATE OR REPLACE FUNCTION unhindered(tenant uuid, kind integer) RETURNS boolean
LANGUAGE sql STABLE SECURITY INVOKER AS $$
    SELECT NOT EXISTS (
        SELECT FROM kinds AS k JOIN queues AS q ON q.id = k.queue_id
        WHERE k.id = kind AND (k.paused OR q.paused OR q.max_in_flight IS NOT NULL OR q.rate_jobs IS NOT NULL
                               OR q.tenant_rate_jobs IS NOT NULL OR q.key_rate_jobs IS NOT NULL)
    ) AND NOT EXISTS (SELECT FROM pauses AS p WHERE p.tenant_id = tenant AND p.kind_id IN (0, kind))
$$;
