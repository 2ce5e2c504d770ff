-- include: penguin_chassis.sql/chassis_v2.sql

-- The journal of acts that cross tiers. No foreign key to tenants: a saga may be what brings its tenant into being.
-- due_at is when anybody may claim it: the end of its owner's lease, or the time it was given back for; null once it is
-- finished or stuck.
CREATE TABLE sagas (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    kind text NOT NULL CHECK (length(kind) BETWEEN 1 AND 100),
    version integer NOT NULL CHECK (version > 0),
    subject text NOT NULL DEFAULT '' CHECK (length(subject) <= 200),
    state text NOT NULL CHECK (state IN ('running', 'compensating', 'succeeded', 'compensated', 'stuck')),
    -- Whether it undoes: where a stuck one goes on.
    undoing boolean NOT NULL DEFAULT false,
    input bytea NOT NULL CHECK (length(input) <= 65536),
    owner text NOT NULL DEFAULT '',
    owner_epoch bigint NOT NULL DEFAULT 1,
    due_at timestamptz,
    attempts integer NOT NULL DEFAULT 0,
    last_error text NOT NULL DEFAULT '',
    reason text NOT NULL DEFAULT '',
    actor text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    finished_at timestamptz,
    PRIMARY KEY (tenant_id, id)
) WITH (fillfactor = 80);
CREATE INDEX sagas_due ON sagas (tenant_id, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX sagas_finished ON sagas (finished_at) WHERE finished_at IS NOT NULL;
CREATE UNIQUE INDEX sagas_subject ON sagas (tenant_id, kind, subject) WHERE subject <> '' AND finished_at IS NULL;
SELECT adopt_tenant_table('sagas');

CREATE TABLE saga_steps (
    tenant_id uuid NOT NULL,
    saga_id uuid NOT NULL,
    step text NOT NULL CHECK (length(step) BETWEEN 1 AND 63),
    operation text NOT NULL CHECK (operation IN ('action', 'compensation')),
    state text NOT NULL CHECK (state IN ('begun', 'done', 'refused', 'skipped')),
    keys bytea NOT NULL DEFAULT '{}',
    result bytea NOT NULL DEFAULT '{}',
    attempts integer NOT NULL DEFAULT 0,
    last_error text NOT NULL DEFAULT '',
    reason text NOT NULL DEFAULT '',
    actor text NOT NULL DEFAULT '',
    begun_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, saga_id, step, operation),
    FOREIGN KEY (tenant_id, saga_id) REFERENCES sagas ON DELETE CASCADE
) WITH (fillfactor = 80);
SELECT adopt_tenant_table('saga_steps');
