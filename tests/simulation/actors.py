"""Those who carry on what others began: relays, recoveries and workers, each killed now and then and followed by another. And the
server that takes mail, which never deduplicates."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from typing import Any
from uuid import UUID

import orjson
from tests.simulation.network import Process
from tests.simulation.tiers import KINDS, World

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.relay import Relay
from penguin_orchestrator.sagas.engine import Engine
from penguin_orchestrator.sagas.known import known
from penguin_orchestrator.sagas.recovery import Recovery
from penguin_worker.bodies import Bodies
from penguin_worker.campaigns import CampaignCompletion
from penguin_worker.jobs import Away, Job, NotDone, Reject, Release, Retry, Snooze, Verdict
from penguin_worker.leasing import away_for, said_of
from penguin_worker.ledger import Ledger
from penguin_worker.sending import EmailSending
from penguin_worker.smtp import Handover, Outcome

LEASE_S = 10
# How long somebody waits who finds nothing to do, growing up to the second; unless there is something new for him (seconds).
IDLE_S, IDLE_MAX_S = 3.0, 25.0
SOON_S = 1.5
# How often a worker stands still before it tells what it did, and for how long (seconds): long enough for another to have its
# jobs.
FROZEN, FROZEN_S = 0.3, (LEASE_S, LEASE_S * 3.0)
# What makes work for whom.
NEWS = {
    "relay": frozenset({
        "BatchCreateEmails", "StartCampaign", "SealCampaign", "CancelCampaign", "BatchRecordOutcomes", "CreateTemplate",
    }),
    "worker": frozenset({"EnqueueJobs", "EnqueueBatch"}),
    "recovery": frozenset({"AdvanceSaga"}),
}  # fmt: skip


@dataclass
class Mailbox:
    """Who takes the mail: what came, and what was refused for good."""

    chance: random.Random
    received: Counter[str] = field(default_factory=Counter)
    refused: set[str] = field(default_factory=set)
    calm: bool = False

    async def ready(self) -> None:
        """It always is."""

    async def hand_over(
        self, sender: str, recipient: str, message: Callable[[], bytes], go: Callable[[], bool]
    ) -> Handover | None:
        """Take a message: for good, not now, never, or nobody learns."""
        if not go():
            return None
        fate = 1.0 if self.calm else self.chance.random()
        if fate < 0.03:
            return Handover(Outcome.DEFERRED, 451)
        if fate < 0.05:
            self.refused.add(recipient)
            return Handover(Outcome.REJECTED, 550)
        # From here on its worker may die, and nobody know.
        await asyncio.sleep(self.chance.random() * (LEASE_S * 2 if fate < 0.10 else 0.2))
        self.received[recipient] += 1
        await asyncio.sleep(self.chance.random() * 0.1)
        return Handover(Outcome.UNKNOWN) if fate < 0.12 else Handover(Outcome.SENT, 250)


class Worker:
    """The handlers of a worker, over leases asked for one by one."""

    def __init__(self, process: Process, mailbox: Mailbox, number: int) -> None:
        self._chance = mailbox.chance
        self._queue = process.tiers["queue"]
        self._service = self._queue.stub(QueueServiceStub)
        self._ledger = Ledger(process.tiers["oltp"])
        bodies = Bodies(process.tiers["content"], 1 << 20)
        self._sending = EmailSending(bodies, self._ledger, mailbox, lambda: not process.alive)  # type: ignore[arg-type]
        self._completion = CampaignCompletion(process.tiers["oltp"])
        self._process = process
        self._name = f"worker-{number}"

    def die(self) -> None:
        """Be gone."""
        self._ledger.cancel()

    async def turn(self) -> int:
        """Lease, handle, tell; how many there were. Raises TierError where the queue is away."""
        request = pb.LeaseJobsRequest(kinds=KINDS, max_jobs=20, worker_id=self._name)
        request.lease_duration.FromSeconds(LEASE_S)
        until = asyncio.get_running_loop().time() + LEASE_S
        # In the order of their ids: the one they come in goes by the database's plans, and a seed would not be one history.
        leased = sorted((await self._queue.call(self._service.LeaseJobs, request)).jobs, key=lambda each: each.job.id)
        verdicts: list[tuple[Job, Verdict]] = []
        jobs = [_job(each, until, lambda job, verdict: verdicts.append((job, verdict))) for each in leased]
        groups = itertools.groupby(jobs, lambda job: (job.tenant_id, job.kind))
        await asyncio.gather(*(self._handle(kind, list(group)) for (_, kind), group in groups))
        if jobs and self._chance.random() < FROZEN:
            # It stands still for a while, and goes on as if nothing had been.
            await asyncio.sleep(self._chance.uniform(*FROZEN_S))
        await self._tell(verdicts, until)
        return len(jobs)

    async def _handle(self, kind: str, jobs: Sequence[Job]) -> None:
        try:
            if kind == "email.send":
                await self._sending.handle(jobs)
                error: NotDone = Retry("defect.unsettled")
            else:
                await self._completion.handle(jobs[0])
                jobs[0].settle()
                error = Release("one at a time")
        except Exception as raised:
            error = said_of(raised)
            if error.error.startswith("defect."):
                raise
        for job in jobs:
            job.settle(error)

    async def _tell(self, verdicts: Sequence[tuple[Job, Verdict]], until: float) -> None:
        complete, fail, snooze = pb.CompleteJobsRequest(), pb.FailJobsRequest(), pb.SnoozeJobsRequest()
        for job, verdict in verdicts:
            lease = pb.LeaseRef(job_id=job.id, lease_token=job.lease_token)
            if verdict is None:
                complete.leases.append(lease)
            elif isinstance(verdict, Retry | Reject):
                fail.failures.add(lease=lease, error=verdict.error or "none", retryable=isinstance(verdict, Retry))
            else:
                delay = away_for(job.snoozes, verdict.after_s, random.random()) if isinstance(verdict, Away) else (
                    verdict.delay_s if isinstance(verdict, Snooze) else 0.0
                )  # fmt: skip
                snooze.snoozes.add(lease=lease, reason=verdict.error).delay.FromMilliseconds(int(delay * 1000))
        for method, request, some in (
            (self._service.CompleteJobs, complete, complete.leases),
            (self._service.FailJobs, fail, fail.failures),
            (self._service.SnoozeJobs, snooze, snooze.snoozes),
        ):
            if some:
                # Said a while longer than the lease lasts: what comes too late must move nothing.
                left = until - asyncio.get_running_loop().time() + 5
                with contextlib.suppress(TierError):
                    await self._queue.insist(method, request, deadline_s=max(1.0, left))


def _job(leased: pb.LeasedJob, until: float, settled: Callable[[Job, Verdict], None]) -> Job:
    job = leased.job
    return Job(
        id=job.id, tenant_id=UUID(job.tenant_id), kind=job.kind, payload=orjson.loads(job.payload),
        lease_token=leased.lease_token, lease_until=until, attempts=job.attempts, max_attempts=job.max_attempts,
        snoozes=job.snoozes, lost_leases=job.lost_leases, created_at=job.created_at.ToDatetime(UTC), on_settled=settled,
    )  # fmt: skip


@dataclass(frozen=True)
class Turning:
    """One who works by turns; a turn says how much there was to do."""

    turn: Callable[[], Awaitable[int]]
    die: Callable[[], None] = lambda: None


@dataclass
class Crew:
    """Relays, recoveries and workers at work."""

    world: World
    chance: random.Random
    mailbox: Mailbox
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    killed: int = 0
    _numbers: Any = field(default_factory=itertools.count)
    _news: dict[str, asyncio.Event] = field(default_factory=lambda: {name: asyncio.Event() for name in NEWS})

    def begin(self, *, sagas: bool) -> None:
        """Set them to work: two of each, side by side. Where there are no `sagas` nobody looks for them."""
        makes = {"relay": self.relay, "worker": self.worker} | ({"recovery": self.recovery} if sagas else {})
        for name, make in makes.items():
            for _ in range(2):
                self.tasks.append(asyncio.create_task(self._succeeding(name, make)))
        self.tasks.append(asyncio.create_task(self._duties()))

    async def end(self) -> None:
        """All of them die."""
        for task in self.tasks:
            task.cancel()
        for result in await asyncio.gather(*self.tasks, return_exceptions=True):
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result
        self.tasks.clear()

    def hear(self, method: str) -> None:
        """Something has been done: whoever has to do with it looks soon."""
        for name, methods in NEWS.items():
            if method in methods:
                self._news[name].set()

    def relay(self, process: Process) -> Turning:
        """A relay of OLTP's outbox: no other tier owes anything."""
        return Turning(Relay(process.tiers["oltp"], process.tiers, 50).turn)

    def worker(self, process: Process) -> Turning:
        """A worker."""
        worker = Worker(process, self.mailbox, next(self._numbers))
        return Turning(worker.turn, worker.die)

    def recovery(self, process: Process) -> Turning:
        """One who finishes sagas."""
        return Turning(Recovery(Engine(process.tiers, known(self.world.ledger))).turn)

    async def _succeeding(self, name: str, make: Callable[[Process], Turning]) -> None:
        """One process after the other, each killed some time."""
        while True:
            process = self.world.process()
            one = make(process)
            task = asyncio.create_task(self._turning(name, one))
            try:
                await asyncio.wait([task], timeout=5 + self.chance.random() * 60)
                if task.done():
                    task.result()
            finally:
                process.alive = False
                task.cancel()
                one.die()
            self.killed += 1
            self.world.network.record.append("killed")
            await asyncio.sleep(self.chance.random() * 2)

    async def _turning(self, name: str, one: Turning) -> None:
        news, idle = self._news[name], IDLE_S
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.chance.random() * idle):
                    await news.wait()
                    # The others hear it, too.
                    await asyncio.sleep(self.chance.random() * SOON_S)
                    news.clear()
            found = 0
            with contextlib.suppress(TierError):
                found = await one.turn()
            idle = IDLE_S if found else min(idle * 1.7, IDLE_MAX_S)

    async def _duties(self) -> None:
        while True:
            await asyncio.sleep(5 + self.chance.random() * 12)
            await self.world.duties()
            # What a lease that ran out gave back is looked for soon.
            self._news["worker"].set()
            self._news["recovery"].set()
