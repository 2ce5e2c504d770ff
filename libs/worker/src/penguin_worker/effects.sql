-- name: table
-- For a migration of the handler's own database. `fence` is the lease of the attempt that may bring the effect about.
CREATE TABLE job_effects (
    key uuid PRIMARY KEY,
    tenant_id uuid NOT NULL,
    job_id bigint NOT NULL,
    fence bigint NOT NULL,
    claimed_at timestamptz NOT NULL DEFAULT now(),
    applied_at timestamptz,
    result text NOT NULL DEFAULT ''
);
CREATE INDEX job_effects_claimed_at ON job_effects (claimed_at);

-- name: claim
-- Whoever asks last may. No row: it is applied, and stays as it is.
INSERT INTO job_effects AS e (key, tenant_id, job_id, fence) VALUES ($1, $2, $3, $4)
ON CONFLICT (key) DO UPDATE SET fence = EXCLUDED.fence, claimed_at = now() WHERE e.applied_at IS NULL
RETURNING e.fence;

-- name: applied
SELECT result FROM job_effects WHERE key = $1 AND applied_at IS NOT NULL;

-- name: note
UPDATE job_effects AS e SET applied_at = now(), result = $3 WHERE e.key = $1 AND e.fence = $2 AND e.applied_at IS NULL
RETURNING e.key;

-- name: forget
DELETE FROM job_effects WHERE key IN (SELECT key FROM job_effects WHERE claimed_at < now() - $1::interval LIMIT $2);
