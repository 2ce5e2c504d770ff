-- name: promote
UPDATE jobs AS j SET state = 1
WHERE j.id = ANY (ARRAY(
    SELECT id FROM jobs WHERE state = 0 AND run_at <= $1 AND run_at > $3 ORDER BY run_at LIMIT $2 FOR UPDATE SKIP LOCKED))
RETURNING j.tenant_id, j.id, j.kind_id, j.priority, j.run_at, j.rank;

-- name: scheduling
SELECT tenant_id, due FROM scheduling($1, $2, $3);

-- name: promote_each
-- As many of each tenant.
UPDATE jobs AS j SET state = 1
WHERE j.id = ANY (ARRAY(
    SELECT d.id FROM unnest($1::uuid[]) AS t (id), LATERAL (
        SELECT id FROM jobs WHERE state = 0 AND tenant_id = t.id AND run_at <= $2 AND run_at > $4
        ORDER BY run_at LIMIT $3 FOR UPDATE SKIP LOCKED) AS d))
RETURNING j.tenant_id, j.id, j.kind_id, j.priority, j.run_at, j.rank;
