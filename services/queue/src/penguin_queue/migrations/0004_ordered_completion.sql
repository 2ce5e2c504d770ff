-- The common case of completion: all under one token. The settings hold the plan to the index, whatever the table's size:
-- rows are then locked in the order of their ids, as everybody does who waits for locks, and nobody locks another out.
-- Returns how many there were: who is told of fewer than asked for asks which.
CREATE FUNCTION complete_one_lease(ids bigint[], token bigint, at timestamptz) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    ended bigint;
BEGIN
    WITH done AS (
        DELETE FROM jobs AS j WHERE j.id = ANY (ids) AND j.lease_token = token RETURNING j.*
    ), kept AS (
        INSERT INTO completed_jobs (id, lease_token, run_at, created_at, finished_at, tenant_id, kind_id, snoozes, priority,
                                    rank, attempts, max_attempts, lost_leases, payload, traceparent, worker_id, last_error)
        SELECT id, lease_token, run_at, created_at, at, tenant_id, kind_id, snoozes, priority, rank, attempts, max_attempts,
               lost_leases, payload, traceparent, worker_id, last_error
        FROM done
    )
    SELECT count(*) INTO ended FROM done;
    RETURN ended;
END $$;
REVOKE EXECUTE ON FUNCTION complete_one_lease FROM PUBLIC, queue_app, queue_readonly;
GRANT EXECUTE ON FUNCTION complete_one_lease TO queue_maintenance;
