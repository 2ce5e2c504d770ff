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
