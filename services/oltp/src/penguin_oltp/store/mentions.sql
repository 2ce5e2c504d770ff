-- name: leads
SELECT id::text AS key, array_remove(ARRAY[
    CASE WHEN lower(first_name) ~ $4 THEN 'first_name' END,
    CASE WHEN lower(last_name) ~ $4 THEN 'last_name' END,
    CASE WHEN lower(company) ~ $4 THEN 'company' END,
    CASE WHEN lower(list) ~ $4 THEN 'list' END,
    CASE WHEN lower(custom_fields::text) ~ $4 THEN 'custom_fields' END], NULL) AS places
FROM leads
WHERE tenant_id = $1 AND id > coalesce(nullif($2, ''), '00000000-0000-0000-0000-000000000000')::uuid
ORDER BY id LIMIT $3;

-- name: emails
SELECT id::text AS key, array_remove(ARRAY[
    CASE WHEN lower(recipient_name) ~ $4 THEN 'recipient_name' END,
    CASE WHEN lower(sender) ~ $4 THEN 'sender' END,
    CASE WHEN lower(sender_name) ~ $4 THEN 'sender_name' END,
    CASE WHEN lower(subject) ~ $4 THEN 'subject' END], NULL) AS places
FROM emails
WHERE tenant_id = $1 AND id > coalesce(nullif($2, ''), '00000000-0000-0000-0000-000000000000')::uuid
ORDER BY id LIMIT $3;

-- name: inbox_message_refs
SELECT id::text AS key, array_remove(ARRAY[
    CASE WHEN lower(mailbox) ~ $4 THEN 'mailbox' END,
    CASE WHEN lower(sender) ~ $4 THEN 'sender' END,
    CASE WHEN lower(subject) ~ $4 THEN 'subject' END,
    CASE WHEN lower(message_id) ~ $4 THEN 'message_id' END,
    CASE WHEN lower(in_reply_to) ~ $4 THEN 'in_reply_to' END,
    CASE WHEN lower(thread_id) ~ $4 THEN 'thread_id' END], NULL) AS places
FROM inbox_message_refs
WHERE tenant_id = $1 AND id > coalesce(nullif($2, ''), '00000000-0000-0000-0000-000000000000')::uuid
ORDER BY id LIMIT $3;

-- name: templates
SELECT id::text AS key, array_remove(ARRAY[
    CASE WHEN lower(name) ~ $4 THEN 'name' END,
    CASE WHEN lower(subject) ~ $4 THEN 'subject' END], NULL) AS places
FROM templates
WHERE tenant_id = $1 AND id > coalesce(nullif($2, ''), '00000000-0000-0000-0000-000000000000')::uuid
ORDER BY id LIMIT $3;

-- name: campaigns
SELECT id::text AS key, array_remove(ARRAY[
    CASE WHEN lower(name) ~ $4 THEN 'name' END,
    CASE WHEN lower(audience_list) ~ $4 THEN 'audience_list' END], NULL) AS places
FROM campaigns
WHERE tenant_id = $1 AND id > coalesce(nullif($2, ''), '00000000-0000-0000-0000-000000000000')::uuid
ORDER BY id LIMIT $3;

-- name: campaign_sequence_steps
SELECT id::text AS key, array_remove(ARRAY[
    CASE WHEN lower(subject_override) ~ $4 THEN 'subject_override' END,
    CASE WHEN lower(condition_value) ~ $4 THEN 'condition_value' END], NULL) AS places
FROM campaign_sequence_steps
WHERE tenant_id = $1 AND id > coalesce(nullif($2, ''), '00000000-0000-0000-0000-000000000000')::uuid
ORDER BY id LIMIT $3;

-- name: companies
SELECT id::text AS key, array_remove(ARRAY[
    CASE WHEN lower(name) ~ $4 THEN 'name' END,
    CASE WHEN lower(website) ~ $4 THEN 'website' END], NULL) AS places
FROM companies
WHERE tenant_id = $1 AND id > coalesce(nullif($2, ''), '00000000-0000-0000-0000-000000000000')::uuid
ORDER BY id LIMIT $3;

-- name: domains
SELECT id::text AS key, array_remove(ARRAY[
    CASE WHEN lower(dns_records::text) ~ $4 THEN 'dns_records' END], NULL) AS places
FROM domains
WHERE tenant_id = $1 AND id > coalesce(nullif($2, ''), '00000000-0000-0000-0000-000000000000')::uuid
ORDER BY id LIMIT $3;

-- name: users
SELECT id::text AS key, array_remove(ARRAY[
    CASE WHEN lower(email) ~ $4 THEN 'email' END,
    CASE WHEN lower(display_name) ~ $4 THEN 'display_name' END], NULL) AS places
FROM users
WHERE tenant_id = $1 AND id > coalesce(nullif($2, ''), '00000000-0000-0000-0000-000000000000')::uuid
ORDER BY id LIMIT $3;

