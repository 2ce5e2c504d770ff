-- A job is due at a moment there is: the lanes' order and age go by it, in memory as well. What had come in as the first moment
-- of the calendar, or as the last, was read back as no moment at all.
-- The owner sees rows only while it is not bound by the policies; nobody else sees the table meanwhile.
ALTER TABLE jobs NO FORCE ROW LEVEL SECURITY;
UPDATE jobs SET run_at = greatest(least(run_at, created_at + interval '36525 days'), created_at) WHERE NOT isfinite(run_at);
ALTER TABLE jobs FORCE ROW LEVEL SECURITY;
-- Not validated: what is there has just been put right, and reading it all would hold a lock.
ALTER TABLE jobs ADD CONSTRAINT jobs_run_at_check CHECK (isfinite(run_at)) NOT VALID;
-- How far a wake has come with those who waited: a page of them in one round, so that no round is as long as they are many.
ALTER TABLE wakes ADD COLUMN seen bigint;
