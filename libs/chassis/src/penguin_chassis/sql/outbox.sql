-- name: append
INSERT INTO outbox (tenant_id, id, destination, kind, payload, traceparent, available_at, created_at)
SELECT $1, id, destination, kind, payload, $6, available_at, $7
FROM unnest($2::uuid[], $3::text[], $4::text[], $5::bytea[], $8::timestamptz[])
    AS owed (id, destination, kind, payload, available_at);

-- name: due_tenants
-- A loose index scan: one probe per tenant with due rows, from a random tenant onwards, so that none is always last.
WITH RECURSIVE due AS (
    (SELECT tenant_id, 1 AS n FROM outbox WHERE tenant_id > $1 AND available_at <= $2 ORDER BY tenant_id LIMIT 1)
    UNION ALL
    SELECT following.tenant_id, due.n + 1
    FROM due,
        LATERAL (
            SELECT o.tenant_id FROM outbox AS o
            WHERE o.tenant_id > due.tenant_id AND o.available_at <= $2
            ORDER BY o.tenant_id LIMIT 1
        ) AS following
    WHERE due.n < $3
)
SELECT tenant_id FROM due;

-- name: lease
UPDATE outbox AS o
SET lease_token = $3, available_at = $4, attempt = o.attempt + 1
FROM (
    SELECT id FROM outbox
    WHERE tenant_id = $1 AND available_at <= $2
      AND (cardinality($6::text[]) = 0 OR destination = ANY ($6::text[]))
    ORDER BY available_at, id
    LIMIT $5
    FOR UPDATE SKIP LOCKED
) AS picked
WHERE o.tenant_id = $1 AND o.id = picked.id
RETURNING o.tenant_id, o.id, o.destination, o.kind, o.payload, o.traceparent, o.attempt, o.created_at;

-- name: settle_delivered
DELETE FROM outbox AS o
USING unnest($1::uuid[], $2::uuid[]) AS done (tenant_id, id)
WHERE o.tenant_id = done.tenant_id AND o.id = done.id AND o.lease_token = $3;

-- name: settle_failed
UPDATE outbox AS o
SET available_at = failed.available_at, last_error = failed.error, lease_token = NULL
FROM unnest($1::uuid[], $2::uuid[], $4::timestamptz[], $5::text[]) AS failed (tenant_id, id, available_at, error)
WHERE o.tenant_id = failed.tenant_id AND o.id = failed.id AND o.lease_token = $3;

-- name: depth
-- Counts no further than the limit: the answer is how deep, not how endless.
SELECT count(*) AS depth, min(created_at) AS oldest_at
FROM (SELECT created_at FROM outbox LIMIT $1) AS counted;
