-- name: ensure_partitions
SELECT ensure_partitions($1::text::regclass, $2, $3, $4);

-- name: oldest_held
-- What is kept by a legal hold: the oldest day of a tenant that has one on a person, and all since.
WITH held AS (SELECT DISTINCT tenant_id FROM legal_holds WHERE subject <> '')
SELECT
    (SELECT min(finished_at)::date FROM completed_jobs WHERE tenant_id IN (SELECT tenant_id FROM held)) AS completed_jobs,
    (SELECT min(finished_at)::date FROM dead_jobs WHERE tenant_id IN (SELECT tenant_id FROM held)) AS dead_jobs,
    (SELECT min(finished_at)::date FROM job_attempts WHERE tenant_id IN (SELECT tenant_id FROM held)) AS job_attempts;

-- name: held
SELECT DISTINCT tenant_id FROM legal_holds WHERE subject <> '';

-- name: drop_partitions
SELECT drop_partitions($1::text::regclass, least($2::date, $3::date));

-- name: longest
SELECT make_interval(secs => max(completed_retention)), make_interval(secs => max(dead_retention)) FROM queues;

-- name: expire_completed
DELETE FROM completed_jobs
WHERE finished_at < $1 AND tenant_id NOT IN (SELECT tenant_id FROM legal_holds WHERE subject <> '');

-- name: expire_dead
DELETE FROM dead_jobs
WHERE finished_at < $1 AND tenant_id NOT IN (SELECT tenant_id FROM legal_holds WHERE subject <> '');

-- name: expire_attempts
DELETE FROM job_attempts
WHERE finished_at < $1 AND tenant_id NOT IN (SELECT tenant_id FROM legal_holds WHERE subject <> '');

-- name: completed_behind
-- Queues that keep less than others and have come equally far: since when there is to be combed, and up to which day.
SELECT array_agg(q.id) AS queues, ARRAY(SELECT k.id FROM kinds AS k WHERE k.queue_id = ANY (array_agg(q.id))) AS kinds,
       since, edge
FROM (
    SELECT id, date_trunc('day', $1::timestamptz - make_interval(secs => completed_retention), 'UTC') AS edge,
           coalesce(completed_combed, $1::timestamptz - make_interval(secs => max(completed_retention) OVER ())) AS since,
           completed_retention < max(completed_retention) OVER () AS shorter
    FROM queues
) AS q
WHERE shorter AND since < edge
GROUP BY since, edge
ORDER BY since;

-- name: dead_behind
SELECT array_agg(q.id) AS queues, ARRAY(SELECT k.id FROM kinds AS k WHERE k.queue_id = ANY (array_agg(q.id))) AS kinds,
       since, edge
FROM (
    SELECT id, date_trunc('day', $1::timestamptz - make_interval(secs => dead_retention), 'UTC') AS edge,
           coalesce(dead_combed, $1::timestamptz - make_interval(secs => max(dead_retention) OVER ())) AS since,
           dead_retention < max(dead_retention) OVER () AS shorter
    FROM queues
) AS q
WHERE shorter AND since < edge
GROUP BY since, edge
ORDER BY since;

-- name: alone
SELECT pg_try_advisory_xact_lock(hashtext('penguin_queue.comb'));

-- name: pages
SELECT (coalesce(max(pg_relation_size(c.oid)), 0) / current_setting('block_size')::integer)::integer
FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
WHERE i.inhparent = $1::text::regclass AND c.relname IN ($2, $1::text || '_default');

-- name: by_place
-- A partition that looks small is read by the places that are asked for, too: its figures may be old.
SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
       set_config('enable_indexscan', 'off', true);

-- name: comb_completed
-- By places in the partition: none is read twice. What somebody else is removing just now is left to him.
DELETE FROM completed_jobs
WHERE finished_at >= $1 AND finished_at < $2 AND kind_id = ANY ($3::integer[]) AND ctid = ANY (ARRAY(
    SELECT c.ctid FROM completed_jobs AS c
    WHERE c.finished_at >= $1 AND c.finished_at < $2 AND c.kind_id = ANY ($3::integer[])
      AND c.ctid >= $4::tid AND c.ctid < $5::tid
      AND c.tenant_id <> ALL ($6::uuid[])
    FOR UPDATE SKIP LOCKED));

-- name: comb_dead
DELETE FROM dead_jobs
WHERE finished_at >= $1 AND finished_at < $2 AND kind_id = ANY ($3::integer[]) AND ctid = ANY (ARRAY(
    SELECT d.ctid FROM dead_jobs AS d
    WHERE d.finished_at >= $1 AND d.finished_at < $2 AND d.kind_id = ANY ($3::integer[])
      AND d.ctid >= $4::tid AND d.ctid < $5::tid
      AND d.tenant_id <> ALL ($6::uuid[])
    FOR UPDATE SKIP LOCKED));

-- name: completed_combed
UPDATE queues SET completed_combed = $2 WHERE id = ANY ($1::integer[]);

-- name: dead_combed
UPDATE queues SET dead_combed = $2 WHERE id = ANY ($1::integer[]);
