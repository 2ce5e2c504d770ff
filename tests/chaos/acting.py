"""Acts that cross tiers, in the load: small campaigns that are launched, paused, resumed and cancelled, and files of leads that are
imported, by an orchestrator that is killed. What nobody knows is asked again, until somebody does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

from tests.chaos.load import Sender
from tests.chaos.recording import INFO, Act, Recording

from penguin.oltp.v1 import campaign_service_pb2 as campaign_pb
from penguin.oltp.v1 import lead_service_pb2 as lead_pb
from penguin.oltp.v1.campaign_service_pb2_grpc import CampaignServiceStub
from penguin_orchestrator import keys
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.platform import Penguin

T = TypeVar("T")
KINDS = ("launch", "pause", "resume", "cancel", "import")
# Recipients of a campaign, rows of a file, and how many of its rows are none.
RECIPIENTS, ROWS, BAD = 12, 600, 3
# A campaign begins every so often, a file is imported every so often (seconds), and so many are under way at once.
CAMPAIGN_S, IMPORT_S, MOST = 3.0, 12.0, 4
# What nobody knows is asked again after so long; what has no answer so long after the load has ended gets none (seconds).
AGAIN_S, ANSWERED_S = 0.5, 150.0
ENDED = frozenset({"completed", "cancelled"})


class Orchestrator:
    """The process that carries them out; killed, it is begun anew, and what it was asked for is unknown."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None
        self._asked: dict[str, asyncio.Future[tuple[str, str]]] = {}
        self._ready = asyncio.Event()
        self._busy = asyncio.Event()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Orchestrator]:
        """There is one inside the block."""
        keeping = asyncio.create_task(self._keep())
        try:
            await self.back()
            yield self
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            self._send(signal.SIGKILL)

    async def ask(self, act: Act, file: str = "") -> tuple[str, str]:
        """Ask for an act; the word on it, and why."""
        await self._ready.wait()
        process, key = self._process, uuid4().hex
        answer: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()
        self._asked[key] = answer
        self._busy.set()
        order = {"id": key, "act": act.kind, "tenant": str(act.tenant), "about": act.about, "file": file}
        with contextlib.suppress(OSError):
            process.stdin.write(json.dumps(order).encode() + b"\n")  # type: ignore[union-attr]
        return await answer

    async def back(self) -> None:
        """Wait until there is one that takes orders."""
        await self._ready.wait()

    async def busy(self, within_s: float) -> None:
        """Wait until it is at an act, but no longer than that."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._busy.wait()

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        self._ready.clear()
        self._send(signal.SIGKILL)

    def freeze(self) -> None:
        """SIGSTOP."""
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo freeze()."""
        self._send(signal.SIGCONT)

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _keep(self) -> None:
        while True:
            self._process = process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.chaos.orchestrator", env={**os.environ, **self._environment},
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            while line := await process.stdout.readline():  # type: ignore[union-attr]
                said = json.loads(line)
                if said["word"] == "ready":
                    self._ready.set()
                elif (answer := self._asked.pop(said["id"], None)) is not None and not answer.done():
                    answer.set_result((said["word"], said["why"]))
                if not self._asked:
                    self._busy.clear()
            self._ready.clear()
            await process.wait()
            for answer in self._asked.values():
                if not answer.done():
                    answer.set_result((INFO, "the orchestrator ended"))
            self._asked.clear()
            self._busy.clear()


@dataclass(frozen=True)
class Stage:
    """What a sender's campaigns are made of."""

    sender: Sender
    mailbox: UUID
    template: UUID


async def staged(penguin: Penguin, sender: Sender) -> Stage:
    """A mailbox and a template, before anything breaks."""
    mailbox = await penguin.tenants.add_mailbox(sender.tenant, "us@sender.example", "Chaos")
    template = await penguin.tenants.add_template(
        sender.tenant,
        "Chaos",
        subject="For {{ first_name }}",
        text="Hello {{ email }}",
        html="<p>Hello {{ email }}</p>",
    )
    return Stage(sender, mailbox, template)


@dataclass
class Played:
    """What acts were about: who is to have an email of each campaign, and who stands in each file, by list."""

    campaigns: dict[str, frozenset[str]] = field(default_factory=dict)
    lists: dict[str, frozenset[str]] = field(default_factory=dict)
    # What had no answer in time.
    unanswered: list[str] = field(default_factory=list)


