-- name: insert
-- Leads whose address stands in their list already, and erased people, are left out of the answer. In the order of the unique key, so that
-- two batches never wait for each other in a ring; of two with the same, the first.
INSERT INTO leads (
    tenant_id, id, email, first_name, last_name, company, list, custom_fields, status, version, created_at, updated_at)
SELECT $1, id, email, first_name, last_name, company, list, custom_fields, status, 1, $2, $2
FROM unnest(
    $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::jsonb[], $10::text[])
    WITH ORDINALITY AS l (id, email, first_name, last_name, company, list, custom_fields, status, nth)
WHERE NOT (EXISTS (SELECT FROM subject_keys WHERE tenant_id = $1)
           AND email = ANY (ARRAY(SELECT * FROM erased_among($1, $4::text[]))))
ORDER BY list, lower(email), nth
ON CONFLICT DO NOTHING
RETURNING id;

-- name: get
SELECT * FROM leads WHERE tenant_id = $1 AND id = $2;

-- name: list
SELECT * FROM leads WHERE tenant_id = $1 AND id > $2 ORDER BY id LIMIT $3;

-- name: list_in
SELECT * FROM leads WHERE tenant_id = $1 AND id > $2 AND list = $4 ORDER BY id LIMIT $3;

-- name: list_by_email
SELECT * FROM leads
WHERE tenant_id = $1 AND id > $2 AND email_key = lower($4) AND ($5::text = '' OR list = $5)
ORDER BY id LIMIT $3;

-- name: hold
SELECT * FROM leads WHERE tenant_id = $1 AND id = $2 FOR NO KEY UPDATE;

-- name: update
-- The whole row.
UPDATE leads
SET email = $3, first_name = $4, last_name = $5, company = $6, list = $7, custom_fields = $8, status = $9,
    version = $10, created_at = $11, updated_at = $12
WHERE tenant_id = $1 AND id = $2;

-- name: kept
-- A hold on the person whom the lead is.
SELECT h.id FROM legal_holds AS h JOIN leads AS l ON l.tenant_id = h.tenant_id
WHERE h.tenant_id = $1 AND l.id = $2 AND h.subject_key <> '' AND h.subject = hmac_of(h.subject_key, l.email)
ORDER BY h.id LIMIT 1;

-- name: delete
DELETE FROM leads WHERE tenant_id = $1 AND id = $2;
