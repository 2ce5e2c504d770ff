-- name: leads
SELECT id::text AS key, array_remove(ARRAY[
    CASE WHEN position($4 IN lower(first_name)) > 0 THEN 'first_name' END,
    CASE WHEN position($4 IN lower(last_name)) > 0 THEN 'last_name' END,
    CASE WHEN position($4 IN lower(company)) > 0 THEN 'company' END,
    CASE WHEN position($4 IN lower(list)) > 0 THEN 'list' END,
    CASE WHEN position($4 IN lower(custom_fields::text)) > 0 THEN 'custom_fields' END], NULL) AS places
FROM leads
WHERE tenant_id = $1 AND id > coalesce(nullif($2, ''), '00000000-0000-0000-0000-000000000000')::uuid
ORDER BY id LIMIT $3;

-- name: emails
SELECT id::text AS key, array_remove(ARRAY[
    CASE WHEN position($4 IN lower(recipient_name)) > 0 THEN 'recipient_name' END,
    CASE WHEN position($4 IN lower(sender)) > 0 THEN 'sender' END,
    CASE WHEN position($4 IN lower(sender_name)) > 0 THEN 'sender_name' END,
    CASE WHEN position($4 IN lower(subject)) > 0 THEN 'subject' END], NULL) AS places
FROM emails
WHERE tenant_id = $1 AND id > coalesce(nullif($2, ''), '00000000-0000-0000-0000-000000000000')::uuid
ORDER BY id LIMIT $3;

-- name: inbox_message_refs
SELECT id::text AS key, array_remove(ARRAY[
    CASE WHEN position($4 IN lower(mailbox)) > 0 THEN 'mailbox' END,
    CASE WHEN position($4 IN lower(sender)) > 0 THEN 'sender' END,
    CASE WHEN position($4 IN lower(subject)) > 0 THEN 'subject' END,
    CASE WHEN position($4 IN lower(message_id)) > 0 THEN 'message_id' END,
    CASE WHEN position($4 IN lower(in_reply_to)) > 0 THEN 'in_reply_to' END,
    CASE WHEN position($4 IN lower(thread_id)) > 0 THEN 'thread_id' END], NULL) AS places
FROM inbox_message_refs
WHERE tenant_id = $1 AND id > coalesce(nullif($2, ''), '00000000-0000-0000-0000-000000000000')::uuid
ORDER BY id LIMIT $3;

-- name: templates
SELECT id::text AS key, array_remove(ARRAY[
    CASE WHEN position($4 IN lower(name)) > 0 THEN 'name' END,
    CASE WHEN position($4 IN lower(subject)) > 0 THEN 'subject' END], NULL) AS places
FROM templates
WHERE tenant_id = $1 AND id > coalesce(nullif($2, ''), '00000000-0000-0000-0000-000000000000')::uuid
ORDER BY id LIMIT $3;

-- name: campaigns
SELECT id::text AS key, array_remove(ARRAY[
    CASE WHEN position($4 IN lower(name)) > 0 THEN 'name' END,
    CASE WHEN position($4 IN lower(audience_list)) > 0 THEN 'audience_list' END], NULL) AS places
FROM campaigns
WHERE tenant_id = $1 AND id > coalesce(nullif($2, ''), '00000000-0000-0000-0000-000000000000')::uuid
ORDER BY id LIMIT $3;

-- name: campaign_sequence_steps
SELECT id::text AS key, array_remove(ARRAY[
    CASE WHEN position($4 IN lower(subject_override)) > 0 THEN 'subject_override' END,
    CASE WHEN position($4 IN lower(condition_value)) > 0 THEN 'condition_value' END], NULL) AS places
FROM campaign_sequence_steps
WHERE tenant_id = $1 AND id > coalesce(nullif($2, ''), '00000000-0000-0000-0000-000000000000')::uuid
ORDER BY id LIMIT $3;

-- name: companies
SELECT id::text AS key, array_remove(ARRAY[
    CASE WHEN position($4 IN lower(name)) > 0 THEN 'name' END,
    CASE WHEN position($4 IN lower(website)) > 0 THEN 'website' END], NULL) AS places
FROM companies
WHERE tenant_id = $1 AND id > coalesce(nullif($2, ''), '00000000-0000-0000-0000-000000000000')::uuid
ORDER BY id LIMIT $3;

-- name: domains
SELECT id::text AS key, array_remove(ARRAY[
    CASE WHEN position($4 IN lower(dns_records::text)) > 0 THEN 'dns_records' END], NULL) AS places
FROM domains
WHERE tenant_id = $1 AND id > coalesce(nullif($2, ''), '00000000-0000-0000-0000-000000000000')::uuid
ORDER BY id LIMIT $3;

-- name: users
SELECT id::text AS key, array_remove(ARRAY[
    CASE WHEN position($4 IN lower(email)) > 0 THEN 'email' END,
    CASE WHEN position($4 IN lower(display_name)) > 0 THEN 'display_name' END], NULL) AS places
FROM users
WHERE tenant_id = $1 AND id > coalesce(nullif($2, ''), '00000000-0000-0000-0000-000000000000')::uuid
ORDER BY id LIMIT $3;

