"""Checks of what goes on without a tier that is away, or waits for it: reports, jobs, workers, intents, streams."""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from penguin.notifications.v1 import notification_service_pb2 as notification_pb
from penguin.notifications.v1.notification_service_pb2_grpc import NotificationServiceStub
from penguin.queue.v1 import queue_service_pb2 as queue_pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_cli.drill import acts
from penguin_cli.drill.acts import letter
from penguin_cli.drill.findings import RECOVERY_S
from penguin_cli.drill.probing import Refuses, Works
from penguin_cli.drill.stand import AUDIENCE, add_leads, eventually
from penguin_orchestrator import keys
from penguin_orchestrator.errors import TierError

# A timed send leaves this long after it was handed in: the fault stands by then.
TIMED_S = 3.0
_WAITING = "SELECT payload, attempts, snoozes FROM jobs WHERE tenant_id = $1"


class Stale(Works):
    """Reports are there, with their age; afterwards they come up to date by themselves."""

    async def during(self, seconds: float) -> None:
        broken_at = datetime.now(UTC)
        await super().during(seconds)
        through = await acts.report(self.penguin, self.sample)
        age = (datetime.now(UTC) - through).total_seconds()
        self.cell.said.append(f"data through {through:%H:%M:%S}, {age:.1f} s old")
        if through.timestamp() == 0:
            self.wrong("no data_through is shown")
        if through > broken_at + timedelta(seconds=2):
            self.wrong("data_through moved on though the ledger is away")

    async def after(self) -> None:
        mended_at = datetime.now(UTC)

        async def fresh() -> bool:
            return await acts.report(self.penguin, self.sample) >= mended_at

        took = await eventually(fresh, RECOVERY_S, 0.5)
        self.cell.said.append("not fresh again" if took is None else f"fresh again after {took:.1f} s")
        if took is None:
            self.wrong(f"reports were not fresh {RECOVERY_S:g} s after the fault")


class BacksOff(Works):
    """Emails whose time comes in the outage are put off, and no attempt of theirs is counted."""

    may_be_done = False

    async def before(self) -> None:
        load = self.scene.load
        at = datetime.now(UTC) + timedelta(seconds=TIMED_S)
        self._due_at = time.monotonic() + TIMED_S
        self._mails = await load.send(self.sample, [letter(self.sample, load.address(), at) for _ in range(3)])
        emails = [str(mail.email_id) for mail in self._mails]

        async def enqueued() -> bool:
            return len(await self._jobs(emails)) == len(emails)

        if await eventually(enqueued, TIMED_S, 0.05) is None:
            self.wrong("the jobs were not in the queue before the fault: nothing was shown")
        self._emails = emails

    async def during(self, seconds: float) -> None:
        left = self._due_at + 2.0 - time.monotonic()
        await super().during(max(seconds, left))
        jobs = await self._jobs(self._emails)
        self.cell.said.append(
            f"{len(jobs)} jobs wait, {sum(job['attempts'] for job in jobs)} attempts burnt, "
            f"put off {sum(job['snoozes'] for job in jobs)} times"
        )
        if len(jobs) < len(self._emails) and not self.may_be_done:
            self.wrong(f"{len(self._emails) - len(jobs)} jobs are gone though what they need is away")
        if any(job["attempts"] for job in jobs):
            self.wrong("an attempt was counted")

    async def _jobs(self, emails: list[str]) -> list[Any]:
        rows = await self.stand.rows("queue", _WAITING, self.sample.tenant)
        return [row for row in rows if any(email.encode() in row["payload"] for email in emails)]


class KeepsAttempts(BacksOff):
    """As that; but what they need may do some of it."""

    may_be_done = True


class EtlWaits(Works):
    """A refresh of the facts is put off, and done when OLAP is back."""

    async def before(self) -> None:
        self._kind = "olap.refresh"

    async def during(self, seconds: float) -> None:
        queue = self.penguin.tiers["queue"]
        request = queue_pb.EnqueueBatchRequest(
            tenant_id=str(self.sample.tenant), request_id=str(uuid4()), kind=self._kind, payloads=[b"{}"]
        )
        reply = await queue.call(queue.stub(QueueServiceStub).EnqueueBatch, request)
        self._job = reply.first_job_id
        await super().during(seconds)
        rows = await self.stand.rows("queue", "SELECT attempts, snoozes FROM jobs WHERE id = $1", self._job)
        if not rows:
            self.wrong("the job ended though OLAP is away")
        elif rows[0]["attempts"]:
            self.wrong("an attempt was counted")
        else:
            self.cell.said.append(f"the job waits, put off {rows[0]['snoozes']} times")

    async def after(self) -> None:
        async def done() -> bool:
            return bool(await self.stand.rows("queue", "SELECT FROM completed_jobs WHERE id = $1", self._job))

        if await eventually(done, RECOVERY_S, 0.5) is None:
            self.wrong(f"the job was not done {RECOVERY_S:g} s after the fault")


class Idles(Refuses):
    """The queue refuses, and its workers stay."""

    async def before(self) -> None:
        self._workers = self._pids()

    async def during(self, seconds: float) -> None:
        await super().during(seconds)
        if self._pids() != self._workers or not self._workers:
            self.wrong("a worker or relay ended or was started anew")
        else:
            self.cell.said.append("worker and relay stay")

    def _pids(self) -> dict[str, int]:
        return {name: pid for name, pid in self.stand.pids().items() if name.startswith(("worker", "relay"))}


class Intents(Works):
    """A campaign that ends in the outage: its tenant is told afterwards, once."""

    async def during(self, seconds: float) -> None:
        sample, penguin = self.sample, self.penguin
        name = f"{AUDIENCE}-{uuid4().hex[:8]}"
        await add_leads(penguin, sample.tenant, [self.scene.load.address()], name)
        self._campaign = await penguin.campaigns.create(
            sample.tenant, name, name, template_id=sample.template, mailbox_id=sample.mailbox
        )
        await penguin.campaigns.launch(sample.tenant, self._campaign)
        await super().during(seconds)

    async def after(self) -> None:
        sql = "SELECT FROM notifications WHERE tenant_id = $1 AND subject_ref = $2"

        async def told() -> bool:
            return bool(await self.stand.rows("notifications", sql, self.sample.tenant, str(self._campaign)))

        took = await eventually(told, RECOVERY_S, 0.5)
        times = len(await self.stand.rows("notifications", sql, self.sample.tenant, str(self._campaign)))
        self.cell.said.append(f"the campaign's end was told {times} times")
        if took is None or times != 1:
            self.wrong(f"the tenant was told {times} times of a campaign that ended in the outage, not once")


class Streams(Refuses):
    """A watcher's stream breaks; with its token it goes on where it was, and misses and repeats nothing."""

    async def before(self) -> None:
        self._token, self._seen = "", list[str]()
        self._sent: list[str] = []
        self._broke = 0
        self._watching = asyncio.create_task(self._watch())
        await self._tell()
        if await eventually(self._all_seen, 5.0, 0.05) is None:
            self.wrong("a watcher was not told before the fault: nothing was shown")

    async def after(self) -> None:
        try:
            await self._tell()
            took = await eventually(self._all_seen, RECOVERY_S, 0.1)
        finally:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
        mine = [each for each in self._seen if each in self._sent]
        if took is None or len(mine) != len(set(mine)):
            self.wrong(f"of {len(self._sent)} notifications a watcher saw {len(mine)}, {len(set(mine))} different ones")
        self.cell.said.append(
            f"the stream was resumed {self._broke} times, nothing missed or repeated" if took else "lost"
        )

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
            self._broke += 1
            await asyncio.sleep(0.3)
