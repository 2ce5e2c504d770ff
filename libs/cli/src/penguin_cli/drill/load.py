"""The background load, and the account that it keeps: what was acknowledged, refused, or left unknown. It is an open load of
small acts over several tenants; a worker of its own takes its jobs and notes each effect."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_cli.drill import acts
from penguin_cli.drill.acts import KIND, Sample, letter
from penguin_cli.drill.findings import Act
from penguin_cli.drill.stand import Stand, eventually
from penguin_orchestrator import keys
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.messages import OutcomeUnknownError, OutgoingEmail, Sent

# Acts a second, and how many may be under way before further ones are left out.
RATE = 25
UNDER_WAY = 400
BATCH = 8
# A send has a deadline, and undoes what it did where it is refused (seconds).
ANSWERED_S = 20.0
# What the acts are, so many of each in turn.
MIX = {
    "read email": 5, "read body": 4, "report": 3, "send": 4, "send batch": 1, "enqueue": 4, "notify": 2, "count unread": 2,
    "add lead": 3, "store body": 3, "list jobs": 1,
}  # fmt: skip
_LEASE_S = 5
_KEPT = 20_000


@dataclass
class Mail:
    """One email that was handed in."""

    tenant: UUID
    email: OutgoingEmail
    email_id: UUID | None = None
    # acknowledged, refused or unknown
    state: str = "unknown"
    # Its first answer is still to come.
    under_way: bool = False


@dataclass
class Account:
    """Everything the drill was told, to be held against what is there."""

    mails: list[Mail] = field(default_factory=list)
    # Acknowledged ids by where they must be found: leads, notifications, jobs.
    acknowledged: dict[str, set[UUID]] = field(
        default_factory=lambda: {"leads": set(), "notifications": set(), "jobs": set()}
    )
    # Acknowledged bodies of no email: tenant and storage key.
    contents: set[tuple[UUID, str]] = field(default_factory=set)
    # Which jobs brought about each act's effect: more than one is an effect twice.
    effects: dict[UUID, set[int]] = field(default_factory=dict)
    repeats: int = 0

    def written(self, tier: str, tenant: UUID, key: UUID) -> None:
        """A write to a tier was acknowledged. OLAP's leaves nothing of its own: the next moves the same mark."""
        if tier == "content":
            self.contents.add((tenant, acts.storage_key(key)))
        elif tier in _STAND_IN:
            self.acknowledged[_STAND_IN[tier]].add(key)

    def open_part(self) -> Account:
        """What has been told since the last look, and begin anew; effects stay."""
        part = Account(self.mails, self.acknowledged, self.contents, self.effects, self.repeats)
        self.mails, self.contents = [], set()
        self.acknowledged = {"leads": set(), "notifications": set(), "jobs": set()}
        return part


