"""ScheduleService: every method, by its contract."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from tests.contract.cases import Case, Listing, Mutation, equal
from tests.contract.harness import ServiceContract
from tests.contract.wire import World

from penguin.queue.v1 import queue_service_pb2 as jobs_pb
from penguin.queue.v1 import schedule_service_pb2 as pb

SERVICE = "penguin.queue.v1.ScheduleService"


async def schedules(world: World, request: Any) -> list[Any]:
    """The schedules of the request's tenant, but for when they were changed."""
    asked = pb.ListSchedulesRequest(tenant_id=request.tenant_id, page_size=1000)
    found = list((await world.call(f"{SERVICE}/ListSchedules", asked)).schedules)
    for schedule in found:
        schedule.ClearField("updated_at")
        schedule.ClearField("next_at")
    return found


async def jobs(world: World, request: Any) -> list[int]:
    """The jobs of the request's tenant."""
    asked = jobs_pb.ListJobsRequest(tenant_id=request.tenant_id)
    return sorted(job.id for job in (await world.call("penguin.queue.v1.QueueService/ListJobs", asked)).jobs)


def new(world: World, name: str) -> Any:
    schedule = pb.Schedule(name=name, cron="30 2 * * *", kind=f"k{world.tenant.hex}", payload=b"{}")
    return pb.PutScheduleRequest(tenant_id=str(world.tenant), request_id=str(uuid4()), schedule=schedule)


async def put(world: World) -> Any:
    return new(world, "nightly")


async def there(world: World, name: str = "nightly") -> dict[str, str]:
    """A schedule that stands: what names it."""
    await world.call(f"{SERVICE}/PutSchedule", new(world, name))
    return {"tenant_id": str(world.tenant), "name": name}


async def get(world: World) -> Any:
    return pb.GetScheduleRequest(**await there(world), next_times=3)


async def list_five(world: World) -> Any:
    for n in range(5):
        await there(world, f"s{n}")
    return pb.ListSchedulesRequest(tenant_id=str(world.tenant))


async def delete(world: World) -> Any:
    return pb.DeleteScheduleRequest(**await there(world), request_id=str(uuid4()))


async def run(world: World) -> Any:
    return pb.RunScheduleRequest(**await there(world), request_id=str(uuid4()))


async def pause(world: World) -> Any:
    return pb.PauseScheduleRequest(**await there(world), request_id=str(uuid4()))


async def resume(world: World) -> Any:
    pausing = await pause(world)
    await world.call(f"{SERVICE}/PauseSchedule", pausing)
    return pb.ResumeScheduleRequest(tenant_id=pausing.tenant_id, name=pausing.name, request_id=str(uuid4()))


def unnamed(request: Any) -> None:
    request.name = ""


def other(request: Any) -> None:
    request.name = "other"


def none_shown(reply: Any) -> None:
    equal(list(reply.schedules), [])


class TestScheduleService(ServiceContract):
    service = SERVICE
    tiers = ("queue",)
    cases = (
        Case(
            "PutSchedule",
            put,
            lambda request, reply: equal(
                (reply.schedule.cron, reply.schedule.HasField("next_at")), (request.schedule.cron, True)
            ),
            ("schedule.cron", lambda r: setattr(r.schedule, "cron", "now and then")),
            "it makes what is not there",
            stranger=lambda reply: equal(reply.schedule.name, "nightly"),
            mutation=Mutation(schedules, vary=lambda r: setattr(r.schedule, "cron", "0 3 * * *")),
        ),
        Case(
            "GetSchedule",
            get,
            lambda request, reply: equal(
                (reply.schedule.name, reply.schedule.payload, len(reply.next_times)), (request.name, b"", 3)
            ),
            ("next_times", lambda r: setattr(r, "next_times", 21)),
            other,
        ),
        Case(
            "ListSchedules",
            list_five,
            lambda request, reply: equal([s.name for s in reply.schedules], [f"s{n}" for n in range(5)]),
            "it takes nothing but a page",
            "a list of nothing is empty",
            stranger=none_shown,
            listing=Listing("schedules", 5),
        ),
        Case(
            "DeleteSchedule",
            delete,
            lambda request, reply: None,
            ("name", unnamed),
            other,
            mutation=Mutation(schedules, vary=other),
        ),
        Case(
            "RunSchedule",
            run,
            lambda request, reply: equal(reply.job_id > 0, True),
            ("name", unnamed),
            other,
            mutation=Mutation(jobs, vary=other),
        ),
        Case(
            "PauseSchedule",
            pause,
            lambda request, reply: equal((reply.schedule.paused, reply.schedule.HasField("next_at")), (True, False)),
            ("name", unnamed),
            other,
            mutation=Mutation(schedules, vary=other),
        ),
        Case(
            "ResumeSchedule",
            resume,
            lambda request, reply: equal((reply.schedule.paused, reply.schedule.HasField("next_at")), (False, True)),
            ("name", unnamed),
            other,
            mutation=Mutation(schedules, vary=other),
        ),
    )
