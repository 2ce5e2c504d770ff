"""What a caller of the tiers is told by its environment."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from penguin_chassis.settings import TelemetrySettings


class PlatformConfig(BaseSettings):
    """Where the tiers are and who we are to them. Addresses are host:port or any gRPC target (dns:///…)."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    oltp_addr: str = Field(default="127.0.0.1:50051", validation_alias="OLTP_ADDR")
    content_addr: str = Field(default="127.0.0.1:50052", validation_alias="CONTENT_ADDR")
    olap_addr: str = Field(default="127.0.0.1:50053", validation_alias="OLAP_ADDR")
    queue_addr: str = Field(default="127.0.0.1:50054", validation_alias="QUEUE_ADDR")
    notifications_addr: str = Field(default="127.0.0.1:50055", validation_alias="NOTIFICATIONS_ADDR")
    token_url: str = Field(default="", validation_alias="PENGUIN_TOKEN_URL")
    credential_path: Path | None = Field(default=None, validation_alias="PENGUIN_WORKLOAD_CREDENTIAL_PATH")

    def addresses(self) -> dict[str, str]:
        """Each tier's address by its name."""
        return {
            "oltp": self.oltp_addr,
            "content": self.content_addr,
            "olap": self.olap_addr,
            "queue": self.queue_addr,
            "notifications": self.notifications_addr,
        }


class RelayConfig(BaseSettings):
    """What the relay process is told besides."""

    tiers: str = Field(default="oltp,content,olap,queue,notifications", validation_alias="RELAY_TIERS")
    batch: int = Field(default=200, ge=1, le=1000, validation_alias="RELAY_BATCH")
    # Seconds between two runs of reconcile over all relays together; 0: never. Without RECONCILE_APPLY it only reports.
    reconcile_every_s: float = Field(default=86400.0, ge=0, validation_alias="RECONCILE_INTERVAL_S")
    reconcile_apply: bool = Field(default=False, validation_alias="RECONCILE_APPLY")
    endpoint: str = Field(default="", validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT")
    service_name: str = Field(default="penguin-relay", validation_alias="OTEL_SERVICE_NAME")
    sample_ratio: float = Field(default=1.0, ge=0, le=1, validation_alias="OTEL_TRACES_SAMPLER_ARG")
    log_level: str = Field(default="INFO", validation_alias="PENGUIN_LOG_LEVEL")

    def telemetry(self) -> TelemetrySettings:
        """As the chassis takes it."""
        return TelemetrySettings(self.service_name, self.endpoint, self.sample_ratio, self.log_level)