-- name: email_accounts
SELECT id::text AS key, array_remove(ARRAY[
    CASE WHEN position($4 IN lower(email)) > 0 THEN 'email' END,
    CASE WHEN position($4 IN lower(display_name)) > 0 THEN 'display_name' END,
    CASE WHEN position($4 IN lower(vault_key_path)) > 0 THEN 'vault_key_path' END,
    CASE WHEN position($4 IN lower(smtp::text)) > 0 THEN 'smtp' END,
    CASE WHEN position($4 IN lower(imap::text)) > 0 THEN 'imap' END], NULL) AS places
FROM email_accounts
WHERE tenant_id = $1 AND id > coalesce(nullif($2, ''), '00000000-0000-0000-0000-000000000000')::uuid
ORDER BY id LIMIT $3;

-- name: suppressions
SELECT id::text AS key, array_remove(ARRAY[
    CASE WHEN position($4 IN lower(address)) > 0 THEN 'address' END], NULL) AS places
FROM suppressions
WHERE tenant_id = $1 AND id > coalesce(nullif($2, ''), '00000000-0000-0000-0000-000000000000')::uuid
ORDER BY id LIMIT $3;

-- name: tenants
SELECT tenant_id::text AS key, array_remove(ARRAY[
    CASE WHEN position($4 IN lower(name)) > 0 THEN 'name' END], NULL) AS places
FROM tenants
WHERE tenant_id = $1 AND tenant_id > coalesce(nullif($2, ''), '00000000-0000-0000-0000-000000000000')::uuid
ORDER BY tenant_id LIMIT $3;

-- name: sagas
SELECT id::text AS key, array_remove(ARRAY[
    CASE WHEN position($4 IN lower(encode(input, 'escape'))) > 0 THEN 'input' END,
    CASE WHEN position($4 IN lower(subject)) > 0 THEN 'subject' END,
    CASE WHEN position($4 IN lower(last_error)) > 0 THEN 'last_error' END,
    CASE WHEN position($4 IN lower(reason)) > 0 THEN 'reason' END,
    CASE WHEN position($4 IN lower(actor)) > 0 THEN 'actor' END], NULL) AS places
FROM sagas
WHERE tenant_id = $1 AND id > coalesce(nullif($2, ''), '00000000-0000-0000-0000-000000000000')::uuid
ORDER BY id LIMIT $3;

-- name: email_attempts
SELECT email_id || '/' || attempt AS key, array_remove(ARRAY[
    CASE WHEN position($4 IN lower(note)) > 0 THEN 'note' END,
    CASE WHEN position($4 IN lower(enhanced_status)) > 0 THEN 'enhanced_status' END], NULL) AS places
FROM email_attempts
WHERE tenant_id = $1 AND (email_id, attempt) > (
    coalesce(nullif(split_part($2, '/', 1), ''), '00000000-0000-0000-0000-000000000000')::uuid,
    coalesce(nullif(split_part($2, '/', 2), ''), '0')::integer)
ORDER BY email_id, attempt LIMIT $3;

-- name: saga_steps
SELECT saga_id || '/' || step || '/' || operation AS key, array_remove(ARRAY[
    CASE WHEN position($4 IN lower(encode(keys, 'escape'))) > 0 THEN 'keys' END,
    CASE WHEN position($4 IN lower(encode(result, 'escape'))) > 0 THEN 'result' END,
    CASE WHEN position($4 IN lower(last_error)) > 0 THEN 'last_error' END,
    CASE WHEN position($4 IN lower(reason)) > 0 THEN 'reason' END,
    CASE WHEN position($4 IN lower(actor)) > 0 THEN 'actor' END], NULL) AS places
FROM saga_steps
WHERE tenant_id = $1 AND (saga_id, step, operation) > (
    coalesce(nullif(split_part($2, '/', 1), ''), '00000000-0000-0000-0000-000000000000')::uuid,
    split_part($2, '/', 2), split_part($2, '/', 3))
ORDER BY saga_id, step, operation LIMIT $3;

-- name: reconcile_runs
SELECT id::text AS key, array_remove(ARRAY[
    CASE WHEN position($4 IN lower(refused_reason)) > 0 THEN 'refused_reason' END,
    CASE WHEN position($4 IN lower(counts::text)) > 0 THEN 'counts' END], NULL) AS places
FROM reconcile_runs
WHERE tenant_id = $1 AND id > coalesce(nullif($2, ''), '00000000-0000-0000-0000-000000000000')::uuid
ORDER BY id LIMIT $3;

-- name: reconcile_findings
SELECT run_id || '/' || kind || '/' || subject AS key, array_remove(ARRAY[
    CASE WHEN position($4 IN lower(subject)) > 0 THEN 'subject' END,
    CASE WHEN position($4 IN lower(source)) > 0 THEN 'source' END,
    CASE WHEN position($4 IN lower(action)) > 0 THEN 'action' END], NULL) AS places
FROM reconcile_findings
WHERE tenant_id = $1 AND (run_id, kind, subject) > (
    coalesce(nullif(split_part($2, '/', 1), ''), '00000000-0000-0000-0000-000000000000')::uuid,
    split_part($2, '/', 2), substr($2, length(split_part($2, '/', 1) || split_part($2, '/', 2)) + 3))
ORDER BY run_id, kind, subject LIMIT $3;
