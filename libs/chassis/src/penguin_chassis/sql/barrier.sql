-- name: claim
-- Waits for a concurrent claim of the same key to commit or roll back; the keys that come back are this transaction's.
INSERT INTO step_barrier (tenant_id, key, operation, digest, reply, created_at)
SELECT $1, key, $2, digest, reply, $6 FROM unnest($3::text[], $4::bytea[], $5::bytea[]) AS claimed (key, digest, reply)
ORDER BY key
ON CONFLICT DO NOTHING
RETURNING key;

-- name: recall
SELECT key, digest, reply, compensated, refused
FROM step_barrier
WHERE tenant_id = $1 AND operation = $2 AND key = ANY ($3::text[]);

-- name: record
-- An update by key, written as an upsert: it goes through the primary key whatever the statistics say. As a join it was
-- planned, on a table not yet analysed, as a scan of all the tenant's rows for each key: seconds for a batch.
INSERT INTO step_barrier (tenant_id, key, operation, digest, created_at, reply)
SELECT $1, r.key, $2, '', now(), r.reply FROM unnest($3::text[], $4::bytea[]) AS r (key, reply)
ON CONFLICT (tenant_id, key, operation) DO UPDATE SET reply = excluded.reply;

-- name: release
DELETE FROM step_barrier WHERE tenant_id = $1 AND operation = $2 AND key = ANY ($3::text[]);

-- name: refuse
-- An action that was refused for good is barred, as one that was compensated.
INSERT INTO step_barrier (tenant_id, key, operation, digest, compensated, refused, created_at)
VALUES ($1, $2, 'action', $3, true, $4, $5)
ON CONFLICT DO NOTHING
RETURNING key;

-- name: overtake
-- A compensation bars its action, whether that has come already or is still on its way.
INSERT INTO step_barrier (tenant_id, key, operation, digest, compensated, created_at)
VALUES ($1, $2, 'action', '', true, $3)
-- From then on it is kept as long as if the action had only just come: no action that was sent before can outlast it.
ON CONFLICT (tenant_id, key, operation) DO UPDATE
SET compensated = true, created_at = greatest(step_barrier.created_at, excluded.created_at);
