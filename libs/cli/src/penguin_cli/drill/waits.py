"""Checks of what goes on without a tier that is away, or waits for it: reports, jobs, workers, intents, streams."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from penguin.notifications.v1 import notification_service_pb2 as notification_pb
from penguin.notifications.v1.notification_service_pb2_grpc import NotificationServiceStub
from penguin.queue.v1 import queue_service_pb2 as queue_pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_cli.drill import acts, judging
from penguin_cli.drill.acts import letter
from penguin_cli.drill.findings import RECOVERY_S
from penguin_cli.drill.judging import Waiting
from penguin_cli.drill.probing import Probe, Refuses, Works
from penguin_cli.drill.stand import AUDIENCE, add_leads, eventually
from penguin_orchestrator import keys
from penguin_orchestrator.errors import TierError

# A timed send leaves this long after it was handed in: the fault stands by then.
TIMED_S = 3.0
# By then a worker has looked at what is due: it leaves a kind alone for 5 s, and its calls have 10.
LOOKED_S = 20.0
# By then a frozen database has ended a stream: a look has 5 s, and there is one a second.
BROKEN_S = 15.0
_FIELDS = "attempts, snoozes"
_OF_THESE = "tenant_id = $1 AND EXISTS (SELECT FROM unnest($2::bytea[]) AS e (id) WHERE position(e.id IN payload) > 0)"
_JOBS = f"""SELECT {_FIELDS}, coalesce(last_error, '') AS reason, false AS done, lease_token IS NOT NULL AS held
FROM jobs WHERE {_OF_THESE}
UNION ALL SELECT {_FIELDS}, '', true, false FROM completed_jobs WHERE {_OF_THESE}"""  # noqa: S608 - words of our own
_REFRESH = f"""SELECT {_FIELDS}, coalesce(last_error, '') AS reason, false AS done, lease_token IS NOT NULL AS held
FROM jobs WHERE id = $1 UNION ALL SELECT {_FIELDS}, '', true, false FROM completed_jobs WHERE id = $1"""  # noqa: S608


async def fresh(probe: Probe) -> float | None:
    """Seconds until the tenant's reports reach beyond this moment; None where that takes too long."""
    since = datetime.now(UTC)

    async def reached() -> bool:
        return await acts.report(probe.penguin, probe.sample) >= since

    return await eventually(reached, RECOVERY_S, 0.5)


async def looked_at(found: Callable[[], Awaitable[Sequence[Waiting]]], tier: str) -> Sequence[Waiting]:
    """The jobs, as soon as each was looked at, or that has taken too long."""

    async def all_seen() -> bool:
        jobs = await found()
        return bool(jobs) and all(job.done or job.put_off_for(tier) for job in jobs)

    await eventually(all_seen, LOOKED_S, 0.25)
    return await found()


class Stale(Works):
    """Reports are there, with their age; afterwards they come up to date by themselves."""

    async def during(self, seconds: float) -> None:
        broken_at = datetime.now(UTC)
        await super().during(seconds)
        self.judged(judging.stale(broken_at, await acts.report(self.penguin, self.sample)))

    async def after(self) -> None:
        self.judged(judging.fresh(await fresh(self)))


class BacksOff(Works):
    """Emails whose time comes in the outage are looked at and put off, and no attempt of theirs is counted."""

    may_be_done = False

    async def before(self) -> None:
        load = self.scene.load
        self._emails: list[bytes] = []
        at = datetime.now(UTC) + timedelta(seconds=TIMED_S)
        self._due_at = time.monotonic() + TIMED_S
        mails = await load.send(self.sample, [letter(self.sample, load.address(), at) for _ in range(3)])
        self._emails = [str(mail.email_id).encode() for mail in mails]

        async def enqueued() -> bool:
            return len(await self._jobs()) == len(mails)

        if await eventually(enqueued, TIMED_S, 0.05) is None:
            self.wrong("the jobs were not in the queue before the fault: nothing was shown")

    async def during(self, seconds: float) -> None:
        left = self._due_at - time.monotonic()
        await super().during(max(seconds, left))
        tier = self.scene.row.tier
        jobs = await looked_at(self._jobs, tier)
        self.judged(judging.backed_off(tier, len(self._emails), jobs, may_be_done=self.may_be_done))

    async def _jobs(self) -> list[Waiting]:
        return [Waiting(**row) for row in await self.stand.rows("queue", _JOBS, self.sample.tenant, self._emails)]


class KeepsAttempts(BacksOff):
    """As that; but what they need may do some of it."""

    may_be_done = True


class EtlWaits(Works):
    """A refresh of the facts is put off, and done when OLAP is back: reports then reach beyond the outage."""

    async def before(self) -> None:
        self._kind = "olap.refresh"
        self._job = 0

    async def during(self, seconds: float) -> None:
        queue = self.penguin.tiers["queue"]
        request = queue_pb.EnqueueBatchRequest(
            tenant_id=str(self.sample.tenant), request_id=str(uuid4()), kind=self._kind, payloads=[b"{}"]
        )
        reply = await queue.call(queue.stub(QueueServiceStub).EnqueueBatch, request)
        self._job = reply.first_job_id
        await super().during(seconds)
        self.judged(judging.backed_off("olap", 1, await looked_at(self._jobs, "olap")))

    async def after(self) -> None:
        async def done() -> bool:
            return any(job.done for job in await self._jobs())

        await eventually(done, RECOVERY_S, 0.5)
        attempts = next((job.attempts for job in await self._jobs() if job.done), None)
        self.judged(judging.caught_up(attempts, await fresh(self)))

    async def _jobs(self) -> list[Waiting]:
        return [Waiting(**row) for row in await self.stand.rows("queue", _REFRESH, self._job)]


