"""What a tier calls to be a service: server, interceptors, errors, pool, migrations, queries, telemetry, auth."""
