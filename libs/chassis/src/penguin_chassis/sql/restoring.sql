-- name: get
SELECT id, replayed, unreplayed, ledger_sequence, ledger_head, seen_as, this_database() AS is_now FROM incarnation;

-- name: begin
UPDATE incarnation SET id = $1, began_at = $2, seen_as = this_database();

-- name: heed
-- It is another database than it was: it was put back. Or it is looked at for the first time.
UPDATE incarnation
SET id = CASE WHEN seen_as = '' THEN id ELSE $1 END,
    began_at = CASE WHEN seen_as = '' THEN began_at ELSE $2 END,
    seen_as = this_database()
WHERE seen_as <> this_database();

-- name: note
-- What was told less than every tier was told of was put back.
UPDATE incarnation
SET id = CASE WHEN id = replayed AND ledger_sequence < $1 THEN $4 ELSE id END,
    began_at = CASE WHEN id = replayed AND ledger_sequence < $1 THEN $5 ELSE began_at END,
    ledger_head = CASE WHEN ledger_sequence < $2 THEN $3 ELSE ledger_head END,
    ledger_sequence = greatest(ledger_sequence, $2)
WHERE ledger_sequence < greatest($1::bigint, $2::bigint);

-- name: replayed
UPDATE incarnation
SET replayed = id, replayed_at = $2, unreplayed = $5,
    ledger_head = CASE WHEN ledger_sequence < $3 THEN $4 ELSE ledger_head END,
    ledger_sequence = greatest(ledger_sequence, $3)
WHERE id = $1;
