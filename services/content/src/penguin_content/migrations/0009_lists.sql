-- A list of people (an imported file, a report of what was left out, an export): nobody's to claim. Content removes it itself when
-- its time is over, and with whoever stands in it.
ALTER TABLE content_objects ADD COLUMN lists_people boolean NOT NULL DEFAULT false;
CREATE INDEX content_objects_lists ON content_objects (tenant_id, storage_key) WHERE lists_people;
CREATE INDEX content_objects_overdue_lists ON content_objects (tenant_id, claim_by) WHERE lists_people;
