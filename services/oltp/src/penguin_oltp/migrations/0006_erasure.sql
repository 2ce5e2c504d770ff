-- include: penguin_chassis.sql/chassis_v3.sql

-- What a tenant's erased addresses are known by: the key of their HMAC, XORed with the two pads, so that SQL can compute it.
CREATE TABLE subject_keys (
    tenant_id uuid PRIMARY KEY,
    inner_pad bytea NOT NULL CHECK (octet_length(inner_pad) = 64),
    outer_pad bytea NOT NULL CHECK (octet_length(outer_pad) = 64)
);
SELECT adopt_tenant_table('subject_keys');

-- Erased people, who are never written to again.
CREATE TABLE erased_subjects (
    tenant_id uuid NOT NULL,
    subject bytea NOT NULL CHECK (octet_length(subject) = 32),
    erasure_id uuid NOT NULL,
    erased_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, subject)
);
SELECT adopt_tenant_table('erased_subjects');

CREATE TABLE erasures (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    subject text NOT NULL CHECK (subject ~ '^[0-9a-f]{64}$'),
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
SELECT adopt_tenant_table('erasures');

CREATE TABLE erasure_receipts (
    tenant_id uuid NOT NULL,
    erasure_id uuid NOT NULL,
    tier text NOT NULL CHECK (length(tier) BETWEEN 1 AND 50),
    counts jsonb NOT NULL,
    chain_head text NOT NULL CHECK (chain_head ~ '^[0-9a-f]{64}$'),
    erased_at timestamptz NOT NULL,
    -- Where others mention the subject, and how often in all.
    mentions jsonb NOT NULL,
    mentioned bigint NOT NULL CHECK (mentioned >= 0),
    PRIMARY KEY (tenant_id, erasure_id, tier),
    FOREIGN KEY (tenant_id, erasure_id) REFERENCES erasures ON DELETE CASCADE
);
SELECT adopt_tenant_table('erasure_receipts');

-- HMAC-SHA256 of an address under a tenant's key.
CREATE FUNCTION subject_of(inner_pad bytea, outer_pad bytea, address text) RETURNS bytea
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT sha256(outer_pad || sha256(inner_pad || convert_to(lower(address), 'UTF8')));
$$;
