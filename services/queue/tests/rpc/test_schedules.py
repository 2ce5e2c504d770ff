"""ScheduleService: jobs by the clock, as their tenants see them."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from services.queue.tests.rows import lease_request, seconds

from penguin.queue.v1 import queue_service_pb2 as jobs_pb
from penguin.queue.v1 import schedule_service_pb2 as pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin.queue.v1.schedule_service_pb2_grpc import ScheduleServiceStub
from penguin.tier.v1 import tier_service_pb2 as tier_pb
from penguin.tier.v1.tier_service_pb2_grpc import TierServiceStub
from penguin_chassis.mutations import now
from penguin_chassis.pool import Database
from penguin_testkit.calling import Refused, TierClient


class Owner:
    """A tenant with schedules of one kind."""

    def __init__(self, queue: TierClient, tenant: UUID, kind: str) -> None:
        self.queue, self.tenant, self.kind = queue, str(tenant), kind
        self.stub, self.jobs = ScheduleServiceStub(queue.channel), QueueServiceStub(queue.channel)

    async def ask(self, method: str, **fields: Any) -> Any:
        request = getattr(pb, f"{method}Request")(tenant_id=self.tenant, **fields)
        if "request_id" in request.DESCRIPTOR.fields_by_name and not request.request_id:
            request.request_id = str(uuid4())
        return await self.queue.call(getattr(self.stub, method), request)

    async def put(self, name: str = "nightly", **fields: Any) -> pb.Schedule:
        schedule = pb.Schedule(name=name, **{"cron": "30 2 * * *", "kind": self.kind, "payload": b"{}"} | fields)
        return (await self.ask("PutSchedule", schedule=schedule)).schedule  # type: ignore[no-any-return]

    async def lease(self, wait_s: float = 0) -> list[jobs_pb.LeasedJob]:
        request = lease_request(self.kind, wait_s=wait_s)
        return list((await self.queue.call(self.jobs.LeaseJobs, request)).jobs)


@pytest.fixture
def owner(queue: TierClient, tenant: UUID, kind: str) -> Owner:
    return Owner(queue, tenant, kind)


async def test_a_schedule_is_as_it_was_put_and_tells_its_next_times(owner: Owner) -> None:
    made = await owner.put(time_zone="Europe/Berlin", payload=b'{"campaign_id":"c"}')
    assert (made.missed_runs, made.overlap) == (pb.MISSED_RUN_POLICY_RUN_ONCE, pb.OVERLAP_POLICY_ALLOW)
    assert (made.start_deadline.seconds, made.payload, made.missed, made.last_job_id) == (60, b"", 0, 0)
    assert made.next_at.ToDatetime().minute == 30
    reply = await owner.ask("GetSchedule", name="nightly", next_times=20)
    assert reply.schedule == made
    assert (len(reply.next_times), reply.next_times[0]) == (20, made.next_at)
    assert (await owner.put(name="plain")).time_zone == "UTC"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"cron": "* * * *"}, "schedule.cron"),
        ({"cron": "61 * * * *"}, "schedule.cron"),
        ({"cron": "0 0 30 2 *"}, "schedule.cron"),
        ({"cron": ""}, "schedule.cron"),
        ({"time_zone": "Mars/Olympus"}, "schedule.time_zone"),
        ({"payload": b"[]"}, "schedule.payload"),
        ({"payload": b"{" + b" " * 65536 + b"}"}, "schedule.payload"),
        ({"kind": "No Kind"}, "schedule.kind"),
        ({"name": "No Name"}, "schedule.name"),
        ({"rank": 1001}, "schedule.rank"),
        ({"start_deadline": seconds(0)}, "schedule.start_deadline"),
        ({"missed_runs": 9}, "schedule.missed_runs"),
    ],
)
async def test_what_is_no_schedule_is_refused_by_its_field(owner: Owner, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(Refused) as refused:
        await owner.put(**fields)
    answer = refused.value.answer
    assert (answer.code, answer.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert field in answer.fields
    assert "cronsim" not in answer.message.lower()
    assert not (await owner.ask("ListSchedules")).schedules


async def test_what_is_due_is_given_to_a_worker_that_waits(owner: Owner, db: Database) -> None:
    made = await owner.put(cron="* * * * *", payload=b'{"n":7}')
    async with db.tenant(UUID(owner.tenant)) as connection:
        await connection.execute("UPDATE schedules SET next_at = $2 WHERE tenant_id = $1", UUID(owner.tenant), now())
    await owner.put("other")  # the server that is asked looks at once
    (leased,) = await owner.lease(wait_s=10)
    assert (leased.job.payload, leased.job.tenant_id) == (b'{"n":7}', owner.tenant)
    found = (await owner.ask("GetSchedule", name="nightly")).schedule
    assert (found.last_job_id, found.next_at.seconds % 60) == (leased.job.id, 0)
    assert found.next_at.ToNanoseconds() >= made.next_at.ToNanoseconds()


async def test_it_is_run_at_once_where_it_is_asked_to_be(owner: Owner) -> None:
    await owner.put(priority=jobs_pb.JOB_PRIORITY_HIGH, overlap=pb.OVERLAP_POLICY_SKIP, paused=True)
    job_id = (await owner.ask("RunSchedule", name="nightly")).job_id
    with pytest.raises(Refused) as refused:
        await owner.ask("RunSchedule", name="nightly")
    answer = refused.value.answer
    assert (answer.code, answer.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "STATE_CONFLICT")
    (leased,) = await owner.lease()
    assert (leased.job.id, leased.job.priority) == (job_id, jobs_pb.JOB_PRIORITY_HIGH)
    assert (await owner.ask("GetSchedule", name="nightly")).schedule.last_job_id == job_id


async def test_it_rests_and_goes_on_and_ends(owner: Owner) -> None:
    await owner.put()
    rested = (await owner.ask("PauseSchedule", name="nightly")).schedule
    assert (rested.paused, rested.HasField("next_at")) == (True, False)
    assert len((await owner.ask("GetSchedule", name="nightly", next_times=2)).next_times) == 2
    resumed = (await owner.ask("ResumeSchedule", name="nightly")).schedule
    assert (resumed.paused, resumed.HasField("next_at")) == (False, True)
    await owner.ask("DeleteSchedule", name="nightly")
    for method in ("GetSchedule", "DeleteSchedule", "PauseSchedule", "ResumeSchedule", "RunSchedule"):
        with pytest.raises(Refused) as refused:
            await owner.ask(method, name="nightly")
        assert (refused.value.answer.code, refused.value.answer.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


async def test_a_name_is_the_tenants_own(owner: Owner, queue: TierClient, kind: str) -> None:
    await owner.put()
    stranger = Owner(queue, uuid4(), kind)
    with pytest.raises(Refused) as refused:
        await stranger.ask("RunSchedule", name="nightly")
    assert refused.value.answer.reason == "NOT_FOUND"
    await stranger.put(cron="0 5 * * *")
    assert (await owner.ask("GetSchedule", name="nightly")).schedule.cron == "30 2 * * *"
    assert await owner.lease() == []


async def test_closing_a_tenant_lets_its_schedules_rest(owner: Owner) -> None:
    await owner.put()
    request = tier_pb.CloseTenantRequest(tenant_id=owner.tenant, request_id=str(uuid4()))
    await owner.queue.call(TierServiceStub(owner.queue.channel).CloseTenant, request)
    found = (await owner.ask("GetSchedule", name="nightly")).schedule
    assert (found.paused, found.HasField("next_at")) == (True, False)
