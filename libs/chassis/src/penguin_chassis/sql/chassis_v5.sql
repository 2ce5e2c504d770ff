-- What tells a database that was put back, if nobody does: how far the ledger of erasures had come when the database was last
-- told of it (a record's number and hash), and which database this was when it was last looked at (empty: not yet).
ALTER TABLE incarnation
    ADD COLUMN ledger_sequence bigint NOT NULL DEFAULT 0 CHECK (ledger_sequence >= 0),
    ADD COLUMN ledger_head text NOT NULL DEFAULT '' CHECK (ledger_head ~ '^([0-9a-f]{64})?$'),
    ADD COLUMN seen_as text NOT NULL DEFAULT '',
    -- Tenants of whom an erasure could not be replayed: they alone are refused still.
    ADD COLUMN unreplayed uuid[] NOT NULL DEFAULT '{}';

-- The cluster and the database in it. A replica that takes over has the same; what is made anew from a dump has another.
CREATE FUNCTION this_database() RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT c.system_identifier || '/' || d.oid
    FROM pg_control_system() AS c, pg_database AS d WHERE d.datname = current_database()
$$;
