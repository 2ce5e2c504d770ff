"""Leases jobs from the Queue tier and runs their handlers: SMTP sending, ETL, campaign completion."""
