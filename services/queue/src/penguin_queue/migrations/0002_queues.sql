-- The place of the queues' own tables, which come by another branch: versions run without a gap.
SELECT;
