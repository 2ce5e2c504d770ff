-- By default a table is vacuumed when a fifth of it is dead. The small ones here turn over many times before that shows, and the
-- large ones would carry days of what has left. Setting this locks out neither readers nor writers.

-- A batch's row is rewritten with every round of ends, and gone soon after the last: by count, as jobs and wakes.
ALTER TABLE batches SET (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0
);
-- One row for each job waited for, and each key that is held: few as a rule, and very many at times. A small share keeps a vacuum
-- of many from coming again at once.
ALTER TABLE dependencies SET (
    autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0
);
ALTER TABLE unique_keys SET (
    autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0
);
-- Rewritten, its index with it, each time that one fires.
ALTER TABLE schedules SET (
    autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0
);
-- Two weeks of requests: by far the largest table that is not dropped by partition, each row rewritten once when it is answered. It
-- is gone through in small shares, and at the usual pace, for it is no hurry and much to read.
ALTER TABLE step_barrier SET (
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 10000,
    autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02
);