class Load:
    """Acts at a steady rate until it is stopped; `acts` is what became of them."""

    def __init__(self, stand: Stand, rate: float = RATE) -> None:
        self._stand = stand
        self._rate = rate
        self.account = Account()
        self.acts: deque[Act] = deque(maxlen=_KEPT)
        self.left_out = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._kinds = itertools.cycle(interleaved(MIX))
        self._samples = itertools.cycle(stand.tenants)
        self._numbers = itertools.count()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Load]:
        """At work inside the block."""
        tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._work())]
        try:
            yield self
        finally:
            for task in (*tasks, *self._tasks):
                task.cancel()
            await asyncio.gather(*tasks, *self._tasks, return_exceptions=True)

    async def send(self, sample: Sample, emails: Sequence[OutgoingEmail], deadline_s: float = 10.0) -> list[Mail]:
        """Send, and keep account of it. Raises TierError, OutcomeUnknownError."""
        mails = [Mail(sample.tenant, email, under_way=True) for email in emails]
        self.account.mails += mails
        try:
            results = await self._stand.penguin.send_emails(sample.tenant, emails, deadline_s=deadline_s)
        except TierError:
            for mail in mails:
                mail.state = "refused"
            raise
        finally:
            for mail in mails:
                mail.under_way = False
        for mail, result in zip(mails, results, strict=True):
            mail.state = "acknowledged" if isinstance(result, Sent) else "refused"
            mail.email_id = result.email_id if isinstance(result, Sent) else None
        return mails

    async def write(self, tier: str, sample: Sample, key: UUID) -> None:
        """Write to a tier under this key, and keep account of it. Raises TierError."""
        await acts.WRITES[tier](self._stand.penguin, sample, acts.TIMEOUT_S, key)
        self.account.written(tier, sample.tenant, key)

    async def settle_unknown(self, mails: Sequence[Mail]) -> None:
        """Ask again, with the same request_ids, for what is unknown, until it is known; once it was answered, or given up: whoever
        is refused after that was sent all the same, by the second call."""

        async def answered() -> bool:
            return not any(mail.under_way for mail in mails)

        await eventually(answered, ANSWERED_S, 0.05)
        for mail in mails:
            if mail.state == "unknown":
                with contextlib.suppress(TierError, OutcomeUnknownError):
                    (result,) = await self._stand.penguin.send_emails(mail.tenant, [mail.email], deadline_s=30)
                    if isinstance(result, Sent):
                        mail.email_id, mail.state = result.email_id, "acknowledged"

    def address(self) -> str:
        """An address that nobody else has."""
        return f"drill-{next(self._numbers)}-{uuid4().hex[:6]}@example.com"

    async def _run(self) -> None:
        began, count = time.monotonic(), 0
        while True:
            await asyncio.sleep(max(0.0, began + count / self._rate - time.monotonic()))
            count += 1
            if len(self._tasks) >= UNDER_WAY:
                self.left_out += 1
                continue
            task = asyncio.create_task(self._act(next(self._kinds), next(self._samples)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _act(self, kind: str, sample: Sample) -> None:
        began = time.monotonic()
        outcome, reason = "ok", ""
        try:
            await self._do(kind, sample)
        except OutcomeUnknownError as error:
            outcome, reason = "unknown", error.cause.reason
        except TierError as error:
            outcome, reason = "refused" if not error.outcome_unknown else "unknown", error.reason
            if not error.retryable:
                outcome = "failed"
        self.acts.append(Act(kind, began, time.monotonic(), outcome, reason))

    async def _do(self, kind: str, sample: Sample) -> None:
        penguin = self._stand.penguin
        if kind in _READS:
            await _READS[kind](penguin, sample, acts.TIMEOUT_S)
        elif kind == "send":
            await self.send(sample, [letter(sample, self.address())])
        elif kind == "send batch":
            await self.send(sample, [letter(sample, self.address()) for _ in range(BATCH)])
        else:
            await self.write(_WRITES[kind], sample, keys.new_id())

    async def _work(self) -> None:
        """Take the drill's own jobs, note their effects, and say so; through everything that happens to the queue."""
        queue = self._stand.penguin.tiers["queue"]
        stub = queue.stub(QueueServiceStub)
        request = pb.LeaseJobsRequest(kinds=[KIND], max_jobs=50, worker_id="drill")
        request.lease_duration.FromSeconds(_LEASE_S)
        request.wait.FromSeconds(1)
        while True:
            try:
                leased = (await queue.call(stub.LeaseJobs, request)).jobs
                for each in leased:
                    done = self.account.effects.setdefault(UUID(json.loads(each.job.payload)["act"]), set())
                    self.account.repeats += each.job.id in done
                    done.add(each.job.id)
                if leased:
                    refs = [pb.LeaseRef(job_id=each.job.id, lease_token=each.lease_token) for each in leased]
                    await queue.call(stub.CompleteJobs, pb.CompleteJobsRequest(leases=refs))
            except TierError:
                # What was not heard comes again when its lease is over.
                await asyncio.sleep(0.2)


_READS: dict[str, acts.Read] = {
    "read email": acts.read_oltp, "read body": acts.read_content, "report": acts.read_olap,
    "count unread": acts.read_notifications, "list jobs": acts.read_queue,
}  # fmt: skip
_WRITES = {"enqueue": "queue", "notify": "notifications", "add lead": "oltp", "store body": "content"}
# Where what was written to a tier must be found.
_STAND_IN = {"oltp": "leads", "notifications": "notifications", "queue": "jobs"}


def interleaved(mix: dict[str, int]) -> list[str]:
    """Every kind as often as it should be, spread evenly."""
    total = sum(mix.values())
    places = [((number + 0.5) * total / count, kind) for kind, count in mix.items() for number in range(count)]
    return [kind for _, kind in sorted(places)]


def by_kind(found: Sequence[Act]) -> Counter[str]:
    """How many of each kind."""
    return Counter(act.kind for act in found)
