"""The local stack: embedded PostgreSQL and Valkey, SMTP and OTLP receivers, a token issuer, process supervision."""
