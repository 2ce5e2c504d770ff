"""The OLAP tier: aggregated analytics per tenant and day."""
