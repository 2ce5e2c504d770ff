-- Each tenant's scheduled jobs, the first due first: of whoever has very many due at once a round makes ready a share.
CREATE INDEX jobs_scheduled_of ON jobs (tenant_id, run_at) WHERE state = 0;

-- Tenants that have scheduled jobs, after one, so many at most, and whether any of theirs is due: from the first entry of one to the
-- first of the next.
CREATE FUNCTION scheduling(after_tenant uuid, at timestamptz, most integer) RETURNS TABLE (tenant_id uuid, due boolean)
LANGUAGE sql STABLE
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off AS $$
    WITH RECURSIVE found AS (
        (SELECT j.tenant_id, j.run_at, 1 AS n FROM jobs AS j WHERE j.state = 0 AND j.tenant_id > after_tenant
         ORDER BY j.tenant_id, j.run_at LIMIT 1)
        UNION ALL
        SELECT next.tenant_id, next.run_at, f.n + 1
        FROM found AS f, LATERAL (
            SELECT j.tenant_id, j.run_at FROM jobs AS j WHERE j.state = 0 AND j.tenant_id > f.tenant_id
            ORDER BY j.tenant_id, j.run_at LIMIT 1) AS next
        WHERE f.n < most
    )
    SELECT f.tenant_id, f.run_at <= at FROM found AS f
$$;
REVOKE EXECUTE ON FUNCTION scheduling FROM PUBLIC, queue_app, queue_readonly;
GRANT EXECUTE ON FUNCTION scheduling TO queue_maintenance;

-- Wakes after one, so many of the earliest at most: whose they are, how many, and the first and the last of them. What is gone and vacuum
-- has not removed, because somebody holds a snapshot, is not looked at again and again: it stands before.
CREATE FUNCTION wakes_after(after_id bigint, most integer) RETURNS TABLE (tenant_id uuid, count bigint, first bigint, last bigint)
LANGUAGE sql STABLE
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off AS $$
    SELECT w.tenant_id, count(*), min(w.id), max(w.id)
    FROM (SELECT v.tenant_id, v.id FROM wakes AS v WHERE v.id > after_id ORDER BY v.id LIMIT most) AS w
    GROUP BY w.tenant_id
$$;
-- Tenants that have wakes after one, as `waking` has them, which is of processes that have not ended yet.
CREATE FUNCTION waking_after(after_tenant uuid, after_id bigint, most integer) RETURNS SETOF uuid
LANGUAGE sql STABLE
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off AS $$
    WITH RECURSIVE found AS (
        (SELECT w.tenant_id, 1 AS n FROM wakes AS w WHERE w.tenant_id > after_tenant AND w.id > after_id
         ORDER BY w.tenant_id, w.id LIMIT 1)
        UNION ALL
        SELECT next.tenant_id, f.n + 1
        FROM found AS f, LATERAL (
            SELECT w.tenant_id FROM wakes AS w WHERE w.tenant_id > f.tenant_id AND w.id > after_id
            ORDER BY w.tenant_id, w.id LIMIT 1) AS next
        WHERE f.n < most
    )
    SELECT f.tenant_id FROM found AS f
$$;
REVOKE EXECUTE ON FUNCTION wakes_after(bigint, integer), waking_after(uuid, bigint, integer) FROM PUBLIC, queue_app, queue_readonly;
GRANT EXECUTE ON FUNCTION wakes_after(bigint, integer), waking_after(uuid, bigint, integer) TO queue_maintenance;
