-- A job is due at a moment there is: the lanes' order and age go by it, in memory as well. What had come in as the first moment
-- of the calendar, or as the last, was read back as no moment at all.
-- The owner sees rows only while it is not bound by the policies; nobody else sees the table meanwhile.
ALTER TABLE jobs NO FORCE ROW LEVEL SECURITY;
UPDATE jobs SET run_at = CASE WHEN run_at > created_at THEN '9000-01-01 00:00Z' ELSE created_at END WHERE NOT isfinite(run_at);
ALTER TABLE jobs FORCE ROW LEVEL SECURITY;
-- Not validated: what is there has just been put right, and reading it all would hold a lock.
ALTER TABLE jobs ADD CONSTRAINT jobs_run_at_check CHECK (isfinite(run_at)) NOT VALID;
-- How far a wake has come with those who waited: a page of them in one round, so that no round is as long as they are many.
ALTER TABLE wakes ADD COLUMN seen bigint;
-- Tenants whose jobs have left and others may wait for, after one: from the first entry of one to the first of the next.
CREATE FUNCTION waking(after_tenant uuid, most integer) RETURNS SETOF uuid
LANGUAGE sql STABLE
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off AS $$
    WITH RECURSIVE found AS (
        (SELECT w.tenant_id, 1 AS n FROM wakes AS w WHERE w.tenant_id > after_tenant ORDER BY w.tenant_id LIMIT 1)
        UNION ALL
        SELECT next.tenant_id, f.n + 1
        FROM found AS f, LATERAL (
            SELECT w.tenant_id FROM wakes AS w WHERE w.tenant_id > f.tenant_id ORDER BY w.tenant_id LIMIT 1) AS next
        WHERE f.n < most
    )
    SELECT f.tenant_id FROM found AS f
$$;
REVOKE EXECUTE ON FUNCTION waking FROM PUBLIC, queue_app, queue_readonly;
GRANT EXECUTE ON FUNCTION waking TO queue_maintenance;
