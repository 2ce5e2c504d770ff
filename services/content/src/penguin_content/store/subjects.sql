-- name: page
-- Contents with their bodies, a few at a time, and the names of their attachments.
SELECT c.storage_key, c.codec, c.body, c.raw_source, array_to_string(c.defects, ' ') AS defects,
    (SELECT string_agg(a.filename, ' ') FROM attachments AS a WHERE a.tenant_id = $1 AND a.storage_key = c.storage_key)
        AS filenames
FROM content_objects AS c
WHERE c.tenant_id = $1 AND c.storage_key > $2
ORDER BY c.storage_key LIMIT $3;

-- name: list_after
SELECT storage_key FROM content_objects WHERE tenant_id = $1 AND lists_people AND storage_key > $2
ORDER BY storage_key LIMIT 1;

-- name: blobs
SELECT sha256, codec, data FROM blobs
WHERE tenant_id = $1 AND sha256 > $2 AND data IS NOT NULL ORDER BY sha256 LIMIT $3;

-- name: standing
SELECT sha256 FROM blobs WHERE tenant_id = $1 AND sha256 = ANY ($2::bytea[]) ORDER BY sha256;

-- name: pieces
-- Pieces of large blobs in their order: what stands across the end of one is found in the tail that is carried on.
SELECT p.sha256, p.piece, p.codec, p.data, p.piece + 1 = b.piece_count AS last
FROM (
    SELECT sha256, piece, codec, data FROM blob_pieces
    WHERE tenant_id = $1 AND (sha256, piece) > ($2, $3) ORDER BY sha256, piece LIMIT $4
) AS p JOIN blobs AS b ON b.tenant_id = $1 AND b.sha256 = p.sha256
ORDER BY p.sha256, p.piece;

-- name: export
SELECT c.storage_key AS key, c.codec, c.body, c.raw_source, c.created_at,
    (SELECT jsonb_agg(jsonb_build_object('position', a.position, 'filename', a.filename, 'mime_type', a.mime_type,
                                         'size', a.size, 'sha256', encode(a.sha256, 'hex')) ORDER BY a.position)
     FROM attachments AS a WHERE a.tenant_id = $1 AND a.storage_key = c.storage_key)::text AS attachments
FROM content_objects AS c
WHERE c.tenant_id = $1 AND c.storage_key = $2;
