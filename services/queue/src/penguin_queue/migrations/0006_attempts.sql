-- How attempts ended that were not the last word of a job well done: those that failed, and those whose lease ran out. Only
-- ever inserted into and dropped by partition, so the settings for vacuum are the usual ones.
CREATE TABLE job_attempts (
    job_id bigint NOT NULL,
    finished_at timestamptz NOT NULL,
    tenant_id uuid NOT NULL,
    -- 1 for the first: counts failures and lost leases alike, and begins anew where a dead letter is redriven.
    attempt smallint NOT NULL,
    -- 1 failed, 2 lost.
    outcome smallint NOT NULL,
    error text NOT NULL,
    message text,
    worker_id text
) PARTITION BY RANGE (finished_at);
CREATE INDEX job_attempts_job ON job_attempts (tenant_id, job_id, finished_at);
CREATE TABLE job_attempts_default PARTITION OF job_attempts DEFAULT;
SELECT adopt_tenant_table('job_attempts'), protect_tenant_table('job_attempts_default');
SELECT ensure_partitions('job_attempts', 'day', current_date, current_date + 7);

-- How far a worker says it has come. All of them are null until it does: that costs a row nothing.
ALTER TABLE jobs ADD COLUMN progress_done bigint, ADD COLUMN progress_total bigint, ADD COLUMN progress_note text,
    ADD COLUMN progress_at timestamptz;

-- Where a worker has put what came of it. An outcome of 2: out of attempts, in a queue that keeps no dead letters.
ALTER TABLE completed_jobs ADD COLUMN result text;

ALTER TABLE queues
    -- How long jobs stay that are over (seconds).
    ADD COLUMN completed_retention integer NOT NULL DEFAULT 604800 CHECK (completed_retention BETWEEN 3600 AND 7776000),
    ADD COLUMN dead_retention integer NOT NULL DEFAULT 31536000 CHECK (dead_retention BETWEEN 86400 AND 315360000),
    -- 1: jobs out of attempts become dead letters. 2: they leave only history.
    ADD COLUMN dead_letters smallint NOT NULL DEFAULT 1 CHECK (dead_letters BETWEEN 1 AND 2),
    -- Before these moments nothing of the queue's jobs is left to remove. Older rows of kinds that come to it are: then null.
    ADD COLUMN completed_combed timestamptz,
    ADD COLUMN dead_combed timestamptz;
