-- name: depths
SELECT q.name AS queue, k.name AS kind, d.priority, d.scheduled, d.ready, d.leased, d.held, d.oldest_ready_at, d.dead, d.fresh
FROM (
    SELECT kind_id, priority, sum(scheduled)::bigint AS scheduled, sum(ready)::bigint AS ready, sum(leased)::bigint AS leased,
           sum(held)::bigint AS held, min(oldest_ready_at) AS oldest_ready_at, sum(dead)::bigint AS dead, sum(fresh)::bigint AS fresh
    FROM (
        SELECT kind_id, priority, count(*) FILTER (WHERE state = 0) AS scheduled, count(*) FILTER (WHERE state = 1) AS ready,
               count(*) FILTER (WHERE state = 2) AS leased, count(*) FILTER (WHERE state = 6) AS held, min(run_at) FILTER (WHERE state = 1) AS oldest_ready_at,
               0 AS dead, count(*) FILTER (WHERE created_at > $1) AS fresh
        FROM jobs GROUP BY 1, 2
        UNION ALL
        SELECT kind_id, priority, 0, 0, 0, 0, NULL, count(*), 0 FROM dead_jobs GROUP BY 1, 2
    ) AS counted
    GROUP BY 1, 2
) AS d
JOIN kinds AS k ON k.id = d.kind_id
JOIN queues AS q ON q.id = k.queue_id
ORDER BY 1, 2, 3;

-- name: tenants
SELECT tenant_id, count(*) FILTER (WHERE state <> 2) AS waiting, count(*) FILTER (WHERE state = 2) AS leased
FROM jobs GROUP BY 1 ORDER BY count(*) DESC, tenant_id LIMIT $1;

-- name: ends
-- Jobs that ended since a moment; `fresh` were enqueued since then, too.
SELECT q.name AS queue, k.name AS kind, e.completed, e.dead, e.cancelled, e.fresh
FROM (
    SELECT kind_id, sum(completed)::bigint AS completed, sum(dead)::bigint AS dead, sum(cancelled)::bigint AS cancelled,
           sum(fresh)::bigint AS fresh
    FROM (
        SELECT kind_id, count(*) FILTER (WHERE outcome = 0) AS completed, count(*) FILTER (WHERE outcome = 2) AS dead,
               count(*) FILTER (WHERE outcome = 1) AS cancelled, count(*) FILTER (WHERE created_at > $1) AS fresh
        FROM completed_jobs WHERE finished_at > $1 GROUP BY 1
        UNION ALL
        SELECT kind_id, 0, count(*), 0, count(*) FILTER (WHERE created_at > $1) FROM dead_jobs WHERE finished_at > $1 GROUP BY 1
    ) AS counted
    GROUP BY 1
) AS e
JOIN kinds AS k ON k.id = e.kind_id
JOIN queues AS q ON q.id = k.queue_id;

-- name: dead_rows
-- What vacuum has not removed of tables that turn over fast, which are those with words of their own on being vacuumed: it grows
-- while an old transaction is held open somewhere.
SELECT s.relname, s.n_dead_tup FROM pg_stat_user_tables AS s JOIN pg_class AS c ON c.oid = s.relid
WHERE s.schemaname = 'public' AND NOT c.relispartition
  AND EXISTS (SELECT FROM pg_options_to_table(c.reloptions) AS o WHERE o.option_name LIKE 'autovacuum%')
ORDER BY 1;

-- name: oldest_xmin_age
-- Since when the oldest transaction, of which this role may know, keeps vacuum from removing what is dead (seconds).
SELECT coalesce(extract(epoch FROM clock_timestamp() - min(since)), 0)::double precision
FROM (
    SELECT xact_start AS since FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)
    UNION ALL
    SELECT prepared FROM pg_prepared_xacts WHERE database = current_database()
) AS open;

-- name: slot_xmins
-- Replication slots hold it back, too, and do not tell since when.
SELECT slot_name, xmin::text AS xmin FROM pg_replication_slots WHERE xmin IS NOT NULL;
