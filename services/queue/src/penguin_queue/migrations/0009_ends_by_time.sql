-- What ended lately, of all kinds: the rates of the queue. Rows come in about the order of these times, so an index by ranges of
-- pages is enough, and costs an insert next to nothing.
CREATE INDEX completed_jobs_finished ON completed_jobs USING brin (finished_at) WITH (pages_per_range = 16, autosummarize = on);
CREATE INDEX dead_jobs_finished ON dead_jobs USING brin (finished_at) WITH (pages_per_range = 16, autosummarize = on);
