-- name: jobs_of_emails
-- A page of the tenant's jobs, and which of them are these emails' and not over.
SELECT id, substring(encode(payload, 'escape') FROM '"email_id": ?"([0-9a-fA-F-]{36})"') = ANY ($4::text[]) AS theirs
FROM jobs WHERE tenant_id = $1 AND id > $2 ORDER BY id LIMIT $3;

-- name: jobs
SELECT id::text AS key, array_remove(ARRAY[
    CASE WHEN lower(encode(payload, 'escape')) ~ $4 THEN 'payload' END,
    CASE WHEN lower(last_error) ~ $4 THEN 'last_error' END,
    CASE WHEN lower(progress_note) ~ $4 THEN 'progress_note' END,
    CASE WHEN lower(rate_key) ~ $4 THEN 'rate_key' END,
    CASE WHEN lower(ordering_key) ~ $4 THEN 'ordering_key' END], NULL) AS places
FROM jobs WHERE tenant_id = $1 AND id > coalesce(nullif($2, ''), '-1')::bigint ORDER BY id LIMIT $3;

-- name: completed_jobs
SELECT id::text AS key, array_remove(ARRAY[
    CASE WHEN lower(encode(payload, 'escape')) ~ $4 THEN 'payload' END,
    CASE WHEN lower(last_error) ~ $4 THEN 'last_error' END,
    CASE WHEN lower(result) ~ $4 THEN 'result' END], NULL) AS places
FROM completed_jobs WHERE tenant_id = $1 AND id > coalesce(nullif($2, ''), '-1')::bigint ORDER BY id LIMIT $3;

-- name: dead_jobs
SELECT id::text AS key, array_remove(ARRAY[
    CASE WHEN lower(encode(payload, 'escape')) ~ $4 THEN 'payload' END,
    CASE WHEN lower(last_error) ~ $4 THEN 'last_error' END,
    CASE WHEN lower(ordering_key) ~ $4 THEN 'ordering_key' END], NULL) AS places
FROM dead_jobs WHERE tenant_id = $1 AND id > coalesce(nullif($2, ''), '-1')::bigint ORDER BY id LIMIT $3;

-- name: schedules
SELECT name AS key, array_remove(ARRAY[
    CASE WHEN lower(name) ~ $4 THEN 'name' END,
    CASE WHEN lower(encode(payload, 'escape')) ~ $4 THEN 'payload' END], NULL) AS places
FROM schedules WHERE tenant_id = $1 AND name > $2 COLLATE "C" ORDER BY name LIMIT $3;

-- name: unique_keys
SELECT kind_id || '/' || key AS key, CASE WHEN lower(key) ~ $4 THEN ARRAY['key'] ELSE '{}' END AS places
FROM unique_keys
WHERE tenant_id = $1
  AND (kind_id, key) > (coalesce(nullif(split_part($2, '/', 1), ''), '-1')::integer, substr($2, strpos($2, '/') + 1))
ORDER BY kind_id, unique_keys.key LIMIT $3;

-- name: job_attempts
-- In the order of their index; the time is written whole, so that it reads as it was.
SELECT job_id || '/' || to_char(finished_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') AS key, array_remove(ARRAY[
    CASE WHEN lower(error) ~ $4 THEN 'error' END,
    CASE WHEN lower(message) ~ $4 THEN 'message' END,
    CASE WHEN lower(worker_id) ~ $4 THEN 'worker_id' END], NULL) AS places
FROM job_attempts
WHERE tenant_id = $1 AND (job_id, finished_at) > (
    coalesce(nullif(split_part($2, '/', 1), ''), '-1')::bigint,
    coalesce(nullif(split_part($2, '/', 2), '') || '+00', '-infinity')::timestamptz)
ORDER BY job_id, finished_at LIMIT $3;
