-- name: turn
-- Runs are begun one after the other.
SELECT pg_advisory_xact_lock(hashtext('reconcile_runs')) IS NULL AS waited, $1::uuid AS tenant_id;

-- name: running
SELECT * FROM reconcile_runs WHERE status = 'running' ORDER BY tenant_id, id FOR UPDATE;

-- name: last_started
-- Of runs that may do as much. One that was refused, or left tenants uncompared, stands in the way of the next for a shorter time.
SELECT max(started_at) AS started_at FROM reconcile_runs
WHERE tenant_id = $1 AND apply = $2
    AND (status <> 'refused' AND coalesce((counts ->> 'tenants_uncompared')::bigint, 0) = 0 OR started_at > $3);

-- name: insert
INSERT INTO reconcile_runs (tenant_id, id, apply, grace_s, cap, status, owner, leased_until, started_at)
VALUES ($1, $2, $3, $4, $5, 'running', $6, $7, $8)
ON CONFLICT DO NOTHING
RETURNING *;

-- name: take_on
UPDATE reconcile_runs SET owner = $3, leased_until = $4 WHERE tenant_id = $1 AND id = $2 RETURNING *;

-- name: leave
UPDATE reconcile_runs SET status = 'refused', refused_reason = $4, finished_at = $3
WHERE tenant_id = $1 AND id = $2;

-- name: hold
-- A run is known by its id alone: all of them are the platform's.
SELECT * FROM reconcile_runs WHERE id = $1 AND tenant_id IS NOT NULL FOR UPDATE;

-- name: get
SELECT * FROM reconcile_runs WHERE id = $1 AND tenant_id IS NOT NULL;

-- name: extend
UPDATE reconcile_runs SET leased_until = $3 WHERE tenant_id = $1 AND id = $2;

-- name: progress
SELECT tenant_id, part, to_generation, done, counts FROM reconcile_progress
WHERE run_id = $1 ORDER BY tenant_id, part;

-- name: last_progress
SELECT tenant_id, part, to_generation, done, counts FROM reconcile_progress
WHERE tenant_id = $1 AND part = $2 AND done ORDER BY recorded_at DESC LIMIT 1;

-- name: put_progress
INSERT INTO reconcile_progress AS p (tenant_id, run_id, part, to_generation, done, counts, recorded_at)
VALUES ($1, $2, $3, $4, $5, $6::jsonb, $7)
ON CONFLICT (tenant_id, run_id, part) DO UPDATE
SET to_generation = excluded.to_generation, done = excluded.done, counts = excluded.counts,
    recorded_at = excluded.recorded_at;

-- name: put_findings
INSERT INTO reconcile_findings AS f (tenant_id, run_id, kind, subject, source, action, found_at)
SELECT tenant_id, $1, kind, subject, source, action, $2
FROM unnest($3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[])
    AS found (tenant_id, kind, subject, source, action)
ORDER BY tenant_id, kind, subject
ON CONFLICT (tenant_id, run_id, kind, subject) DO UPDATE SET source = excluded.source, action = excluded.action;

-- name: finish
UPDATE reconcile_runs SET status = $3, refused_reason = $4, finished_at = $5, counts = $6::jsonb
WHERE tenant_id = $1 AND id = $2
RETURNING *;

-- name: list_runs
SELECT * FROM reconcile_runs WHERE (started_at, id) < ($1, $2) AND tenant_id IS NOT NULL
ORDER BY started_at DESC, id DESC LIMIT $3;

-- name: list_findings
SELECT tenant_id, kind, subject, source, action FROM reconcile_findings
WHERE run_id = $1 AND (tenant_id, kind, subject) > ($2, $3, $4)
ORDER BY tenant_id, kind, subject LIMIT $5;

-- name: remove_old
DELETE FROM reconcile_runs WHERE started_at < $1 AND tenant_id IS NOT NULL RETURNING id;

-- name: remove_old_progress
DELETE FROM reconcile_progress WHERE recorded_at < $1 AND tenant_id IS NOT NULL;

-- name: remove_old_findings
DELETE FROM reconcile_findings WHERE found_at < $1 AND tenant_id IS NOT NULL;
