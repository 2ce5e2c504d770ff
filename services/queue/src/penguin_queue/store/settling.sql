-- name: keys_page
SELECT tenant_id, kind_id, key FROM unique_keys WHERE (tenant_id, kind_id, key) > ($1, $2, $3::text COLLATE "C")
ORDER BY tenant_id, kind_id, key LIMIT $4 FOR UPDATE SKIP LOCKED;

-- name: drop_keys
-- Of these, which are locked, those whose job does not hold them.
DELETE FROM unique_keys AS u USING unnest($1::uuid[], $2::integer[], $3::text[]) AS r (tenant_id, kind_id, key)
WHERE u.tenant_id = r.tenant_id AND u.kind_id = r.kind_id AND u.key = r.key AND (u.until <= $4 OR NOT (
    -- One that is in hand, or dead, may come to where it holds the key again.
    EXISTS (SELECT FROM jobs AS j WHERE j.id = u.job_id)
    OR EXISTS (SELECT FROM dead_jobs AS d WHERE d.tenant_id = u.tenant_id AND d.id = u.job_id)
    OR (u.holds & 4 > 0 AND EXISTS (SELECT FROM completed_jobs AS c
                                    WHERE c.tenant_id = u.tenant_id AND c.id = u.job_id AND c.outcome = 0))));

-- name: dependencies_page
-- What is left of jobs that are gone goes. Who waits for one that is over or nowhere is woken: it left without a word.
WITH page AS MATERIALIZED (
    SELECT tenant_id, awaits, job_id, EXISTS (SELECT FROM jobs AS j WHERE j.id = d.job_id) AS there FROM dependencies AS d
    WHERE (tenant_id, awaits, job_id) > ($1, $2, $3) ORDER BY tenant_id, awaits, job_id LIMIT $4
), woken AS (
    INSERT INTO wakes (tenant_id, job_id, awaited)
    SELECT DISTINCT p.tenant_id, p.awaits, true FROM page AS p
    WHERE p.there AND NOT EXISTS (SELECT FROM jobs AS j WHERE j.id = p.awaits)
      AND NOT EXISTS (SELECT FROM dead_jobs AS e WHERE e.tenant_id = p.tenant_id AND e.id = p.awaits)
), going AS MATERIALIZED (
    SELECT d.tenant_id, d.awaits, d.job_id FROM page AS p JOIN dependencies AS d USING (tenant_id, awaits, job_id)
    WHERE NOT p.there FOR UPDATE OF d SKIP LOCKED
), gone AS (
    DELETE FROM dependencies AS d USING going AS g
    WHERE d.tenant_id = g.tenant_id AND d.awaits = g.awaits AND d.job_id = g.job_id
)
SELECT tenant_id, awaits, job_id FROM page ORDER BY tenant_id DESC, awaits DESC, job_id DESC LIMIT 1;

-- name: batches_page
-- What is left of batches whose callbacks are gone goes.
WITH page AS MATERIALIZED (
    SELECT tenant_id, callback_id FROM batches WHERE (tenant_id, callback_id) > ($1, $2) ORDER BY tenant_id, callback_id LIMIT $3
), going AS MATERIALIZED (
    SELECT b.tenant_id, b.callback_id FROM page AS p JOIN batches AS b USING (tenant_id, callback_id)
    WHERE NOT EXISTS (SELECT FROM jobs AS j WHERE j.id = p.callback_id)
      AND NOT EXISTS (SELECT FROM dead_jobs AS x WHERE x.tenant_id = p.tenant_id AND x.id = p.callback_id)
      AND NOT EXISTS (SELECT FROM completed_jobs AS c WHERE c.tenant_id = p.tenant_id AND c.id = p.callback_id)
    FOR UPDATE OF b SKIP LOCKED
), gone AS (
    DELETE FROM batches AS b USING going AS g WHERE b.tenant_id = g.tenant_id AND b.callback_id = g.callback_id
)
SELECT tenant_id, callback_id FROM page ORDER BY tenant_id DESC, callback_id DESC LIMIT 1;

-- name: wake_stuck
-- Keys whose first job waits for nothing, while none of them is in hand.
INSERT INTO wakes (tenant_id, job_id, ordering_key)
SELECT h.tenant_id, h.id, h.ordering_key FROM jobs AS h
WHERE h.ordering_key IS NOT NULL AND h.state = 6 AND coalesce(h.waits, 0) <= 0 AND NOT EXISTS (
    SELECT FROM jobs AS o
    WHERE o.tenant_id = h.tenant_id AND o.ordering_key = h.ordering_key AND o.position < h.position)
  AND NOT EXISTS (
    SELECT FROM jobs AS i
    WHERE i.tenant_id = h.tenant_id AND i.ordering_key = h.ordering_key AND i.state <> 6 AND i.state = 2)
LIMIT $1;
