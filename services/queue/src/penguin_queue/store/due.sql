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

-- name: run_out
-- Those that are to be leased again: not such as have been lost too often, unless while the queue was away, or are cancelled.
SELECT l.id FROM jobs AS l JOIN kinds AS k ON k.id = l.kind_id JOIN queues AS q ON q.id = k.queue_id
WHERE l.state = 2 AND l.leased_until <= $1 AND l.leased_until > $3
  AND (l.lost_leases < q.lost_lease_limit + $4::integer OR l.leased_until > $5 AND l.leased_until <= $6)
  AND NOT l.cancel_wanted
ORDER BY l.leased_until LIMIT $2 FOR UPDATE OF l SKIP LOCKED;

-- name: run_out_each
-- Of so many that have run out, the earliest first, as many of each tenant; how many they are, and when the last of them ran out.
WITH seen AS MATERIALIZED (
    SELECT id, tenant_id, leased_until FROM jobs WHERE state = 2 AND leased_until <= $1 AND leased_until > $2
    ORDER BY leased_until LIMIT $3
), turns AS (
    SELECT id, leased_until, row_number() OVER (PARTITION BY tenant_id ORDER BY leased_until) AS turn FROM seen
)
SELECT count(*) AS seen, max(leased_until) AS last,
       ARRAY(SELECT id FROM turns ORDER BY turn, leased_until LIMIT $4) AS ids
FROM seen;
