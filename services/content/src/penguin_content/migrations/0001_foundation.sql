-- include: penguin_chassis.sql/chassis_v1.sql

-- One body under an opaque storage key: a composed body's canonical form, or the raw source of imported mail.
CREATE TABLE content_objects (
    tenant_id uuid NOT NULL,
    storage_key text NOT NULL CHECK (length(storage_key) BETWEEN 1 AND 500),
    state text NOT NULL CHECK (state IN ('unclaimed', 'claimed', 'quarantined')),
    generation bigint NOT NULL CHECK (generation >= 0),
    claim_by timestamptz NOT NULL,
    expire_at timestamptz,
    created_at timestamptz NOT NULL,
    content_hash bytea NOT NULL CHECK (octet_length(content_hash) = 32),
    raw_source boolean NOT NULL,
    codec text NOT NULL CHECK (codec IN ('none', 'zstd')),
    dictionary_id uuid,
    key_id text,
    raw_size bigint NOT NULL CHECK (raw_size >= 0),
    stored_size bigint NOT NULL CHECK (stored_size >= 0),
    attachment_count integer NOT NULL CHECK (attachment_count >= 0),
    -- What could not be parsed of a raw source.
    defects text[] NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (tenant_id, storage_key)
);
-- It is compressed already: kept as it is, inline while small.
ALTER TABLE content_objects ALTER COLUMN body SET STORAGE EXTERNAL;
-- True of every row, and implied only by a query on created_at: so that no look-up by keys can be planned as a scan of all
-- the tenant's rows through this index, which is what becomes of it on a table not yet analysed.
CREATE INDEX content_objects_age ON content_objects (tenant_id, created_at) WHERE created_at IS NOT NULL;
CREATE INDEX content_objects_overdue ON content_objects (tenant_id, claim_by) WHERE state = 'unclaimed';
SELECT adopt_tenant_table('content_objects');

-- Attachments' bytes, once per tenant and hash; never shared between tenants.
CREATE TABLE blobs (
    tenant_id uuid NOT NULL,
    sha256 bytea NOT NULL CHECK (octet_length(sha256) = 32),
    raw_size bigint NOT NULL CHECK (raw_size >= 0),
    stored_size bigint NOT NULL CHECK (stored_size >= 0),
    -- Up to 1 MiB stands in data under this codec; what is larger stands in blob_pieces, each piece under its own.
    piece_count integer NOT NULL CHECK (piece_count >= 1),
    codec text NOT NULL CHECK (codec IN ('none', 'zstd')),
    dictionary_id uuid,
    key_id text,
    data bytea,
    -- An upload may stand without a reference until then.
    claim_by timestamptz,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, sha256),
    CHECK ((data IS NOT NULL) = (piece_count = 1))
);
ALTER TABLE blobs ALTER COLUMN data SET STORAGE EXTERNAL;
CREATE INDEX blobs_overdue ON blobs (tenant_id, claim_by) WHERE claim_by IS NOT NULL;
SELECT adopt_tenant_table('blobs');

CREATE TABLE blob_pieces (
    tenant_id uuid NOT NULL,
    sha256 bytea NOT NULL,
    piece integer NOT NULL CHECK (piece >= 0),
    codec text NOT NULL CHECK (codec IN ('none', 'zstd')),
    data bytea NOT NULL,
    PRIMARY KEY (tenant_id, sha256, piece),
    FOREIGN KEY (tenant_id, sha256) REFERENCES blobs ON DELETE CASCADE
);
ALTER TABLE blob_pieces ALTER COLUMN data SET STORAGE EXTERNAL;
SELECT adopt_tenant_table('blob_pieces');

CREATE TABLE attachments (
    tenant_id uuid NOT NULL,
    storage_key text NOT NULL,
    position integer NOT NULL CHECK (position >= 0),
    filename text NOT NULL,
    mime_type text NOT NULL,
    disposition text NOT NULL CHECK (disposition IN ('attachment', 'inline')),
    content_id text NOT NULL,
    size bigint NOT NULL CHECK (size >= 0),
    sha256 bytea NOT NULL CHECK (octet_length(sha256) = 32),
    -- Nothing where the bytes are derived from the raw source.
    blob_sha256 bytea,
    PRIMARY KEY (tenant_id, storage_key, position),
    FOREIGN KEY (tenant_id, storage_key) REFERENCES content_objects ON DELETE CASCADE,
    FOREIGN KEY (tenant_id, blob_sha256) REFERENCES blobs
);
CREATE INDEX attachments_blob ON attachments (tenant_id, blob_sha256) WHERE blob_sha256 IS NOT NULL;
SELECT adopt_tenant_table('attachments');
