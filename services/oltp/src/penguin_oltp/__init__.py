"""The OLTP tier: operational core: tenants, campaigns, leads and the email ledger."""
