-- Since when a content is in quarantine, for the grace that reconcile gives before it deletes. What went there before this
-- column was has none: it counts as kept, is found to be an orphan, and begins its grace then.
ALTER TABLE content_objects ADD COLUMN quarantined_at timestamptz;

-- Keys by generation, read from the index alone. Conditional, so that no look-up by keys can be planned as a scan of all
-- the tenant's rows (see content_objects_age).
CREATE INDEX content_objects_keys ON content_objects (tenant_id, generation, storage_key) WHERE quarantined_at IS NULL;
CREATE INDEX content_objects_quarantine ON content_objects (tenant_id, quarantined_at, storage_key)
    WHERE quarantined_at IS NOT NULL;

-- Where this tier holds storage keys: what KeyService reads. As its caller, so that policies hold.
CREATE VIEW storage_keys WITH (security_invoker = true) AS
    SELECT tenant_id, 'contents'::text AS source, generation, storage_key FROM content_objects WHERE quarantined_at IS NULL
    UNION ALL
    SELECT tenant_id, 'quarantine'::text, generation, storage_key FROM content_objects WHERE quarantined_at IS NOT NULL;
GRANT SELECT ON storage_keys TO content_app, content_maintenance, content_readonly;
