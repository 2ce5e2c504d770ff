-- What is heard and lost just now, and the shortest lease that is asked for: a busy minute hid that nobody has spoken since.
ALTER TABLE fleet
    ADD COLUMN heard_now double precision NOT NULL DEFAULT 0,
    ADD COLUMN lost_now double precision NOT NULL DEFAULT 0,
    ADD COLUMN lease interval NOT NULL DEFAULT '30 seconds';
