-- name: head
SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint;

-- name: news
-- Below the oldest transaction still open nothing is left to be committed: what is read there is all there ever will be.
-- The bound comes with every row, and alone where there is none.
SELECT head.below, n.*
FROM (SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS below) AS head
LEFT JOIN LATERAL (
    SELECT feed_xid, tenant_id, id, user_id, type, title, message, channel, subject_ref, is_read, created_at, read_at,
        expires_at
    FROM notifications
    WHERE tenant_id = $1 AND (user_id = $2 OR user_id IS NULL) AND deleted_at IS NULL
      AND (expires_at IS NULL OR expires_at > $3)
      AND (feed_xid, id) > ($4, $5) AND feed_xid < head.below
    ORDER BY feed_xid, id LIMIT $6
) AS n ON true
ORDER BY n.feed_xid, n.id;
