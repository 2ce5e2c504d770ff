-- What is owed in order: rows of an aggregate go one after the other, by their places. A place is drawn while the aggregate's own
-- row is locked, so places come in the order of commits; rows that ask for no order have none.
CREATE SEQUENCE outbox_places AS bigint;
ALTER TABLE outbox ADD COLUMN aggregate text NOT NULL DEFAULT '' CHECK (length(aggregate) <= 200);
ALTER TABLE outbox ADD COLUMN place bigint NOT NULL DEFAULT 0;
CREATE INDEX outbox_aggregate ON outbox (tenant_id, aggregate, place) WHERE aggregate <> '';
DO $$
DECLARE
    tier text := tier_of('outbox');
BEGIN
    EXECUTE format('GRANT USAGE ON SEQUENCE outbox_places TO %I, %I', tier || '_app', tier || '_maintenance');
END $$;
