-- name: known
-- Not waited for: a process that is frozen with the row in hand is not to keep all others from sweeping.
SELECT heard, lost, at, away_since, away_until, heard_now, lost_now, lease, heard_at FROM fleet FOR UPDATE SKIP LOCKED;

-- name: look
SELECT heard, lost, at, away_since, away_until, heard_now, lost_now, lease, heard_at FROM fleet;

-- name: know
UPDATE fleet SET heard = $1, lost = $2, at = $3, away_since = $4, away_until = $5, heard_now = $6, lost_now = $7, lease = $8,
                 heard_at = $9;
