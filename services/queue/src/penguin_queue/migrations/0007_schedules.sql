-- Jobs by the clock. A run's job is stored in the transaction that moves its schedule's next time on.
CREATE TABLE schedules (
    tenant_id uuid NOT NULL,
    name text COLLATE "C" NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    cron text NOT NULL,
    time_zone text NOT NULL,
    kind_id integer NOT NULL REFERENCES kinds,
    payload bytea NOT NULL CHECK (octet_length(payload) <= 65536),
    -- 0: the queue of the kind says it, as it does of jobs that are enqueued without.
    priority smallint NOT NULL CHECK (priority BETWEEN 0 AND 3),
    rank smallint NOT NULL,
    max_attempts smallint NOT NULL CHECK (max_attempts BETWEEN 0 AND 100),
    missed_runs text NOT NULL CHECK (missed_runs IN ('skip', 'run_once', 'run_all')),
    -- Milliseconds.
    start_deadline integer NOT NULL CHECK (start_deadline BETWEEN 1000 AND 86400000),
    overlap text NOT NULL CHECK (overlap IN ('allow', 'skip')),
    paused boolean NOT NULL,
    -- None while it is paused.
    next_at timestamptz,
    last_at timestamptz,
    last_job_id bigint,
    missed bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, name)
);
CREATE INDEX schedules_due ON schedules (next_at) WHERE NOT paused;
SELECT adopt_tenant_table('schedules');

-- Whoever fires them does so for all tenants, and numbers the jobs as others do.
GRANT USAGE ON SEQUENCE job_id_blocks TO queue_maintenance;
