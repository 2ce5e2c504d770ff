-- name: insert
-- Rows whose id another notification has are left out of the answer.
INSERT INTO notifications (tenant_id, id, user_id, type, title, message, channel, subject_ref, expires_at, created_at)
SELECT $1, id, user_id, type, title, message, channel, subject_ref, expires_at, $2
FROM unnest($3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::timestamptz[])
    AS n (id, user_id, type, title, message, channel, subject_ref, expires_at)
ORDER BY id
ON CONFLICT DO NOTHING
RETURNING id;

-- name: get
SELECT tenant_id, id, user_id, type, title, message, channel, subject_ref, is_read, created_at, read_at,
    expires_at
FROM notifications WHERE tenant_id = $1 AND id = $2 AND deleted_at IS NULL;

-- name: list_all
-- A user's own and the whole tenant's, each by its own stretch of the index.
SELECT * FROM (
    (SELECT tenant_id, id, user_id, type, title, message, channel, subject_ref, is_read, created_at, read_at,
        expires_at
     FROM notifications
     WHERE tenant_id = $1 AND user_id = $2 AND deleted_at IS NULL
       AND (expires_at IS NULL OR expires_at > $3) AND (created_at, id) < ($4, $5)
     ORDER BY created_at DESC, id DESC LIMIT $6)
    UNION ALL
    (SELECT tenant_id, id, user_id, type, title, message, channel, subject_ref, is_read, created_at, read_at,
        expires_at
     FROM notifications
     WHERE tenant_id = $1 AND user_id IS NULL AND deleted_at IS NULL
       AND (expires_at IS NULL OR expires_at > $3) AND (created_at, id) < ($4, $5)
     ORDER BY created_at DESC, id DESC LIMIT $6)
) AS both_of_them
ORDER BY created_at DESC, id DESC LIMIT $6;

-- name: list_unread
-- A user's own and the whole tenant's, each by its own stretch of the index.
SELECT * FROM (
    (SELECT tenant_id, id, user_id, type, title, message, channel, subject_ref, is_read, created_at, read_at,
        expires_at
     FROM notifications
     WHERE tenant_id = $1 AND user_id = $2 AND deleted_at IS NULL AND NOT is_read
       AND (expires_at IS NULL OR expires_at > $3) AND (created_at, id) < ($4, $5)
     ORDER BY created_at DESC, id DESC LIMIT $6)
    UNION ALL
    (SELECT tenant_id, id, user_id, type, title, message, channel, subject_ref, is_read, created_at, read_at,
        expires_at
     FROM notifications
     WHERE tenant_id = $1 AND user_id IS NULL AND deleted_at IS NULL AND NOT is_read
       AND (expires_at IS NULL OR expires_at > $3) AND (created_at, id) < ($4, $5)
     ORDER BY created_at DESC, id DESC LIMIT $6)
) AS both_of_them
ORDER BY created_at DESC, id DESC LIMIT $6;

-- name: count_unread
SELECT (SELECT count(*) FROM notifications
        WHERE tenant_id = $1 AND user_id = $2 AND NOT is_read AND deleted_at IS NULL
          AND (expires_at IS NULL OR expires_at > $3))
     + (SELECT count(*) FROM notifications
        WHERE tenant_id = $1 AND user_id IS NULL AND NOT is_read AND deleted_at IS NULL
          AND (expires_at IS NULL OR expires_at > $3));

-- name: lock
-- In the order of ids, so that two calls never wait for each other in a ring.
SELECT id, is_read FROM notifications
WHERE tenant_id = $1 AND id = ANY ($2::uuid[]) AND deleted_at IS NULL
ORDER BY id FOR UPDATE;

-- name: mark_read
UPDATE notifications SET is_read = true, read_at = $3
WHERE tenant_id = $1 AND id = ANY ($2::uuid[]) AND NOT is_read;

-- name: delete
UPDATE notifications SET deleted_at = $3
WHERE tenant_id = $1 AND id = $2 AND deleted_at IS NULL
RETURNING id;

-- name: remove_expired
DELETE FROM notifications WHERE (tenant_id, id) IN (
    SELECT tenant_id, id FROM notifications
    WHERE expires_at < $1 AND tenant_id NOT IN (SELECT tenant_id FROM legal_holds WHERE subject <> '') LIMIT $2);

-- name: remove_deleted
DELETE FROM notifications WHERE (tenant_id, id) IN (
    SELECT tenant_id, id FROM notifications
    WHERE deleted_at < $1 AND tenant_id NOT IN (SELECT tenant_id FROM legal_holds WHERE subject <> '') LIMIT $2);