class Acting:
    """Plays of several acts each, side by side, on campaigns and lists of their own."""

    def __init__(
        self, penguin: Penguin, recording: Recording, orchestrator: Orchestrator, stages: list[Stage], folder: Path,
        chance: random.Random,
    ) -> None:  # fmt: skip
        self._penguin = penguin
        self._recording = recording
        self._orchestrator = orchestrator
        self._stages = stages
        self._folder = folder
        self._chance = chance
        self.played = Played()
        self.enough = asyncio.Event()

    async def run(self) -> None:
        """Play until it is enough, and until all that was asked for has an answer, and every campaign has ended."""
        plays = {
            asyncio.create_task(self._often(CAMPAIGN_S, self._campaign)),
            asyncio.create_task(self._often(IMPORT_S, self._import)),
        }
        await self.enough.wait()
        _, late = await asyncio.wait(plays, timeout=ANSWERED_S)
        for task in late:
            task.cancel()
        for outcome in await asyncio.gather(*plays, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome
        self.played.unanswered = [f"{act.kind} of {act.about}" for act in self._recording.acts if not act.words]
        if late and not self.played.unanswered:
            self.played.unanswered.append("a campaign did not end")

    async def _often(self, every_s: float, play: Callable[[Stage], Coroutine[Any, Any, None]]) -> None:
        places = asyncio.Semaphore(MOST)
        async with asyncio.TaskGroup() as group:
            number = 0
            while not self.enough.is_set():
                await places.acquire()
                task = group.create_task(play(self._stages[number % len(self._stages)]))
                task.add_done_callback(lambda _: places.release())
                number += 1
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(every_s * self._chance.uniform(0.5, 1.5)):
                        await self.enough.wait()

    async def _import(self, stage: Stage) -> None:
        audience = f"imported-{uuid4().hex}"
        addresses = [f"{uuid4().hex}@{stage.sender.tenant.hex}.example.com" for _ in range(ROWS)]
        self.played.lists[audience] = frozenset(addresses)
        lines = ["email,first_name", *(f"{address},Zoe" for address in addresses), *["nobody,Nemo"] * BAD]
        file = self._folder / f"{audience}.csv"
        try:
            await asyncio.to_thread(file.write_text, "\n".join(lines) + "\n")
            await self._do(stage, "import", audience, file=str(file))
        finally:
            file.unlink(missing_ok=True)

    async def _campaign(self, stage: Stage) -> None:
        """Launch one; maybe pause and resume it, maybe at once; maybe cancel it; and see it end."""
        audience, campaign = await self._drafted(stage)
        self.played.campaigns[campaign] = audience
        chance = self._chance
        if chance.random() < 0.3:
            launching = asyncio.create_task(self._do(stage, "launch", campaign, beside=True))
            await asyncio.sleep(chance.uniform(0.0, 0.4))
            await self._do(stage, "pause", campaign, beside=True)
            await launching
        else:
            await self._do(stage, "launch", campaign)
        for kind, share in (("pause", 0.4), ("cancel", 0.15), ("resume", 0.4), ("cancel", 0.15)):
            if chance.random() < share and await self._status(stage, campaign) not in ENDED:
                await self._do(stage, kind, campaign)
                await asyncio.sleep(chance.uniform(0.0, 0.5))
        # It is not left standing: nothing would ever come to rest.
        while (status := await self._status(stage, campaign)) not in ENDED:
            if status != "running":
                await self._do(stage, "resume" if status == "paused" else "launch", campaign)
            await asyncio.sleep(AGAIN_S)

    async def _drafted(self, stage: Stage) -> tuple[frozenset[str], str]:
        name, tenant = f"chaos-{uuid4().hex}", stage.sender.tenant
        leads = [
            lead_pb.NewLead(
                request_id=str(uuid4()), id=str(keys.new_id()), first_name="Zoe", list=name,
                email=f"{uuid4().hex}@{tenant.hex}.example.com",
            )
            for _ in range(RECIPIENTS)
        ]  # fmt: skip
        await self._insisted(lambda: self._penguin.tenants.add_leads(tenant, leads))
        campaign = await self._insisted(
            lambda: self._penguin.campaigns.create(
                tenant, name, name, template_id=stage.template, mailbox_id=stage.mailbox
            )
        )
        return frozenset(lead.email for lead in leads), str(campaign)

    async def _do(self, stage: Stage, kind: str, about: str, *, file: str = "", beside: bool = False) -> None:
        """Ask until it is known, and look how its campaign stands then."""
        act = self._recording.ordered(stage.sender.tenant, kind, about, beside=beside)
        while True:
            word, why = await self._orchestrator.ask(act, file)
            self._recording.told(act, word, why)
            if word != INFO:
                break
            await asyncio.sleep(AGAIN_S * self._chance.uniform(0.5, 1.5))
        if kind != "import":
            act.seen = await self._status(stage, about)

    async def _status(self, stage: Stage, campaign: str) -> str:
        oltp = self._penguin.tiers["oltp"]
        request = campaign_pb.GetCampaignRequest(tenant_id=str(stage.sender.tenant), campaign_id=campaign)
        reply = await self._insisted(lambda: oltp.call(oltp.stub(CampaignServiceStub).GetCampaign, request))
        name: str = campaign_pb.CampaignStatus.Name(reply.campaign.status)
        return name.removeprefix("CAMPAIGN_STATUS_").lower()

    async def _insisted(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call again and again, through whatever happens; raises TierError for what is refused for good."""
        while True:
            try:
                return await call()
            except TierError as error:
                if not error.retryable:
                    raise
            await asyncio.sleep(AGAIN_S)
