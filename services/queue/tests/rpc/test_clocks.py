"""A service whose own clock is an hour wrong goes by the database's: it takes nobody's job, loses none, and starts none at
another time. Of the right one beside it there are the statements, with the database's time."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from services.queue.tests.conftest import Serve
from services.queue.tests.leases import Leases
from services.queue.tests.rows import batch_request, enqueue_request, lease_request, new_job, ref_of

import penguin_queue
from penguin.queue.v1 import queue_service_pb2 as pb
from penguin.queue.v1 import schedule_service_pb2 as schedules_pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin.queue.v1.schedule_service_pb2_grpc import ScheduleServiceStub
from penguin_chassis import clock
from penguin_chassis.pool import Database, database
from penguin_chassis.settings import PoolSettings
from penguin_queue.store.leases import Asked
from penguin_testkit.calling import TierClient
from penguin_testkit.databases import Databases

HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
# By how much the service may misjudge the database's time while the machine is busy.
SLACK = timedelta(milliseconds=250)


@dataclass
class Beside:
    """A client of the service with the wrong clock, and what the right one sees of the same database."""

    client: TierClient
    db: Database
    tenant: UUID
    kind: str

    @property
    def stub(self) -> QueueServiceStub:
        return QueueServiceStub(self.client.channel)

    async def true_time(self) -> datetime:
        async with self.db.maintenance() as connection:
            at: datetime = await connection.fetchval("SELECT clock_timestamp()")
        return at

    async def enqueue(self, run_at: datetime | None = None) -> int:
        job = new_job(kind=self.kind)
        if run_at is not None:
            job.run_at.FromDatetime(run_at)
        (result,) = (await self.client.call(self.stub.EnqueueJobs, enqueue_request(self.tenant, job))).results
        return int(result.job_id)

    async def lease(self, wait_s: float = 0) -> list[pb.LeasedJob]:
        return list((await self.client.call(self.stub.LeaseJobs, lease_request(self.kind, wait_s=wait_s))).jobs)

    async def lease_rightly(self, duration: timedelta) -> list[tuple[int, int]]:
        """What the right service leases: ids and tokens."""
        asked = Asked((self.kind,), 10, await self.true_time() + duration, "right")
        return [(job.id, job.lease_token or 0) for job in await Leases(self.db).lease_ready(asked, duration)]


@pytest.fixture(params=[HOUR, -HOUR], ids=["ahead", "behind"])
async def beside(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    serve: Serve,
    databases: Databases,
    tenant: UUID,
    kind: str,
) -> AsyncIterator[Beside]:
    urls = await databases.clone("queue")
    # Whatever in this process does not go by the database is wrong.
    monkeypatch.setattr(clock, "wall", lambda: datetime.now(UTC) + request.param)
    async with (
        serve(urls, "") as client,
        database(PoolSettings(urls.app_url, urls.maintenance_url, max_size=4)) as db,
    ):
        yield Beside(client, db, tenant, kind)


async def test_neither_takes_what_the_other_has_leased(beside: Beside, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await beside.enqueue()
    ((held, token),) = await beside.lease_rightly(timedelta(seconds=30))
    second = await beside.enqueue()
    (leased,) = await beside.lease()
    assert (held, leased.job.id) == (first, second)
    left = leased.job.leased_until.ToDatetime(UTC) - await beside.true_time()
    assert timedelta(seconds=25) < left < timedelta(seconds=31)
    # The clock jumps while it serves, to the other side and further.
    monkeypatch.setattr(clock, "wall", lambda: datetime.now(UTC) - 48 * HOUR)
    # Several turns of its sweep, and one of the right service's.
    assert await beside.lease(wait_s=2) == []
    swept = await Leases(beside.db).sweep(await beside.true_time())
    assert (swept.ready, swept.buried) == ([], 0)
    assert await Leases(beside.db).complete([held], [token], await beside.true_time()) == []
    reply = await beside.client.call(beside.stub.CompleteJobs, pb.CompleteJobsRequest(leases=[ref_of(leased)]))
    assert (reply.completed, list(reply.lost_job_ids)) == (1, [])


async def test_a_mutation_is_of_the_databases_time(beside: Beside) -> None:
    before = await beside.true_time()
    await beside.client.call(beside.stub.EnqueueBatch, batch_request(beside.tenant, beside.kind))
    leased = await beside.lease()
    after = await beside.true_time()
    assert len(leased) == 2
    assert all(before - SLACK < each.job.created_at.ToDatetime(UTC) < after + SLACK for each in leased)


async def test_a_lease_that_has_run_out_is_seen_to_in_time(beside: Beside) -> None:
    job_id = await beside.enqueue()
    over = await beside.true_time() + SECOND
    ((held, _),) = await beside.lease_rightly(SECOND)
    (leased,) = await beside.lease(wait_s=10)
    assert (held, leased.job.id, leased.job.lost_leases) == (job_id, job_id, 1)
    assert -SLACK <= await beside.true_time() - over < 5 * SECOND


async def test_a_job_with_a_time_starts_then(beside: Beside) -> None:
    run_at = await beside.true_time() + 2 * SECOND
    job_id = await beside.enqueue(run_at)
    assert await beside.lease() == []
    (leased,) = await beside.lease(wait_s=10)
    late = await beside.true_time() - run_at
    assert leased.job.id == job_id
    assert -SLACK <= late < 2 * SECOND


async def test_a_schedule_fires_at_its_time_and_once(beside: Beside) -> None:
    stub, tenant = ScheduleServiceStub(beside.client.channel), str(beside.tenant)

    async def put(name: str) -> None:
        # Far from now by either clock, but for what is set below.
        schedule = schedules_pb.Schedule(name=name, cron="0 0 1 1 *", kind=beside.kind, payload=b"{}")
        request = schedules_pb.PutScheduleRequest(tenant_id=tenant, schedule=schedule, request_id=str(uuid4()))
        await beside.client.call(stub.PutSchedule, request)

    await put("due")
    due = await beside.true_time() + 2 * SECOND
    async with beside.db.tenant(beside.tenant) as connection:
        await connection.execute("UPDATE schedules SET next_at = $2 WHERE tenant_id = $1", beside.tenant, due)
    await put("other")  # the server that is asked looks at once
    asked = schedules_pb.GetScheduleRequest(tenant_id=tenant, name="due", next_times=1)
    (leased,) = await beside.lease(wait_s=15)
    created = leased.job.created_at.ToDatetime(UTC)
    assert -SLACK <= created - due < 5 * SECOND
    assert created - SLACK < await beside.true_time()
    found = await beside.client.call(stub.GetSchedule, asked)
    assert (found.schedule.last_job_id, found.schedule.missed) == (leased.job.id, 0)
    assert found.next_times[0] == found.schedule.next_at
    await asyncio.sleep(0.5)
    assert await beside.lease() == []


def test_nothing_in_the_tier_reads_a_wall_clock() -> None:
    """In operations the time is the one they are built with, in servicers that of the call."""
    root = Path(penguin_queue.__file__).parent
    read = re.compile(r"datetime\.now|utcnow|\btime\.time|\bwall\(")
    bare = re.compile(r"(?<![\w.])now\(\)")
    found = [
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        for text in [path.read_text()]
        if read.search(text) or (bare.search(text) and path.parent.name != "servicers")
    ]
    assert found == []
