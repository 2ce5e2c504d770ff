"""The local stack: embedded PostgreSQL and Valkey, SMTP and OTLP receivers, a development token issuer, process supervision."""
