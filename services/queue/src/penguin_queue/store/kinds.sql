-- name: by_name
SELECT id, name FROM kinds WHERE name = ANY ($1::text[]);

-- name: all
SELECT id, name FROM kinds;

-- name: count
SELECT count(*) FROM kinds;

-- name: add
-- In the order of their names, so that two who add the same wait for each other and do not lock each other out.
INSERT INTO kinds (name) SELECT name FROM unnest($1::text[]) AS new (name) ORDER BY name ON CONFLICT DO NOTHING;
