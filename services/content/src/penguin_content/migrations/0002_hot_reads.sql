-- The named hot read: a function that sets the tenant for itself, so that a point read is one round trip under RLS.
-- It runs as its caller, and the tenant it is given is the only one it can see. The body is fetched from its place only
-- where it is asked for (bodies: all; raws: raw sources).
CREATE FUNCTION hot_get_content(tenant uuid, key text, bodies boolean, raws boolean)
RETURNS TABLE (
    storage_key text, state text, content_hash bytea, raw_size bigint, stored_size bigint, codec text,
    created_at timestamptz, claim_by timestamptz, expire_at timestamptz, raw_source boolean, generation bigint,
    defects text[], body bytea, attachments jsonb)
LANGUAGE plpgsql VOLATILE SECURITY INVOKER SET search_path = public, pg_temp AS $$
BEGIN
    EXECUTE format('SET LOCAL app.current_tenant_id = %L', tenant);
    RETURN QUERY
        SELECT c.storage_key, c.state, c.content_hash, c.raw_size, c.stored_size, c.codec,
            c.created_at, c.claim_by, c.expire_at, c.raw_source, c.generation,
            c.defects, CASE WHEN bodies OR (raws AND c.raw_source) THEN c.body END,
            CASE WHEN c.attachment_count > 0 THEN (
                SELECT jsonb_agg(jsonb_build_object(
                    'position', a.position, 'filename', a.filename, 'mime_type', a.mime_type,
                    'disposition', a.disposition, 'content_id', a.content_id, 'size', a.size,
                    'sha256', encode(a.sha256, 'hex')) ORDER BY a.position)
                FROM attachments a WHERE a.tenant_id = tenant AND a.storage_key = key)
            END
        FROM content_objects c WHERE c.tenant_id = tenant AND c.storage_key = key;
END $$;
