"""A service that was away while schedules were due: what it makes up for when it is back is what each schedule says."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from google.protobuf.duration_pb2 import Duration
from libs.worker.tests.waiting import until
from services.queue.tests.conftest import Serve
from services.queue.tests.rows import lease_request
from services.queue.tests.rpc.test_schedules import Owner

from penguin.queue.v1 import queue_service_pb2 as jobs_pb
from penguin.queue.v1 import schedule_service_pb2 as pb
from penguin_chassis.pool import Database, database
from penguin_chassis.settings import PoolSettings
from penguin_testkit.databases import Databases

# For how long it was away: so many runs of an hour each.
MISSED = 6
HOUR = timedelta(hours=1)
# Half an hour off the hours of UTC, all year: where the zone were not gone by, runs would be half an hour off.
ZONE = "Asia/Kolkata"


@dataclass(frozen=True)
class Case:
    """A schedule, how many jobs it has when the service is back, and how many runs it says it has missed."""

    policy: pb.MissedRunPolicy.ValueType
    jobs: int
    missed: int
    deadline_s: int = 60
    overlap: pb.OverlapPolicy.ValueType = pb.OVERLAP_POLICY_ALLOW


CASES = {
    "skip": Case(pb.MISSED_RUN_POLICY_SKIP, 0, MISSED),
    "once": Case(pb.MISSED_RUN_POLICY_RUN_ONCE, 1, MISSED - 1),
    "all": Case(pb.MISSED_RUN_POLICY_RUN_ALL, MISSED, 0),
    # Of late runs those within the deadline are none that was missed.
    "skip_in_time": Case(pb.MISSED_RUN_POLICY_SKIP, 2, MISSED - 2, deadline_s=2 * 3600),
    "once_in_time": Case(pb.MISSED_RUN_POLICY_RUN_ONCE, 2, MISSED - 2, deadline_s=2 * 3600),
    "all_apart": Case(pb.MISSED_RUN_POLICY_RUN_ALL, 1, MISSED - 1, overlap=pb.OVERLAP_POLICY_SKIP),
}


async def outage(db: Database, tenant: UUID, first: datetime) -> None:
    """The service that is gone went before the first of these runs: days are not waited for."""
    async with db.tenant(tenant) as connection:
        done = await connection.execute("UPDATE schedules SET next_at = $2 WHERE tenant_id = $1", tenant, first)
    assert done == f"UPDATE {len(CASES)}"


@pytest.fixture
def half_past() -> datetime:
    """The last run that is due by the schedules below: half an hour ago, to the minute."""
    return datetime.now(UTC).replace(second=0, microsecond=0) - HOUR / 2


async def test_after_an_outage_each_schedule_makes_up_for_what_its_policy_says(
    serve: Serve, databases: Databases, tenant: UUID, kind: str, half_past: datetime
) -> None:
    urls = await databases.clone("queue")
    async with serve(urls, "") as client:
        for name, case in CASES.items():
            await Owner(client, tenant, f"{kind}.{name}").put(
                name=name, cron=f"{(half_past + HOUR / 2).minute} * * * *", time_zone=ZONE, missed_runs=case.policy,
                start_deadline=Duration(seconds=case.deadline_s), overlap=case.overlap,
            )  # fmt: skip
    async with database(PoolSettings(urls.app_url, urls.maintenance_url, max_size=2)) as db:
        await outage(db, tenant, half_past - (MISSED - 1) * HOUR)
    async with serve(urls, "") as client:
        for name, case in CASES.items():
            owner = Owner(client, tenant, f"{kind}.{name}")

            async def gone_on(owner: Owner = owner, name: str = name) -> bool:
                found = (await owner.ask("GetSchedule", name=name)).schedule
                return bool(found.next_at.ToDatetime(UTC) > half_past)

            await until(gone_on, 10)
            found = (await owner.ask("GetSchedule", name=name)).schedule
            leased = await owner.lease(wait_s=5 if case.jobs else 0)
            jobs = [each.job for each in leased]
            assert (len(jobs), found.missed) == (case.jobs, case.missed), name
            assert found.next_at.ToDatetime(UTC) == half_past + HOUR
            assert found.last_job_id == max((job.id for job in jobs), default=0)
            assert not jobs or found.last_at.ToDatetime(UTC) == half_past
            # Once: what was made up for is not made up for again.
            request = jobs_pb.ListJobsRequest(tenant_id=str(tenant), kind=owner.kind)
            assert len((await client.call(owner.jobs.ListJobs, request)).jobs) == case.jobs
            again = await client.call(owner.jobs.LeaseJobs, lease_request(owner.kind))
            assert not again.jobs
