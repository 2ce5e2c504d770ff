-- The address that a letter's From names, in lower case: what stands in the last angle brackets, or, without any, the first
-- that looks like one.
CREATE FUNCTION address_of(sender text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT lower(btrim(coalesce(
        substring(sender FROM '<([^<>]+)>[^<>]*$'), substring(sender FROM '[^[:space:]<>(),;:"]+@[^[:space:]<>(),;:"]+'), sender)));
$$;

-- Those of these addresses whose people were erased. No key, nobody: then nothing is hashed. Not STRICT, so that it becomes a
-- part of the statement that asks.
CREATE FUNCTION erased_among(tenant uuid, addresses text[]) RETURNS SETOF text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT h.address
    FROM (
        SELECT a.address, subject_of(k.inner_pad, k.outer_pad, a.address) AS subject
        FROM subject_keys AS k, unnest(addresses) AS a (address)
        WHERE k.tenant_id = tenant
        OFFSET 0
    ) AS h
    WHERE EXISTS (SELECT FROM erased_subjects AS e WHERE e.tenant_id = tenant AND e.subject = h.subject);
$$;
