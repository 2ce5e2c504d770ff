-- What keeps a person, or what stands under one key, from being erased.
CREATE TABLE legal_holds (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    -- The HMAC of an address, or a storage key: one of the two.
    subject text NOT NULL DEFAULT '' CHECK (subject ~ '^([0-9a-f]{64})?$'),
    storage_key text NOT NULL DEFAULT '' CHECK (length(storage_key) <= 500),
    reason text NOT NULL CHECK (length(reason) BETWEEN 1 AND 500),
    actor text NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id),
    CHECK ((subject = '') <> (storage_key = ''))
);
CREATE INDEX legal_holds_subject ON legal_holds (tenant_id, subject) WHERE subject <> '';
CREATE INDEX legal_holds_key ON legal_holds (tenant_id, storage_key) WHERE storage_key <> '';
SELECT adopt_tenant_table('legal_holds');

-- One row: which life of the database this is, and the one that erasures were last replayed into. A restore begins another.
CREATE TABLE incarnation (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    id uuid NOT NULL,
    began_at timestamptz NOT NULL,
    replayed uuid NOT NULL,
    replayed_at timestamptz NOT NULL
);
INSERT INTO incarnation (id, began_at, replayed, replayed_at)
SELECT first, now(), first, now() FROM gen_random_uuid() AS first;

DO $$
DECLARE
    tier text := tier_of('incarnation');
BEGIN
    EXECUTE format('GRANT SELECT ON incarnation TO %I, %I', tier || '_app', tier || '_readonly');
    EXECUTE format('GRANT SELECT, UPDATE ON incarnation TO %I', tier || '_maintenance');
END $$;
