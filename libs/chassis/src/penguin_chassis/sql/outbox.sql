-- name: append
INSERT INTO outbox (
    tenant_id, id, destination, kind, payload, traceparent, available_at, created_at, aggregate, place)
SELECT $1, id, destination, kind, payload, $6, available_at, $7, aggregate,
    CASE WHEN aggregate <> '' THEN nextval('outbox_places') ELSE 0 END
FROM unnest($2::uuid[], $3::text[], $4::text[], $5::bytea[], $8::timestamptz[], $9::text[])
    AS owed (id, destination, kind, payload, available_at, aggregate);

-- name: destinations
-- Reads all that is owed: for a caller that names no destination.
SELECT DISTINCT destination FROM outbox;

-- name: due_tenants
-- A loose index scan: one probe per tenant, and one per tenant and destination for something due. A backlog that nobody
-- can take costs its tenant's one probe, however deep it is, and takes nobody's place.
WITH RECURSIVE tenants AS (
    (SELECT tenant_id FROM outbox WHERE tenant_id >= $1 ORDER BY tenant_id LIMIT 1)
    UNION ALL
    SELECT following.tenant_id
    FROM tenants,
        LATERAL (
            SELECT o.tenant_id FROM outbox AS o WHERE o.tenant_id > tenants.tenant_id ORDER BY o.tenant_id LIMIT 1
        ) AS following
)
SELECT tenants.tenant_id
FROM tenants
WHERE EXISTS (
    SELECT FROM unnest($2::text[]) AS wanted (destination),
        LATERAL (
            SELECT FROM outbox AS o
            WHERE o.tenant_id = tenants.tenant_id AND o.destination = wanted.destination AND o.available_at <= $3
                AND (o.aggregate = '' OR NOT EXISTS (
                    SELECT FROM outbox AS before
                    WHERE before.tenant_id = o.tenant_id AND before.aggregate = o.aggregate AND before.aggregate <> ''
                        AND before.place < o.place))
            ORDER BY o.tenant_id, o.destination, o.available_at LIMIT 1
        ) AS due
)
LIMIT $4;

-- name: lease
-- Picked once: as a plain sub-select the planner may run it again for each row, and lease more than was asked for.
-- Of an aggregate the first that stands, wherever it goes: until it is settled the next is nobody's.
WITH picked AS MATERIALIZED (
    SELECT due.id, due.available_at
    FROM unnest($6::text[]) AS wanted (destination),
        LATERAL (
            SELECT d.id, d.available_at FROM outbox AS d
            WHERE d.tenant_id = $1 AND d.destination = wanted.destination AND d.available_at <= $2
                AND (d.aggregate = '' OR NOT EXISTS (
                    SELECT FROM outbox AS before
                    WHERE before.tenant_id = $1 AND before.aggregate = d.aggregate AND before.aggregate <> ''
                        AND before.place < d.place))
            ORDER BY d.available_at, d.id
            LIMIT $5
            FOR UPDATE SKIP LOCKED
        ) AS due
    ORDER BY due.available_at, due.id
    LIMIT $5
), leased AS (
    UPDATE outbox AS o
    SET lease_token = $3, available_at = $4, attempt = o.attempt + 1
    FROM picked
    WHERE o.tenant_id = $1 AND o.id = picked.id
    RETURNING o.tenant_id, o.id, o.destination, o.kind, o.payload, o.traceparent, o.attempt, o.created_at,
        picked.available_at AS due_at
)
-- An UPDATE returns its rows in any order.
SELECT tenant_id, id, destination, kind, payload, traceparent, attempt, created_at
FROM leased ORDER BY due_at, id;

-- name: settle_delivered
DELETE FROM outbox AS o
USING unnest($1::uuid[], $2::uuid[]) AS done (tenant_id, id)
WHERE o.tenant_id = done.tenant_id AND o.id = done.id AND o.lease_token = $3;

-- name: settle_failed
UPDATE outbox AS o
SET available_at = failed.available_at, last_error = failed.error, lease_token = NULL
FROM unnest($1::uuid[], $2::uuid[], $4::timestamptz[], $5::text[]) AS failed (tenant_id, id, available_at, error)
WHERE o.tenant_id = failed.tenant_id AND o.id = failed.id AND o.lease_token = $3;

-- name: depths
-- Counts no further than the limit: the answer is how deep, not how endless.
SELECT destination, count(*) AS rows, min(created_at) AS oldest_at
FROM (SELECT destination, created_at FROM outbox LIMIT $1) AS counted
GROUP BY destination;

-- name: oldest_of_tenant
SELECT destination, min(created_at) AS oldest_at FROM outbox WHERE tenant_id = $1 GROUP BY destination;