-- name: email_accounts
SELECT id::text AS key, array_remove(ARRAY[
    CASE WHEN lower(email) ~ $4 THEN 'email' END,
    CASE WHEN lower(display_name) ~ $4 THEN 'display_name' END,
    CASE WHEN lower(vault_key_path) ~ $4 THEN 'vault_key_path' END,
    CASE WHEN lower(smtp::text) ~ $4 THEN 'smtp' END,
    CASE WHEN lower(imap::text) ~ $4 THEN 'imap' END], NULL) AS places
FROM email_accounts
WHERE tenant_id = $1 AND id > coalesce(nullif($2, ''), '00000000-0000-0000-0000-000000000000')::uuid
ORDER BY id LIMIT $3;

-- name: suppressions
SELECT id::text AS key, array_remove(ARRAY[
    CASE WHEN lower(address) ~ $4 THEN 'address' END], NULL) AS places
FROM suppressions
WHERE tenant_id = $1 AND id > coalesce(nullif($2, ''), '00000000-0000-0000-0000-000000000000')::uuid
ORDER BY id LIMIT $3;

-- name: tenants
SELECT tenant_id::text AS key, array_remove(ARRAY[
    CASE WHEN lower(name) ~ $4 THEN 'name' END], NULL) AS places
FROM tenants
WHERE tenant_id = $1 AND tenant_id > coalesce(nullif($2, ''), '00000000-0000-0000-0000-000000000000')::uuid
ORDER BY tenant_id LIMIT $3;

-- name: sagas
SELECT id::text AS key, array_remove(ARRAY[
    CASE WHEN lower(encode(input, 'escape')) ~ $4 THEN 'input' END,
    CASE WHEN lower(subject) ~ $4 THEN 'subject' END,
    CASE WHEN lower(last_error) ~ $4 THEN 'last_error' END,
    CASE WHEN lower(reason) ~ $4 THEN 'reason' END,
    CASE WHEN lower(actor) ~ $4 THEN 'actor' END], NULL) AS places
FROM sagas
WHERE tenant_id = $1 AND id > coalesce(nullif($2, ''), '00000000-0000-0000-0000-000000000000')::uuid
ORDER BY id LIMIT $3;

-- name: email_attempts
SELECT email_id || '/' || attempt AS key, array_remove(ARRAY[
    CASE WHEN lower(note) ~ $4 THEN 'note' END,
    CASE WHEN lower(enhanced_status) ~ $4 THEN 'enhanced_status' END], NULL) AS places
FROM email_attempts
WHERE tenant_id = $1 AND (email_id, attempt) > (
    coalesce(nullif(split_part($2, '/', 1), ''), '00000000-0000-0000-0000-000000000000')::uuid,
    coalesce(nullif(split_part($2, '/', 2), ''), '0')::integer)
ORDER BY email_id, attempt LIMIT $3;

-- name: saga_steps
SELECT saga_id || '/' || step || '/' || operation AS key, array_remove(ARRAY[
    CASE WHEN lower(encode(keys, 'escape')) ~ $4 THEN 'keys' END,
    CASE WHEN lower(encode(result, 'escape')) ~ $4 THEN 'result' END,
    CASE WHEN lower(last_error) ~ $4 THEN 'last_error' END,
    CASE WHEN lower(reason) ~ $4 THEN 'reason' END,
    CASE WHEN lower(actor) ~ $4 THEN 'actor' END], NULL) AS places
FROM saga_steps
WHERE tenant_id = $1 AND (saga_id, step, operation) > (
    coalesce(nullif(split_part($2, '/', 1), ''), '00000000-0000-0000-0000-000000000000')::uuid,
    split_part($2, '/', 2), split_part($2, '/', 3))
ORDER BY saga_id, step, operation LIMIT $3;

-- name: reconcile_runs
SELECT id::text AS key, array_remove(ARRAY[
    CASE WHEN lower(refused_reason) ~ $4 THEN 'refused_reason' END,
    CASE WHEN lower(counts::text) ~ $4 THEN 'counts' END], NULL) AS places
FROM reconcile_runs
WHERE tenant_id = $1 AND id > coalesce(nullif($2, ''), '00000000-0000-0000-0000-000000000000')::uuid
ORDER BY id LIMIT $3;

-- name: reconcile_findings
SELECT run_id || '/' || kind || '/' || subject AS key, array_remove(ARRAY[
    CASE WHEN lower(subject) ~ $4 THEN 'subject' END,
    CASE WHEN lower(source) ~ $4 THEN 'source' END,
    CASE WHEN lower(action) ~ $4 THEN 'action' END], NULL) AS places
FROM reconcile_findings
WHERE tenant_id = $1 AND (run_id, kind, subject) > (
    coalesce(nullif(split_part($2, '/', 1), ''), '00000000-0000-0000-0000-000000000000')::uuid,
    split_part($2, '/', 2), substr($2, length(split_part($2, '/', 1) || split_part($2, '/', 2)) + 3))
ORDER BY run_id, kind, subject LIMIT $3;