class Idles(Refuses):
    """The queue refuses, and its workers stay."""

    async def before(self) -> None:
        self._idling = self._pids()

    async def during(self, seconds: float) -> None:
        await super().during(seconds)
        self.judged(judging.idled(self._idling, self._pids()))

    def _pids(self) -> dict[str, int]:
        return {name: pid for name, pid in self.stand.pids().items() if name.startswith(judging.IDLING)}


class Intents(Works):
    """A campaign ends in the outage: the intent to tell of it is kept, and its tenant is told afterwards, once."""

    async def before(self) -> None:
        self._campaign: UUID | None = None
        self._ended, self._kept = False, 0

    async def during(self, seconds: float) -> None:
        sample, penguin = self.sample, self.penguin
        name = f"{AUDIENCE}-{uuid4().hex[:8]}"
        await add_leads(penguin, sample.tenant, [self.scene.load.address()], name)
        self._campaign = await penguin.campaigns.create(
            sample.tenant, name, name, template_id=sample.template, mailbox_id=sample.mailbox
        )
        await penguin.campaigns.launch(sample.tenant, self._campaign)
        await super().during(seconds)
        self._ended = await eventually(self._completed, LOOKED_S, 0.25) is not None
        self._kept = await self._intents()

    async def after(self) -> None:
        async def told() -> bool:
            return await self._told() > 0

        await eventually(told, RECOVERY_S, 0.5)
        self.judged(judging.kept_intents(ended=self._ended, kept=self._kept, told=await self._told()))

    async def _completed(self) -> bool:
        return bool(
            await self.stand.rows(
                "oltp", "SELECT FROM campaigns WHERE id = $1 AND status = 'completed'", self._campaign
            )
        )

    async def _intents(self) -> int:
        sql = (
            "SELECT FROM outbox WHERE tenant_id = $1 AND destination = 'notifications' AND position($2 IN payload) > 0"
        )
        kept = len(await self.stand.rows("oltp", sql, self.sample.tenant, str(self._campaign).encode()))
        # A full disk may have room for one row: it is where it should be then.
        return kept or (await self._told() if self.scene.row.fault == "fill_disk" else 0)

    async def _told(self) -> int:
        sql = "SELECT FROM notifications WHERE tenant_id = $1 AND subject_ref = $2"
        return len(await self.stand.rows("notifications", sql, self.sample.tenant, str(self._campaign)))


class Streams(Refuses):
    """A watcher's stream breaks; with its token it goes on where it was, and misses and repeats nothing of what was written
    before it was there again."""

    async def before(self) -> None:
        self._token, self._seen = "", list[str]()
        self._sent: list[str] = []
        self._broke, self._while_away = False, 0
        # Cleared, a stream that has broken is not resumed yet.
        self._resume, self._away = asyncio.Event(), asyncio.Event()
        self._resume.set()
        self._watching = asyncio.create_task(self._watch())

        # A stream without a token begins where it is opened, and when that is nobody says: told until it hears.
        async def hears() -> bool:
            self._sent.clear()
            await self._tell()
            return await eventually(self._all_seen, 1.0, 0.05) is not None

        if await eventually(hears, 15.0) is None:
            self.wrong("a watcher was not told before the fault: nothing was shown")

    async def during(self, seconds: float) -> None:
        self._resume.clear()
        await super().during(seconds)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BROKEN_S):
                await self._away.wait()
        self._broke = self._away.is_set()

    async def after(self) -> None:
        try:
            # Whoever watches from now on only, instead of from where the token says, will not see it.
            await self._tell()
            self._while_away = int(self._away.is_set())
            self._resume.set()
            await eventually(self._all_seen, RECOVERY_S, 0.1)
        finally:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
        self.judged(judging.resumed(self._sent, self._seen, broke=self._broke, while_away=self._while_away))

    async def _tell(self) -> None:
        key = keys.new_id()
        await acts.write_notifications(self.penguin, self.sample, acts.TIMEOUT_S, key)
        self._sent.append(str(key))

    async def _all_seen(self) -> bool:
        return set(self._sent) <= set(self._seen)

    async def _watch(self) -> None:
        tier = self.penguin.tiers["notifications"]
        method = tier.stub(NotificationServiceStub).WatchNotifications
        while True:
            request = notification_pb.WatchNotificationsRequest(
                tenant_id=str(self.sample.tenant), resume_token=self._token
            )
            with contextlib.suppress(TierError):
                async for reply in tier.stream(method, request, timeout=120):
                    self._token = reply.resume_token or self._token
                    if reply.notification.id:
                        self._seen.append(reply.notification.id)
            await asyncio.sleep(0.3)
            if not self._resume.is_set():
                self._away.set()
                await self._resume.wait()
