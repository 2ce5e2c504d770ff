-- name: open_month
SELECT open_month($1::text::regclass, $2::date);
