-- The quick way in takes the rate key of a batch, too: mail goes by its mailbox's.
CREATE FUNCTION hot_enqueue(
    tenant uuid, request_key text, request_digest bytea, answer bytea, at timestamptz, first_id bigint, due timestamptz,
    kind integer, priority smallint, rank smallint, max_attempts smallint, traceparents text[], payloads bytea[],
    token bigint, until timestamptz, worker text, rate_key text
) RETURNS TABLE (fresh boolean, handed boolean, rated smallint, tries smallint, digest bytea, reply bytea, compensated boolean)
LANGUAGE plpgsql VOLATILE SECURITY INVOKER SET search_path = public, pg_temp AS $$
#variable_conflict use_column
DECLARE
    level smallint;
    most smallint;
    hindered boolean;
BEGIN
    EXECUTE format('SET LOCAL app.current_tenant_id = %L', tenant);
    INSERT INTO step_barrier (tenant_id, key, operation, digest, reply, created_at)
    VALUES (tenant, request_key, 'request', request_digest, answer, at)
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN QUERY
            SELECT false, false, NULL::smallint, NULL::smallint, b.digest, b.reply, b.compensated
            FROM (SELECT) AS one LEFT JOIN step_barrier AS b
                ON b.tenant_id = tenant AND b.key = request_key AND b.operation = 'request';
        RETURN;
    END IF;
    SELECT coalesce(nullif(hot_enqueue.priority, 0), q.priority),
           coalesce(nullif(hot_enqueue.max_attempts, 0), q.max_attempts),
           token IS NOT NULL AND NOT unhindered(tenant, k.id)
    INTO level, most, hindered
    FROM kinds AS k JOIN queues AS q ON q.id = k.queue_id WHERE k.id = hot_enqueue.kind;
    IF hindered THEN
        token := NULL;
    END IF;
    INSERT INTO jobs (id, run_at, created_at, tenant_id, kind_id, priority, rank, max_attempts, state, payload,
                      traceparent, lease_token, leased_until, worker_id, rate_key)
    SELECT first_id + n - 1, due, at, tenant, hot_enqueue.kind, level, hot_enqueue.rank, most,
           CASE WHEN token IS NOT NULL THEN 2 WHEN due <= at THEN 1 ELSE 0 END, new.payload, nullif(new.traceparent, ''),
           token, CASE WHEN token IS NOT NULL THEN until END,
           CASE WHEN token IS NOT NULL THEN worker END, hot_enqueue.rate_key
    FROM unnest(payloads, traceparents) WITH ORDINALITY AS new (payload, traceparent, n);
    RETURN QUERY SELECT true, token IS NOT NULL, level, most, NULL::bytea, NULL::bytea, NULL::boolean;
END $$;

-- What code without rate keys calls, while it still serves.
CREATE OR REPLACE FUNCTION hot_enqueue(
    tenant uuid, request_key text, request_digest bytea, answer bytea, at timestamptz, first_id bigint, due timestamptz,
    kind integer, priority smallint, rank smallint, max_attempts smallint, traceparents text[], payloads bytea[],
    token bigint, until timestamptz, worker text
) RETURNS TABLE (fresh boolean, handed boolean, rated smallint, tries smallint, digest bytea, reply bytea, compensated boolean)
LANGUAGE sql VOLATILE SECURITY INVOKER SET search_path = public, pg_temp AS $$
    SELECT * FROM hot_enqueue(tenant, request_key, request_digest, answer, at, first_id, due, kind, priority, rank, max_attempts,
                              traceparents, payloads, token, until, worker, NULL)
$$;
