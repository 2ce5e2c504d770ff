-- The named hot reads: functions that set the tenant for themselves, so that a point read is one round trip under RLS.
-- They run as their caller, and the tenant they are given is the only one they can see.
CREATE FUNCTION hot_get_email(tenant uuid, email uuid)
RETURNS TABLE (email_row emails, tallies jsonb, attempts jsonb)
LANGUAGE plpgsql VOLATILE SECURITY INVOKER SET search_path = public, pg_temp AS $$
BEGIN
    EXECUTE format('SET LOCAL app.current_tenant_id = %L', tenant);
    RETURN QUERY
        SELECT e,
            (SELECT jsonb_agg(jsonb_build_object(
                        'kind', t.kind, 'count', t.count, 'first_at', t.first_at, 'last_at', t.last_at)
                    ORDER BY t.first_at, t.kind)
             FROM email_event_tallies t WHERE t.tenant_id = tenant AND t.email_id = email AND t.count > 0),
            (SELECT jsonb_agg(jsonb_build_object(
                        'attempt', a.attempt, 'started_at', a.started_at, 'finished_at', a.finished_at,
                        'outcome', a.outcome, 'smtp_code', a.smtp_code, 'enhanced_status', a.enhanced_status)
                    ORDER BY a.attempt)
             FROM email_attempts a WHERE a.tenant_id = tenant AND a.email_id = email)
        FROM emails e WHERE e.tenant_id = tenant AND e.id = email;
END $$;
