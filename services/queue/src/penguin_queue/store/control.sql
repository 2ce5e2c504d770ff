-- name: cancel
-- Locked in the order of their ids, as whoever completes does. What was leased or ended meanwhile is seen as it is now.
WITH found AS MATERIALIZED (
    SELECT j.id, j.state FROM jobs AS j
    WHERE j.tenant_id = $1 AND j.id = ANY ($2::bigint[])
    ORDER BY j.id
    FOR UPDATE OF j
), ended AS (
    DELETE FROM jobs AS j
    WHERE j.tenant_id = $1 AND j.id = ANY (ARRAY(SELECT id FROM found WHERE state <> 2))
    RETURNING j.*
), kept AS (
    -- Without a token: a late worker's "done" is no repeat of what ended it.
    INSERT INTO completed_jobs (id, run_at, created_at, finished_at, tenant_id, kind_id, snoozes, priority, rank, attempts,
                                max_attempts, lost_leases, payload, traceparent, worker_id, last_error, outcome)
    SELECT id, run_at, created_at, $3, tenant_id, kind_id, snoozes, priority, rank, attempts, max_attempts, lost_leases,
           payload, traceparent, worker_id, last_error, 1
    FROM ended
), marked AS (
    UPDATE jobs AS j SET cancel_wanted = true
    WHERE j.tenant_id = $1 AND j.id = ANY (ARRAY(SELECT id FROM found WHERE state = 2))
    RETURNING j.id
)
SELECT id, true AS ended FROM ended UNION ALL SELECT id, false FROM marked;

-- name: end_marked
-- The worker's word on jobs whose cancellation is wished: whatever it is but "done", they end here.
WITH gone AS (
    DELETE FROM jobs AS j
    USING unnest($1::bigint[], $2::bigint[], $3::text[]) AS r (id, token, error)
    WHERE j.id = r.id AND j.lease_token = r.token AND j.cancel_wanted AND j.id = ANY ($1::bigint[])
    RETURNING j.*, r.error
), kept AS (
    INSERT INTO completed_jobs (id, run_at, created_at, finished_at, tenant_id, kind_id, snoozes, priority, rank, attempts,
                                max_attempts, lost_leases, payload, traceparent, worker_id, last_error, outcome)
    SELECT id, run_at, created_at, $4, tenant_id, kind_id, snoozes, priority, rank, attempts + $5::smallint, max_attempts,
           lost_leases, payload, traceparent, worker_id, coalesce(nullif(error, ''), last_error), 1
    FROM gone
)
SELECT id, lease_token FROM gone;

-- name: end_marked_lost
-- Their leases ran out with no word: nobody has them, and nobody is to have them.
WITH gone AS (
    DELETE FROM jobs AS j
    WHERE j.id = ANY (ARRAY(
        SELECT id FROM jobs WHERE state = 2 AND leased_until <= $1 AND leased_until > $4 AND cancel_wanted
        ORDER BY leased_until LIMIT $2 FOR UPDATE SKIP LOCKED))
    RETURNING j.*, j.attempts + j.lost_leases + 1 AS attempt
), noted AS (
    INSERT INTO job_attempts (job_id, finished_at, tenant_id, attempt, outcome, error, worker_id)
    SELECT id, $1, tenant_id, attempt, 2, $3, worker_id FROM gone
), kept AS (
    INSERT INTO completed_jobs (id, run_at, created_at, finished_at, tenant_id, kind_id, snoozes, priority, rank, attempts,
                                max_attempts, lost_leases, payload, traceparent, worker_id, last_error, outcome)
    SELECT id, run_at, created_at, $1, tenant_id, kind_id, snoozes, priority, rank, attempts, max_attempts, lost_leases + 1,
           payload, traceparent, worker_id, last_error, 1
    FROM gone
)
SELECT tenant_id, id, attempt FROM gone;

-- name: redrive
-- Each in its old place: it waits for nothing but whoever of its key is in hand, and so never for one that waits for it. Those
-- that died before places were kept stand before all others. Whoever stood first meanwhile has been held back.
WITH found AS MATERIALIZED (
    SELECT d.id, d.finished_at FROM dead_jobs AS d
    WHERE d.tenant_id = $1 AND d.id = ANY ($2::bigint[])
    ORDER BY d.id, d.finished_at
    FOR UPDATE OF d
), risen AS (
    DELETE FROM dead_jobs AS d USING found
    WHERE d.tenant_id = $1 AND d.id = ANY ($2::bigint[]) AND d.id = found.id AND d.finished_at = found.finished_at
    RETURNING d.*
)
INSERT INTO jobs (id, run_at, created_at, tenant_id, kind_id, priority, rank, max_attempts, state, snoozes, payload,
                  traceparent, last_error, rate_key, ordering_key, position, batch_id, awaited)
