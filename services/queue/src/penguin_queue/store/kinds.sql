-- name: by_name
SELECT id, name, unused_since IS NOT NULL AS unused FROM kinds WHERE name = ANY ($1::text[]);

-- name: use
-- One that is just being removed is waited for, and is not there then.
UPDATE kinds SET unused_since = NULL
WHERE id = ANY (ARRAY(SELECT id FROM kinds WHERE id = ANY ($1::integer[]) ORDER BY id FOR UPDATE))
RETURNING id, name;

-- name: all
SELECT id, name FROM kinds;

-- name: count
SELECT count(*) FROM kinds;

-- name: count_made
SELECT count(*) FROM kinds_made WHERE tenant_id = $1;

-- name: add
-- In the order of their names, so that two who add the same wait for each other and do not lock each other out. A tenant that was
-- the first is remembered.
WITH added AS (
    INSERT INTO kinds (name) SELECT name FROM unnest($1::text[]) AS new (name) ORDER BY name
    ON CONFLICT DO NOTHING RETURNING id
)
INSERT INTO kinds_made (tenant_id, kind_id) SELECT $2::uuid, id FROM added WHERE $2::uuid IS NOT NULL;

-- name: mark_unused
-- Of which nothing waits, is dead or is planned, and which those who run the platform have not given a place.
UPDATE kinds SET unused_since = $1
WHERE id = ANY (ARRAY(
    SELECT k.id FROM kinds AS k
    WHERE k.unused_since IS NULL AND k.queue_id = 1 AND NOT k.paused
      AND NOT EXISTS (SELECT FROM jobs AS j WHERE j.kind_id = k.id)
      AND NOT EXISTS (SELECT FROM dead_jobs AS d WHERE d.kind_id = k.id)
      AND NOT EXISTS (SELECT FROM schedules AS s WHERE s.kind_id = k.id)
      AND NOT EXISTS (SELECT FROM pauses AS p WHERE p.kind_id = k.id)
    ORDER BY k.id LIMIT $2 FOR UPDATE SKIP LOCKED));

-- name: long_unused
SELECT id FROM kinds WHERE unused_since < $1 ORDER BY id LIMIT $2;

-- name: forget
-- And of which no history is kept either, for whatever reason.
WITH gone AS (
    DELETE FROM kinds
    WHERE id = ANY (ARRAY(
        SELECT k.id FROM kinds AS k
        WHERE k.id = ANY ($1::integer[]) AND k.unused_since < $2 AND k.queue_id = 1 AND NOT k.paused
          AND NOT EXISTS (SELECT FROM jobs AS j WHERE j.kind_id = k.id)
          AND NOT EXISTS (SELECT FROM dead_jobs AS d WHERE d.kind_id = k.id)
          AND NOT EXISTS (SELECT FROM completed_jobs AS c WHERE c.kind_id = k.id)
          AND NOT EXISTS (SELECT FROM schedules AS s WHERE s.kind_id = k.id)
          AND NOT EXISTS (SELECT FROM pauses AS p WHERE p.kind_id = k.id)
        ORDER BY k.id FOR UPDATE SKIP LOCKED))
    RETURNING id
)
DELETE FROM kinds_made AS m USING gone WHERE m.kind_id = gone.id;
