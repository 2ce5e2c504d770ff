-- name: record
INSERT INTO job_attempts (job_id, finished_at, tenant_id, attempt, outcome, error, message, worker_id)
SELECT job_id, $1, tenant_id, attempt, 1, left(error, 200), nullif(message, ''), worker_id
FROM unnest($2::uuid[], $3::bigint[], $4::smallint[], $5::text[], $6::text[], $7::text[])
    AS failed (tenant_id, job_id, attempt, error, message, worker_id);

-- name: prune
DELETE FROM job_attempts AS a
USING unnest($1::uuid[], $2::bigint[], $3::smallint[]) AS old (tenant_id, job_id, attempt)
WHERE a.tenant_id = old.tenant_id AND a.job_id = old.job_id AND a.attempt <= old.attempt
  AND a.tenant_id NOT IN (SELECT tenant_id FROM legal_holds WHERE subject <> '');

-- name: page
SELECT attempt, outcome, error, coalesce(message, '') AS message, coalesce(worker_id, '') AS worker_id, finished_at
FROM job_attempts
WHERE tenant_id = $1 AND job_id = $2 AND (finished_at, attempt) < ($3, $4::smallint)
ORDER BY finished_at DESC, attempt DESC
LIMIT $5;
