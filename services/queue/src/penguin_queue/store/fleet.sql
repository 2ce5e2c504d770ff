-- name: known
SELECT heard, lost, at, away_since, away_until FROM fleet FOR UPDATE;

-- name: know
UPDATE fleet SET heard = $1, lost = $2, at = $3, away_since = $4, away_until = $5;
