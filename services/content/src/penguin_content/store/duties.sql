-- name: overdue_content_tenants
-- A loose index scan: one probe per tenant that has overdue rows, from a random tenant onwards.
WITH RECURSIVE due AS (
    (SELECT tenant_id, 1 AS n FROM content_objects
     WHERE state = 'unclaimed' AND claim_by <= $2 AND tenant_id > $1 ORDER BY tenant_id LIMIT 1)
    UNION ALL
    SELECT following.tenant_id, due.n + 1
    FROM due,
        LATERAL (
            SELECT c.tenant_id FROM content_objects AS c
            WHERE c.state = 'unclaimed' AND c.claim_by <= $2 AND c.tenant_id > due.tenant_id
            ORDER BY c.tenant_id LIMIT 1
        ) AS following
    WHERE due.n < $3
)
SELECT tenant_id FROM due;

-- name: quarantine
UPDATE content_objects SET state = 'quarantined', quarantined_at = $2
-- An array: as a sub-select it may be run, and lock, once for every row.
WHERE tenant_id = $1 AND state = 'unclaimed' AND storage_key = ANY (ARRAY(
    SELECT storage_key FROM content_objects
    WHERE tenant_id = $1 AND state = 'unclaimed' AND claim_by <= $2
    ORDER BY claim_by
    LIMIT $3
    FOR NO KEY UPDATE SKIP LOCKED));

-- name: overdue_list_tenants
-- There are few.
SELECT DISTINCT tenant_id FROM content_objects
WHERE lists_people AND claim_by <= $2 AND state <> 'claimed' AND tenant_id > $1
ORDER BY tenant_id LIMIT $3;

-- name: lock_overdue_lists
-- But for those that a legal hold keeps: no other can be put before this transaction ends.
SELECT storage_key FROM content_objects
WHERE tenant_id = $1 AND lists_people AND claim_by <= $2 AND state <> 'claimed'
  AND NOT EXISTS (SELECT FROM legal_holds AS h WHERE h.tenant_id = $1 AND h.storage_key = content_objects.storage_key)
  AND NOT EXISTS (SELECT FROM legal_hold_keys AS k WHERE k.tenant_id = $1 AND k.storage_key = content_objects.storage_key)
ORDER BY claim_by
LIMIT $3
FOR UPDATE SKIP LOCKED;

-- name: overdue_blob_tenants
WITH RECURSIVE due AS (
    (SELECT tenant_id, 1 AS n FROM blobs
     WHERE claim_by IS NOT NULL AND claim_by <= $2 AND tenant_id > $1 ORDER BY tenant_id LIMIT 1)
    UNION ALL
    SELECT following.tenant_id, due.n + 1
    FROM due,
        LATERAL (
            SELECT b.tenant_id FROM blobs AS b
            WHERE b.claim_by IS NOT NULL AND b.claim_by <= $2 AND b.tenant_id > due.tenant_id
            ORDER BY b.tenant_id LIMIT 1
        ) AS following
    WHERE due.n < $3
)
SELECT tenant_id FROM due;

-- name: lock_overdue_blobs
SELECT sha256 FROM blobs
WHERE tenant_id = $1 AND claim_by <= $2
ORDER BY claim_by
LIMIT $3
FOR UPDATE SKIP LOCKED;

-- name: settle_blobs
-- What is still there is referred to, and lives as long as its references.
UPDATE blobs SET claim_by = NULL WHERE tenant_id = $1 AND sha256 = ANY ($2::bytea[]);
