-- A tenant's word on its jobs. Both columns stand last and default to a constant: no row is rewritten for them.

-- Its tenant wishes a leased job to end: it does with the lease, unless it is completed before. Only ever set on leased
-- rows, so that those who lease need not look.
ALTER TABLE jobs ADD COLUMN cancel_wanted boolean NOT NULL DEFAULT false;

-- 0 completed, 1 cancelled. Without a check: that would read days of jobs under a lock.
ALTER TABLE completed_jobs ADD COLUMN outcome smallint NOT NULL DEFAULT 0;
