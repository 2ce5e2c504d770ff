-- include: penguin_chassis.sql/chassis_v1.sql

CREATE TABLE notifications (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    -- NULL: every user of the tenant. Such a notification is one row: whoever reads it first has read it for all.
    user_id uuid,
    type text NOT NULL CHECK (length(type) BETWEEN 1 AND 200),
    title text NOT NULL CHECK (length(title) BETWEEN 1 AND 200),
    message text NOT NULL CHECK (length(message) <= 4000),
    channel text NOT NULL CHECK (channel IN ('in_app', 'email', 'push')),
    subject_ref text NOT NULL CHECK (length(subject_ref) <= 200),
    is_read boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL,
    read_at timestamptz,
    expires_at timestamptz,
    deleted_at timestamptz,
    -- The transaction that wrote it. Watchers read below the oldest one still open, since a sequence's order is not that of
    -- commits.
    feed_xid bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint,
    PRIMARY KEY (tenant_id, id)
) WITH (fillfactor = 85);
CREATE INDEX notifications_newest ON notifications (tenant_id, user_id, created_at DESC, id DESC) WHERE deleted_at IS NULL;
-- "IS NULL" is no equality to the planner: without an index of their own, those for the whole tenant would be sorted each time.
CREATE INDEX notifications_for_all ON notifications (tenant_id, created_at DESC, id DESC)
    WHERE user_id IS NULL AND deleted_at IS NULL;
CREATE INDEX notifications_unread ON notifications (tenant_id, user_id, created_at DESC, id DESC) INCLUDE (expires_at)
    WHERE NOT is_read AND deleted_at IS NULL;
CREATE INDEX notifications_feed ON notifications (tenant_id, feed_xid, id);
-- For the duties, which are no tenant's.
CREATE INDEX notifications_expiry ON notifications (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX notifications_deleted ON notifications (deleted_at) WHERE deleted_at IS NOT NULL;
SELECT adopt_tenant_table('notifications');

-- Written and read by the maintenance role alone: these are the platform's, whichever tenant they concern.
CREATE TABLE admin_system_events (
    -- The nil UUID: the platform itself.
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    event_type text NOT NULL CHECK (length(event_type) BETWEEN 1 AND 200),
    severity text NOT NULL CHECK (severity IN ('info', 'warning', 'error', 'critical')),
    description text NOT NULL CHECK (length(description) BETWEEN 1 AND 2000),
    details jsonb NOT NULL,
    user_id uuid,
    dedupe_key text NOT NULL CHECK (length(dedupe_key) <= 200),
    occurrences integer NOT NULL DEFAULT 1 CHECK (occurrences > 0),
    is_resolved boolean NOT NULL DEFAULT false,
    resolved_by text NOT NULL DEFAULT '',
    resolution text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL,
    last_seen_at timestamptz NOT NULL,
    resolved_at timestamptz,
    PRIMARY KEY (tenant_id, id)
) WITH (fillfactor = 85);
CREATE UNIQUE INDEX admin_system_events_open ON admin_system_events (tenant_id, dedupe_key)
    WHERE NOT is_resolved AND dedupe_key <> '';
CREATE INDEX admin_system_events_id ON admin_system_events (id);
CREATE INDEX admin_system_events_newest ON admin_system_events (created_at DESC, id DESC);
CREATE INDEX admin_system_events_unresolved ON admin_system_events (created_at DESC, id DESC) WHERE NOT is_resolved;
CREATE INDEX admin_system_events_last_seen ON admin_system_events (last_seen_at);
SELECT adopt_tenant_table('admin_system_events');
