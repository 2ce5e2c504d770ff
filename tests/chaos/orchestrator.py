"""An orchestrator of its own process, so that it can be killed: `python -m tests.chaos.orchestrator`. It carries out the acts that
it is asked for, a line of JSON each, and says of each what came of it: ok, fail (it was refused) or info (nobody knows yet)."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import uvloop
from tests.chaos.recording import FAIL, INFO, OK

from penguin_chassis.settings import TelemetrySettings
from penguin_chassis.telemetry import telemetry
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.launching import LaunchError
from penguin_orchestrator.leadrecords import LeadFileError
from penguin_orchestrator.platform import Penguin
from penguin_orchestrator.rendering import TemplateInvalidError
from penguin_orchestrator.sagas import journal
from penguin_orchestrator.sagas.carrying import SagaError, SagaUnfinishedError

# What it leaves behind when it is killed is due after so long (seconds): a run of a minute is to see that, too.
LEASE_S = 10.0
_REFUSED = (LaunchError, TemplateInvalidError, LeadFileError, SagaError)


async def _carry_out(penguin: Penguin, order: Mapping[str, Any]) -> None:
    tenant, about = UUID(order["tenant"]), order["about"]
    match order["act"]:
        case "import":
            data = await asyncio.to_thread(Path(order["file"]).read_bytes)
            await penguin.leads.import_file(tenant, data, about)
        case "launch":
            await penguin.campaigns.launch(tenant, UUID(about))
        case "resume":
            await penguin.campaigns.resume(tenant, UUID(about))
        case "pause":
            await penguin.campaigns.pause(tenant, UUID(about))
        case "cancel":
            await penguin.campaigns.cancel(tenant, UUID(about))
        case other:
            raise ValueError(other)


async def _answer(penguin: Penguin, order: Mapping[str, Any]) -> None:
    word, why = OK, ""
    try:
        await _carry_out(penguin, order)
    except SagaUnfinishedError as error:
        word, why = INFO, error.held.last_error
    except TierError as error:
        word = INFO if error.retryable or error.outcome_unknown else FAIL
        why = f"{error.tier} {error.reason}"
    except _REFUSED as error:
        word, why = FAIL, f"{type(error).__name__} {error}"
    print(json.dumps({"id": order["id"], "word": word, "why": why}), flush=True)


async def _main() -> None:
    journal.LEASE_S = LEASE_S
    reader = asyncio.StreamReader(limit=2**20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with Penguin.connect() as penguin, asyncio.TaskGroup() as group:
        print(json.dumps({"id": "", "word": "ready", "why": ""}), flush=True)
        while line := await reader.readline():
            group.create_task(_answer(penguin, json.loads(line)))


if __name__ == "__main__":
    with telemetry(TelemetrySettings("penguin-chaos", log_level="ERROR")):
        uvloop.run(_main())