SELECT id, $3, created_at, tenant_id, kind_id, priority, rank, max_attempts, 1, snoozes, payload, traceparent, last_error,
       rate_key, ordering_key, CASE WHEN ordering_key IS NOT NULL THEN coalesce(position, id - (1::bigint << 62)) END,
       batch_id,
       nullif(EXISTS (SELECT FROM dependencies AS w WHERE w.tenant_id = $1 AND w.awaits = risen.id), false)
FROM risen
-- Keys are locked in the order of their locks.
ORDER BY turn_lock(tenant_id, ordering_key) NULLS FIRST, position NULLS FIRST, id
RETURNING state, tenant_id, id, kind_id, priority, run_at, rank;

-- name: dead_among
SELECT DISTINCT id FROM dead_jobs WHERE tenant_id = $1 AND id = ANY ($2::bigint[]) ORDER BY id;

-- name: dead_matching
SELECT id FROM dead_jobs
WHERE tenant_id = $1 AND ($2::integer IS NULL OR kind_id = $2) AND ($3::text = '' OR starts_with(last_error, $3))
  AND finished_at >= coalesce($4::timestamptz, '-infinity') AND finished_at < coalesce($5::timestamptz, 'infinity')
ORDER BY id
LIMIT $6;

-- name: count_dead_matching
SELECT count(*) FROM (
    SELECT FROM dead_jobs
    WHERE tenant_id = $1 AND ($2::integer IS NULL OR kind_id = $2) AND ($3::text = '' OR starts_with(last_error, $3))
      AND finished_at >= coalesce($4::timestamptz, '-infinity') AND finished_at < coalesce($5::timestamptz, 'infinity')
    LIMIT $6
) AS matching;

-- name: matching_ready
SELECT id FROM jobs
WHERE tenant_id = $1 AND ($2::integer IS NULL OR kind_id = $2)
  AND created_at < coalesce($3::timestamptz, 'infinity') AND state < 2
ORDER BY id
LIMIT $4;

-- name: matching_held
SELECT id FROM jobs
WHERE tenant_id = $1 AND ($2::integer IS NULL OR kind_id = $2)
  AND created_at < coalesce($3::timestamptz, 'infinity') AND state = 6
ORDER BY id
LIMIT $4;

-- name: matching_dead
SELECT id FROM dead_jobs
WHERE tenant_id = $1 AND ($2::integer IS NULL OR kind_id = $2) AND created_at < coalesce($3::timestamptz, 'infinity')
ORDER BY id
LIMIT $4;

-- name: matching_over
SELECT id FROM completed_jobs
WHERE tenant_id = $1 AND ($2::integer IS NULL OR kind_id = $2)
  AND created_at < coalesce($3::timestamptz, 'infinity') AND outcome = $5
ORDER BY id
LIMIT $4;

-- name: purge_jobs
-- One that somebody is at just now is being leased, or has been: it stays.
DELETE FROM jobs AS j
WHERE j.tenant_id = $1 AND j.id = ANY (ARRAY(
    SELECT w.id FROM jobs AS w WHERE w.tenant_id = $1 AND w.id = ANY ($2::bigint[]) AND w.state <> 2
    ORDER BY w.id FOR UPDATE SKIP LOCKED));

-- name: purge_dead_jobs
-- But for those of which the sweep is to learn how they ended.
DELETE FROM dead_jobs AS d WHERE d.tenant_id = $1 AND d.id = ANY ($2::bigint[])
  AND NOT EXISTS (SELECT FROM wakes AS w WHERE w.tenant_id = $1 AND w.job_id = d.id);

-- name: purge_completed_jobs
DELETE FROM completed_jobs AS c WHERE c.tenant_id = $1 AND c.id = ANY ($2::bigint[])
  AND NOT EXISTS (SELECT FROM wakes AS w WHERE w.tenant_id = $1 AND w.job_id = c.id);

-- name: set_priority
UPDATE jobs AS j SET priority = $3, rank = coalesce($4::smallint, j.rank)
WHERE j.tenant_id = $1 AND j.id = ANY (ARRAY(
    SELECT w.id FROM jobs AS w WHERE w.tenant_id = $1 AND w.id = ANY ($2::bigint[]) AND w.state <> 2
    ORDER BY w.id FOR UPDATE))
RETURNING j.tenant_id, j.id, j.kind_id, j.priority, j.run_at, j.rank;
