-- What no code has called since leases go by lanes (0005) and batches say whose rate they go by (0012).
DROP FUNCTION lease_ready(uuid, integer, integer[], bigint, timestamptz, text);
DROP FUNCTION hot_enqueue(
    uuid, text, bytea, bytea, timestamptz, bigint, timestamptz, integer, smallint, smallint, smallint, text[], bytea[],
    bigint, timestamptz, text
);
