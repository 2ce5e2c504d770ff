-- What a hold on a person keeps besides: storage keys, known to whoever put it.
CREATE TABLE legal_hold_keys (
    tenant_id uuid NOT NULL,
    hold_id uuid NOT NULL,
    storage_key text NOT NULL CHECK (length(storage_key) BETWEEN 1 AND 500),
    PRIMARY KEY (tenant_id, hold_id, storage_key),
    FOREIGN KEY (tenant_id, hold_id) REFERENCES legal_holds ON DELETE CASCADE
);
CREATE INDEX legal_hold_keys_key ON legal_hold_keys (tenant_id, storage_key);
SELECT adopt_tenant_table('legal_hold_keys');
-- What the subject of a hold is the HMAC under, where the tier is to know the person by it; else empty.
ALTER TABLE legal_holds ADD COLUMN subject_key bytea NOT NULL DEFAULT '' CHECK (octet_length(subject_key) IN (0, 32));
