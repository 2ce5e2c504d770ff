-- The tenants a tier knows of, and whether they may still change anything. One without a row is active: what stood before
-- goes on working.
CREATE TABLE tier_tenants (
    tenant_id uuid PRIMARY KEY,
    state text NOT NULL CHECK (state IN ('active', 'closed')),
    provisioned_at timestamptz NOT NULL,
    closed_at timestamptz
);
CREATE INDEX tier_tenants_closed ON tier_tenants (tenant_id) WHERE state = 'closed';
SELECT adopt_tenant_table('tier_tenants');
