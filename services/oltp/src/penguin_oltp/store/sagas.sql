-- name: insert
-- Nothing where the saga, or an unfinished one about the same subject, stands already.
INSERT INTO sagas (
    tenant_id, id, kind, version, subject, state, undoing, input, owner, owner_epoch, due_at, attempts, last_error,
    reason, actor, created_at, updated_at, finished_at, takeovers)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
ON CONFLICT DO NOTHING
RETURNING id;

-- name: unfinished
SELECT * FROM sagas
WHERE tenant_id = $1 AND kind = $2 AND subject = $3 AND subject <> '' AND finished_at IS NULL;

-- name: get
SELECT * FROM sagas WHERE tenant_id = $1 AND id = $2;

-- name: hold
SELECT * FROM sagas WHERE tenant_id = $1 AND id = $2 FOR NO KEY UPDATE;

-- name: move
UPDATE sagas
SET state = $3, undoing = $4, owner = $5, owner_epoch = $6, due_at = $7, attempts = $8, last_error = $9, reason = $10,
    actor = $11, updated_at = $12, finished_at = $13, takeovers = $14
WHERE tenant_id = $1 AND id = $2;

-- name: steps
SELECT saga_id, step, operation, state, keys, result, attempts, last_error, reason, actor, begun_at, updated_at
FROM saga_steps WHERE tenant_id = $1 AND saga_id = ANY ($2::uuid[]) ORDER BY saga_id, begun_at, operation, step;

-- name: journal
INSERT INTO saga_steps (
    tenant_id, saga_id, step, operation, state, keys, result, attempts, last_error, reason, actor, begun_at, updated_at)
SELECT $1, $2, j.* FROM unnest(
    $3::text[], $4::text[], $5::text[], $6::bytea[], $7::bytea[], $8::integer[], $9::text[], $10::text[], $11::text[],
    $12::timestamptz[], $13::timestamptz[]) AS j
ON CONFLICT (tenant_id, saga_id, step, operation) DO UPDATE
SET state = excluded.state, keys = excluded.keys, result = excluded.result, attempts = excluded.attempts,
    last_error = excluded.last_error, reason = excluded.reason, actor = excluded.actor, updated_at = excluded.updated_at;

-- name: list
-- For the maintenance role where no tenant is given.
SELECT * FROM sagas
WHERE id > $1 AND ($3::uuid IS NULL OR tenant_id = $3) AND ($4::text = '' OR state = $4) AND ($5::text = '' OR kind = $5)
ORDER BY id LIMIT $2;

-- name: due_tenants
-- A loose index scan: one probe per tenant with unfinished sagas. `held`: how many of them the owner ($5) has already; a tenant
-- of which it has $6 is left out (0: none is).
WITH RECURSIVE tenants AS (
    (SELECT tenant_id FROM sagas WHERE due_at IS NOT NULL AND tenant_id > $1 ORDER BY tenant_id LIMIT 1)
    UNION ALL
    SELECT following.tenant_id
    FROM tenants,
        LATERAL (
            SELECT s.tenant_id FROM sagas AS s WHERE s.due_at IS NOT NULL AND s.tenant_id > tenants.tenant_id
            ORDER BY s.tenant_id LIMIT 1
        ) AS following
)
SELECT tenants.tenant_id, in_hand.held
FROM tenants,
    LATERAL (
        SELECT count(*) AS held FROM sagas AS s
        WHERE s.tenant_id = tenants.tenant_id AND s.due_at > $2 AND s.owner = $5
            AND ($3::text[] = '{}' OR s.kind || '/' || s.version = ANY ($3))
    ) AS in_hand
WHERE EXISTS (
    SELECT FROM sagas AS s
    WHERE s.tenant_id = tenants.tenant_id AND s.due_at <= $2
        AND ($3::text[] = '{}' OR s.kind || '/' || s.version = ANY ($3)))
    AND ($6::integer = 0 OR in_hand.held < $6)
LIMIT $4;

-- name: passed_over
-- Across tenants: for the maintenance role.
SELECT DISTINCT kind || '/' || version AS definition FROM (
    SELECT tenant_id, kind, version FROM sagas WHERE due_at <= $1 AND NOT kind || '/' || version = ANY ($2::text[])
    LIMIT 1000) AS due
LIMIT 10;

-- name: claim
-- Picked once: as a plain sub-select the planner may run it again for each row, and claim more than was asked for.
-- Who still owns one that is due has let its lease run out.
WITH picked AS MATERIALIZED (
    SELECT s.id FROM sagas AS s
    WHERE s.tenant_id = $1 AND s.due_at <= $2 AND ($6::text[] = '{}' OR s.kind || '/' || s.version = ANY ($6))
    ORDER BY s.due_at, s.id
    LIMIT $5
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE sagas AS s
SET owner = $3, owner_epoch = s.owner_epoch + 1, due_at = $4, updated_at = $2,
    takeovers = s.takeovers + (s.owner <> '')::integer
FROM picked
WHERE s.tenant_id = $1 AND s.id = picked.id
RETURNING s.*;

-- name: claim_one
UPDATE sagas
SET owner = $4, owner_epoch = owner_epoch + 1, due_at = $5, updated_at = $3,
    takeovers = takeovers + (owner <> '')::integer
WHERE tenant_id = $1 AND id = $2 AND due_at <= $3
RETURNING *;

-- name: forget
-- Finished ones past their retention, their steps with them; across tenants, for the maintenance role.
DELETE FROM sagas WHERE (tenant_id, id) IN (SELECT tenant_id, id FROM sagas WHERE finished_at < $1 LIMIT $2);
