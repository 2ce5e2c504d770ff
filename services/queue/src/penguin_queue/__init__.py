"""The Queue tier: durable jobs, leases and dead letters."""
