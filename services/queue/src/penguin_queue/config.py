"""What the Queue tier is told by its environment."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from penguin_chassis.settings import PoolSettings, ServerSettings, TelemetrySettings

TIER = "queue"


class QueueConfig(BaseSettings):
    """Settings by the environment's names; URLs hold passwords and are never logged."""

    model_config = SettingsConfigDict(frozen=True)

    db_url: str = Field(validation_alias="QUEUE_DB_URL", repr=False)
    maintenance_db_url: str = Field(validation_alias="QUEUE_MAINTENANCE_DB_URL", repr=False)
    # Tells processes of each other's jobs, and counts rates. Nothing means none: jobs are found by looking, rates are this process's.
    redis_url: str = Field(default="", validation_alias="QUEUE_REDIS_URL", repr=False)
    # Processes that serve this tier: while Redis is away each gives its part of every rate.
    replicas: int = Field(default=1, ge=1, le=1000, validation_alias="QUEUE_REPLICAS")
    listen: str = Field(default="127.0.0.1:50054", validation_alias="QUEUE_LISTEN")
    pool_max: int = Field(default=30, ge=1, validation_alias="QUEUE_POOL_MAX")
    # Workers' calls span tenants and run as the maintenance role: a pool of their own size.
    maintenance_pool_max: int = Field(default=20, ge=1, validation_alias="QUEUE_MAINTENANCE_POOL_MAX")
    jwks_path: Path = Field(validation_alias="PENGUIN_JWKS_PATH")
    drain_s: float = Field(default=10.0, ge=0, validation_alias="PENGUIN_DRAIN_SECONDS")

    def server(self) -> ServerSettings:
        """Where it listens and whom it believes."""
        return ServerSettings(
            TIER, self.listen, self.jwks_path, drain_s=self.drain_s, places=min(self.pool_max, ServerSettings.places)
        )

    def pool(self) -> PoolSettings:
        """Where its database is."""
        return PoolSettings(
            self.db_url, self.maintenance_db_url, self.pool_max, maintenance_max_size=self.maintenance_pool_max
        )


class MigrateConfig(BaseSettings):
    """What a migration is told: the owner role's URL, which the serving process never has."""

    owner_db_url: str = Field(validation_alias="QUEUE_OWNER_DB_URL", repr=False)


class TelemetryConfig(BaseSettings):
    """OpenTelemetry's own variable names."""

    endpoint: str = Field(default="", validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT")
    service_name: str = Field(default="penguin-queue", validation_alias="OTEL_SERVICE_NAME")
    sample_ratio: float = Field(default=1.0, ge=0, le=1, validation_alias="OTEL_TRACES_SAMPLER_ARG")
    log_level: str = Field(default="INFO", validation_alias="PENGUIN_LOG_LEVEL")

    def settings(self) -> TelemetrySettings:
        """As the chassis takes them."""
        return TelemetrySettings(self.service_name, self.endpoint, self.sample_ratio, self.log_level)
