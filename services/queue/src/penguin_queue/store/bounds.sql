-- name: rated
SELECT k.name AS kind, q.name AS queue, q.rate_jobs, q.rate_ms, q.rate_burst, q.tenant_rate_jobs, q.tenant_rate_ms,
       q.tenant_rate_burst, q.key_rate_jobs, q.key_rate_ms, q.key_rate_burst
FROM queues AS q JOIN kinds AS k ON k.queue_id = q.id
WHERE q.rate_jobs IS NOT NULL OR q.tenant_rate_jobs IS NOT NULL OR q.key_rate_jobs IS NOT NULL;

-- name: limited
SELECT k.name, k.queue_id FROM queues AS q JOIN kinds AS k ON k.queue_id = q.id WHERE q.max_in_flight IS NOT NULL;
