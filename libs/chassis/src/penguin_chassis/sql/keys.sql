-- name: tenants
-- A loose index scan: one probe per tenant and source.
WITH RECURSIVE tenants AS (
    (SELECT tenant_id, 1 AS n FROM storage_keys WHERE tenant_id > $1 ORDER BY tenant_id LIMIT 1)
    UNION ALL
    SELECT following.tenant_id, tenants.n + 1
    FROM tenants,
        LATERAL (
            SELECT k.tenant_id FROM storage_keys AS k WHERE k.tenant_id > tenants.tenant_id ORDER BY k.tenant_id LIMIT 1
        ) AS following
    WHERE tenants.n < $2
)
SELECT tenant_id FROM tenants ORDER BY tenant_id;

-- name: digest_generations
SELECT generation, count(*) AS keys, bit_xor(('x' || right(md5(storage_key), 16))::bit(64)::bigint) AS hash
FROM storage_keys
WHERE tenant_id = $1 AND source = $2 AND generation >= $3 AND generation < $4
GROUP BY generation
ORDER BY generation
LIMIT $5;

-- name: digest_buckets
-- The generations once more as a plain list: an index can be searched by that, and not by a join with the buckets.
SELECT k.generation, left(k.digest, $6::integer + 1) AS prefix, count(*) AS keys,
    bit_xor(('x' || right(k.digest, 16))::bit(64)::bigint) AS hash
FROM (
    SELECT generation, md5(storage_key) AS digest FROM storage_keys
    WHERE tenant_id = $1 AND source = $2 AND generation = ANY ($3::bigint[])
) AS k
WHERE (k.generation, left(k.digest, $6::integer)) IN (SELECT * FROM unnest($4::bigint[], $5::text[]))
GROUP BY 1, 2
ORDER BY 1, 2;

-- name: list
SELECT k.generation, k.storage_key
FROM (
    SELECT generation, storage_key FROM storage_keys
    WHERE tenant_id = $1 AND source = $2 AND generation = ANY ($3::bigint[]) AND generation >= $7
) AS k
WHERE (k.generation, left(md5(k.storage_key), $6::integer)) IN (SELECT * FROM unnest($4::bigint[], $5::text[]))
  AND (k.generation, k.storage_key) > ($7, $8)
ORDER BY k.generation, k.storage_key
LIMIT $9;

-- name: find
SELECT storage_key, source FROM storage_keys
WHERE tenant_id = $1 AND storage_key = ANY ($2::text[])
ORDER BY storage_key, source;
