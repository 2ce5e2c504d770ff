-- When a worker was heard last, by any process: sums of what was heard fade too slowly to tell that since then nobody has said a word.
ALTER TABLE fleet ADD COLUMN heard_at timestamptz;
