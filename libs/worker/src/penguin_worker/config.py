"""What the worker process is told by its environment. Times in seconds."""

from __future__ import annotations

import os
import socket

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from penguin_chassis.settings import TelemetrySettings


def _who() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


class WorkerConfig(BaseSettings):
    """How much a worker takes in hand, how long it holds it, and where it hands mail over."""

    model_config = SettingsConfigDict(frozen=True, populate_by_name=True)

    worker_id: str = Field(default_factory=_who, min_length=1, max_length=200, validation_alias="WORKER_ID")
    # Jobs in hand at once.
    concurrency: int = Field(default=64, ge=1, le=1000, validation_alias="WORKER_CONCURRENCY")
    lease_s: float = Field(default=30.0, ge=1, le=3600, validation_alias="WORKER_LEASE_S")
    # For how long leases are kept while the event loop stands still: beyond that a hung process gives its jobs up.
    stuck_s: float = Field(default=120.0, ge=1, validation_alias="WORKER_STUCK_S")
    drain_s: float = Field(default=10.0, ge=0, validation_alias="PENGUIN_DRAIN_SECONDS")
    # How often facts are refreshed; 0 leaves that to others.
    etl_interval_s: float = Field(default=60.0, ge=0, validation_alias="ETL_INTERVAL_S")
    smtp_host: str = Field(default="127.0.0.1", validation_alias="SMTP_HOST")
    smtp_port: int = Field(default=25, ge=1, le=65535, validation_alias="SMTP_PORT")
    smtp_connections: int = Field(default=8, ge=1, le=200, validation_alias="SMTP_CONNECTIONS")
    # For connecting and for each command; the answer to a whole message may take longer.
    smtp_timeout_s: float = Field(default=20.0, gt=0, validation_alias="SMTP_TIMEOUT_S")
    smtp_reply_timeout_s: float = Field(default=60.0, gt=0, validation_alias="SMTP_REPLY_TIMEOUT_S")
    # May name {tenant_id} and {email_id}; empty: unsubscribing is by mail only.
    unsubscribe_url: str = Field(default="", validation_alias="PENGUIN_UNSUBSCRIBE_URL", pattern=r"^(https://\S+)?$")
    attachment_cache_bytes: int = Field(default=64 * 1024 * 1024, ge=0, validation_alias="WORKER_ATTACHMENT_CACHE")
    endpoint: str = Field(default="", validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT")
    service_name: str = Field(default="penguin-worker", validation_alias="OTEL_SERVICE_NAME")
    sample_ratio: float = Field(default=1.0, ge=0, le=1, validation_alias="OTEL_TRACES_SAMPLER_ARG")
    log_level: str = Field(default="INFO", validation_alias="PENGUIN_LOG_LEVEL")

    def telemetry(self) -> TelemetrySettings:
        """As the chassis takes it."""
        return TelemetrySettings(self.service_name, self.endpoint, self.sample_ratio, self.log_level)
