-- A lease that tells what room its limited queues have left (app.rooms): whoever asks is to know a full queue from an empty lane.
-- Their jobs in flight are counted from `at` on: a lease that has run out holds no place, and what is left in the index of those
-- that ended is not walked through again and again while a snapshot is held. In all else as it was (0015).
-- And one that ends with the job whose payload brings it to so many bytes: what nobody could be sent is not leased, nor read.
-- What is new has defaults, so that the processes of the version before go on.
DROP FUNCTION lease_lanes(smallint[], smallint[], integer[], uuid[], smallint[], timestamptz[], bigint[], integer[], integer[],
                          integer, bigint[], timestamptz[], text[], integer[]);
CREATE FUNCTION lease_lanes(
    bands smallint[], levels smallint[], kinds integer[], tenants uuid[], ranks smallint[], dues timestamptz[], ids bigint[],
    shares integer[], caps integer[], wanted integer, tokens bigint[], untils timestamptz[], workers text[], slots integer[],
    at timestamptz DEFAULT now(), bytes integer DEFAULT 2147483647
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
    -- What was found in this pass, how many jobs had been leased before it, and what one lane gave.
    found tid[];
    given integer;
    lane_found tid[];
    -- Bytes of payloads that are left, and of what one lane gave; weighed only where so many of the largest could be more, for it
    -- costs a small lease some per cent.
    weighed boolean := wanted > bytes / 65536;
    spare bigint := bytes;
    size bigint;
    short boolean[] := array_fill(false, ARRAY[cardinality(bands)]);
    -- Queues with a limit among those of the lanes, and how many jobs may still be taken of each, less than none where another
    -- lease has it; each lane's place among them.
    limited integer[];
    locked integer[];
    rooms integer[];
    places integer[];
BEGIN
    limited := ARRAY(SELECT q.id FROM queues q WHERE q.max_in_flight IS NOT NULL);
    IF cardinality(limited) > 0 THEN
        limited := ARRAY(SELECT DISTINCT k.queue_id FROM kinds k WHERE k.id = ANY (lease_lanes.kinds) AND k.queue_id = ANY (limited));
    END IF;
    IF cardinality(limited) > 0 THEN
        locked := ARRAY(
            SELECT q.id FROM queues q
            WHERE q.max_in_flight IS NOT NULL AND q.id = ANY (limited)
            FOR NO KEY UPDATE SKIP LOCKED);
        -- Only now, in a snapshot that has what the last holder of the lock leased.
        rooms := ARRAY(
            SELECT CASE WHEN l.id = ANY (locked) THEN greatest(0, q.max_in_flight - (
                       SELECT count(*)::integer FROM jobs j JOIN kinds k ON k.id = j.kind_id
                       WHERE j.state = 2 AND j.leased_until > lease_lanes.at AND k.queue_id = l.id))
                   ELSE -1 END
            FROM unnest(limited) WITH ORDINALITY AS l (id, n) JOIN queues q ON q.id = l.id ORDER BY l.n);
        places := ARRAY(
            SELECT array_position(limited, k.queue_id)
            FROM unnest(lease_lanes.kinds) WITH ORDINALITY AS l (kind, n) JOIN kinds k ON k.id = l.kind ORDER BY l.n);
    END IF;
    <<every_band>>
    FOR band IN 1..3 LOOP
        CONTINUE WHEN array_position(bands, band::smallint) IS NULL;
        at_hand := remaining;
        FOR pass IN 1..2 LOOP
            found := '{}';
            given := wanted - remaining;
            FOR lane IN 1..cardinality(bands) LOOP
                CONTINUE WHEN bands[lane] <> band OR short[lane];
                most := CASE pass WHEN 1 THEN least(remaining, ceil(shares[lane]::numeric * at_hand / wanted)::integer)
                                  ELSE remaining END;
                most := least(most, caps[lane], rooms[places[lane]]);
                CONTINUE WHEN most <= 0;
                -- Locked first, and as an array: as a sub-select on the inner side of a join it would be run, and lock, again.
                IF weighed THEN
                    SELECT coalesce(array_agg(f.place), '{}'), coalesce(sum(f.size), 0) INTO lane_found, size FROM (
                        SELECT r.ctid AS place, octet_length(r.payload) AS size FROM jobs r
                        WHERE r.state = 1 AND r.priority = levels[lane] AND r.kind_id = lease_lanes.kinds[lane]
                          AND r.tenant_id = tenants[lane]
                          AND (r.rank, r.run_at, r.id) >= (ranks[lane], dues[lane], lease_lanes.ids[lane])
                          AND (SELECT NOT resting(tenants[lane], lease_lanes.kinds[lane]))
                        ORDER BY r.rank, r.run_at, r.id
                        LIMIT most
                        FOR UPDATE SKIP LOCKED) AS f;
                    IF size >= spare THEN
                        -- Those that are beyond the bytes stay as they are.
                        lane_found := ARRAY(
                            SELECT f.place FROM (
                                SELECT f.place, f.n, sum(octet_length(j.payload)) OVER (ORDER BY f.n) - octet_length(j.payload)
                                           AS before
                                FROM unnest(lane_found) WITH ORDINALITY AS f (place, n) JOIN jobs j ON j.ctid = f.place) AS f
                            WHERE f.before < spare ORDER BY f.n);
                    END IF;
                    spare := spare - size;
                ELSE
                    lane_found := ARRAY(
                        SELECT r.ctid FROM jobs r
                        WHERE r.state = 1 AND r.priority = levels[lane] AND r.kind_id = lease_lanes.kinds[lane]
                          AND r.tenant_id = tenants[lane]
                          AND (r.rank, r.run_at, r.id) >= (ranks[lane], dues[lane], lease_lanes.ids[lane])
                          AND (SELECT NOT resting(tenants[lane], lease_lanes.kinds[lane]))
                        ORDER BY r.rank, r.run_at, r.id
                        LIMIT most
                        FOR UPDATE SKIP LOCKED);
                END IF;
                taken := cardinality(lane_found);
                found := found || lane_found;
                short[lane] := taken < most;
                caps[lane] := caps[lane] - taken;
                IF places[lane] IS NOT NULL THEN
                    rooms[places[lane]] := rooms[places[lane]] - taken;
                END IF;
                remaining := remaining - taken;
                EXIT WHEN remaining = 0 OR spare <= 0;
            END LOOP;
            -- What one pass found is leased before the next one looks, or it would find it again.
            IF cardinality(slots) = 0 THEN
                RETURN QUERY
                    UPDATE jobs AS j
                    SET state = 2, lease_token = tokens[1], leased_until = untils[1], worker_id = workers[1]
                    WHERE j.ctid = ANY (found)
                    RETURNING j.*;
            ELSE
                RETURN QUERY
                    UPDATE jobs AS j
                    SET state = 2, lease_token = tokens[slots[given + f.n]],
                        leased_until = untils[slots[given + f.n]],
                        worker_id = workers[slots[given + f.n]]
                    FROM unnest(found) WITH ORDINALITY AS f (place, n)
                    WHERE j.ctid = f.place
                    RETURNING j.*;
            END IF;
            EXIT every_band WHEN remaining = 0 OR spare <= 0;
        END LOOP;
    END LOOP;
    IF cardinality(limited) > 0 THEN
        PERFORM set_config('app.rooms', array_to_string(limited, ' ') || ',' || array_to_string(rooms, ' '), true);
    END IF;
END $$;
REVOKE EXECUTE ON FUNCTION lease_lanes FROM PUBLIC, queue_app, queue_readonly;
GRANT EXECUTE ON FUNCTION lease_lanes TO queue_maintenance;
