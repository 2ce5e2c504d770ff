"""What befalls the stack: processes and databases killed, frozen and stopped, one after the other, as the seed has it."""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass, field

from tests.chaos.acting import Orchestrator
from tests.chaos.recording import Recording

from penguin_devstack.stack import LocalStack, StackError

SERVICES = ("oltp", "content", "queue", "notifications", "olap")
# Not of the stack: the process that carries out acts.
ORCHESTRATOR = "orchestrator"
# It is hit twice as often as any other: a run of a minute has few faults.
PROCESSES = (*SERVICES, "relay", "worker", "valkey", "smtp", ORCHESTRATOR, ORCHESTRATOR)
KINDS = ("kill", "freeze", "kill database", "stop database", "freeze database")
# How long something is frozen or stopped, and how long until it has to be back (seconds).
OUTAGE_S = (1.0, 4.0)
BACK_S = 60.0
# The orchestrator is hit while it is at work, if it is within so long (seconds).
BUSY_S = 4.0


@dataclass(frozen=True)
class Fault:
    """One fault: from when on, and when all was back (seconds since the beginning)."""

    kind: str
    part: str
    begun_at: float
    over_at: float


@dataclass
class Faults:
    """Faults, one at a time."""

    stack: LocalStack
    orchestrator: Orchestrator
    recording: Recording
    chance: random.Random
    done: list[Fault] = field(default_factory=list)

    async def one(self) -> Fault:
        """Let something happen, and wait until it is back."""
        kind = self.chance.choice(KINDS)
        part = self.chance.choice(SERVICES if "database" in kind else PROCESSES)
        begun_at = self.recording.now()
        self.recording.say("fault", kind=kind, part=part)
        await self._happen(kind, part)
        fault = Fault(kind, part, begun_at, self.recording.now())
        self.recording.say("over", kind=kind, part=part)
        self.done.append(fault)
        return fault

    async def _happen(self, kind: str, part: str) -> None:
        name = f"{part}-db" if "database" in kind else part
        outage_s = self.chance.uniform(*OUTAGE_S)
        if part == ORCHESTRATOR:
            await self._hit(kind, outage_s)
        elif kind.startswith("kill"):
            # It may be on its way back from the last time.
            await self.stack.wait_ready(name, BACK_S)
            await self.stack.kill(name)
            await self._back(name)
        elif kind.startswith("freeze"):
            self.stack.freeze(name)
            try:
                await asyncio.sleep(outage_s)
            finally:
                self.stack.thaw(name)
        else:
            await self.stack.stop_database(part, "immediate")
            try:
                await asyncio.sleep(outage_s)
            finally:
                await self.stack.start_database(part)

    async def _hit(self, kind: str, outage_s: float) -> None:
        # In the middle of an act, if there is one soon.
        await self.orchestrator.busy(BUSY_S)
        await asyncio.sleep(self.chance.uniform(0.0, 0.1))
        if kind == "kill":
            self.orchestrator.kill()
        else:
            self.orchestrator.freeze()
            try:
                await asyncio.sleep(outage_s)
            finally:
                self.orchestrator.thaw()
        async with asyncio.timeout(BACK_S):
            await self.orchestrator.back()

    async def _back(self, name: str) -> None:
        # The supervisor sees that it is gone a moment later: until then it says that it is ready.
        await asyncio.sleep(0.5)
        with contextlib.suppress(StackError):
            await self.stack.wait_ready(name, BACK_S)
