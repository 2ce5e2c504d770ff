"""How a command reaches the tiers: as its environment says, or else in the local stack."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from penguin_chassis.settings import TelemetrySettings
from penguin_chassis.telemetry import telemetry
from penguin_cli.surroundings import UNREACHABLE, CommandError
from penguin_devstack.stack import LocalStack
from penguin_orchestrator.config import PlatformConfig
from penguin_orchestrator.platform import Penguin


def platform_config(root: Path, *, local: bool = False) -> PlatformConfig:
    """How the tiers are reached: as the environment says, or else (or if `local`) in the local stack.

    Raises CommandError if that is down.
    """
    if os.environ.get("PENGUIN_TOKEN_URL") and not local:
        return PlatformConfig()
    stack = LocalStack(root)
    status = stack.status().status
    if status != "ready":
        raise CommandError(f"the local stack in {root} is {status}; `penguin up` starts it", UNREACHABLE)
    known = {str(field.validation_alias) for field in PlatformConfig.model_fields.values()}
    values: dict[str, Any] = {name: value for name, value in stack.environment("cli").items() if name in known}
    return PlatformConfig(**values)


@contextlib.asynccontextmanager
async def connected(root: Path, *, traced: bool = False, local: bool = False) -> AsyncIterator[Penguin]:
    """The platform as this command's caller has it; with `traced` its acts show in `penguin trace`."""
    config = platform_config(root, local=local)
    with telemetry(_telemetry(root, local)) if traced else contextlib.nullcontext():
        async with Penguin.connect(config) as penguin:
            yield penguin


def _telemetry(root: Path, local: bool) -> TelemetrySettings:
    endpoint = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "")
    if local or not os.environ.get("PENGUIN_TOKEN_URL"):
        endpoint = LocalStack(root).environment("cli")["OTEL_EXPORTER_OTLP_ENDPOINT"]
    return TelemetrySettings("penguin-cli", endpoint, log_level="ERROR")
