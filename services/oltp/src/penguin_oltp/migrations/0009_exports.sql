-- Who had whose data exported, the person by the HMAC of the address. Kept: it is what one answers for.
CREATE TABLE subject_exports (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    subject text NOT NULL CHECK (subject ~ '^[0-9a-f]{64}$'),
    actor text NOT NULL,
    asked_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
SELECT adopt_tenant_table('subject_exports');
