-- include: penguin_chassis.sql/chassis_v4.sql

-- HMAC-SHA256 of an address under a key of 32 bytes, as the subject of a hold is written.
CREATE FUNCTION hmac_of(key bytea, address text) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    inner_pad bytea := decode(repeat('36', 64), 'hex');
    outer_pad bytea := decode(repeat('5c', 64), 'hex');
BEGIN
    FOR n IN 0 .. octet_length(key) - 1 LOOP
        inner_pad := set_byte(inner_pad, n, get_byte(inner_pad, n) # get_byte(key, n));
        outer_pad := set_byte(outer_pad, n, get_byte(outer_pad, n) # get_byte(key, n));
    END LOOP;
    RETURN encode(subject_of(inner_pad, outer_pad, address), 'hex');
END $$;
