-- name: hold
-- Held against removal until the transaction ends; others may hold and refer to them at the same time.
SELECT sha256, raw_size FROM blobs
WHERE tenant_id = $1 AND sha256 = ANY ($2::bytea[])
ORDER BY sha256
FOR KEY SHARE;

-- name: insert
INSERT INTO blobs (tenant_id, sha256, raw_size, stored_size, piece_count, codec, data, claim_by, created_at)
SELECT $1, sha256, raw_size, stored_size, piece_count, codec, data, $8, $9
FROM unnest($2::bytea[], $3::bigint[], $4::bigint[], $5::integer[], $6::text[], $7::bytea[])
    AS b (sha256, raw_size, stored_size, piece_count, codec, data)
ORDER BY sha256
ON CONFLICT DO NOTHING
RETURNING sha256;

-- name: insert_pieces
INSERT INTO blob_pieces (tenant_id, sha256, piece, codec, data)
SELECT $1, $2, piece, codec, data FROM unnest($3::integer[], $4::text[], $5::bytea[]) AS p (piece, codec, data);

-- name: extend
-- The tenant has these bytes already: they stay at least until the later claim_by.
UPDATE blobs SET claim_by = GREATEST(claim_by, $3)
WHERE tenant_id = $1 AND sha256 = $2
RETURNING stored_size;

-- name: read
SELECT sha256, piece_count, codec, data FROM blobs WHERE tenant_id = $1 AND sha256 = ANY ($2::bytea[]);

-- name: read_pieces
SELECT sha256, codec, data FROM blob_pieces
WHERE tenant_id = $1 AND sha256 = ANY ($2::bytea[])
ORDER BY sha256, piece;

-- name: read_piece
-- The one piece of a small blob, or piece $3 of a large one.
SELECT codec, data FROM blobs WHERE tenant_id = $1 AND sha256 = $2 AND data IS NOT NULL AND $3::integer = 0
UNION ALL
SELECT codec, data FROM blob_pieces WHERE tenant_id = $1 AND sha256 = $2 AND piece = $3;

-- name: lock
-- A statement of its own: what is judged next sees every reference that was committed before the lock was granted.
SELECT sha256 FROM blobs WHERE tenant_id = $1 AND sha256 = ANY ($2::bytea[]) ORDER BY sha256 FOR UPDATE;

-- name: remove_unreferenced
-- OFFSET 0 keeps it one probe of the index for each blob: as a join it may read all the tenant's attachments.
DELETE FROM blobs AS b
WHERE b.tenant_id = $1 AND b.sha256 = ANY ($2::bytea[]) AND (b.claim_by IS NULL OR b.claim_by <= $3)
  AND NOT EXISTS (SELECT FROM attachments AS a WHERE a.tenant_id = $1 AND a.blob_sha256 = b.sha256 OFFSET 0);
