-- name: get
SELECT id, replayed FROM incarnation;

-- name: begin
UPDATE incarnation SET id = $1, began_at = $2;

-- name: replayed
UPDATE incarnation SET replayed = id, replayed_at = $2 WHERE id = $1;
