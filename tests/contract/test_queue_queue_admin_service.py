"""QueueAdminService: every method, by its contract. All of them are the platform's."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from tests.contract.cases import Case, Listing, Mutation, equal
from tests.contract.harness import ServiceContract
from tests.contract.wire import World

from penguin.queue.v1 import queue_admin_service_pb2 as pb

SERVICE = "penguin.queue.v1.QueueAdminService"


def name_of(world: World) -> str:
    """A name of this test alone, for a queue or a kind."""
    return f"k{world.tenant.hex}"


async def queues(world: World, request: Any) -> list[Any]:
    """The queues of this test, but for their times."""
    reply = await world.call(f"{SERVICE}/ListQueues", pb.ListQueuesRequest(page_size=1000))
    found = [queue for queue in reply.queues if queue.name.startswith(name_of(world))]
    for queue in found:
        queue.ClearField("updated_at")
    return found


async def pauses(world: World, request: Any) -> list[Any]:
    """What rests."""
    reply = await world.call(f"{SERVICE}/ListPauses", pb.ListPausesRequest(page_size=1000))
    return [each for each in reply.pauses if each.queue.startswith(name_of(world))]


async def put(world: World) -> Any:
    return pb.PutQueueRequest(request_id=str(uuid4()), queue=pb.Queue(name=name_of(world), max_attempts=3))


async def there(world: World, suffix: str = "") -> str:
    """A queue that stands; its name."""
    name = name_of(world) + suffix
    await world.call(f"{SERVICE}/PutQueue", pb.PutQueueRequest(request_id=str(uuid4()), queue=pb.Queue(name=name)))
    return name


async def get(world: World) -> Any:
    return pb.GetQueueRequest(name=await there(world))


async def list_five(world: World) -> Any:
    for n in range(5):
        await there(world, str(n))
    return pb.ListQueuesRequest()


async def move(world: World) -> Any:
    return pb.MoveKindsRequest(request_id=str(uuid4()), queue=await there(world), kinds=[name_of(world)])


async def pause(world: World, suffix: str = "") -> Any:
    target = pb.PauseTarget(queue=await there(world, suffix))
    return pb.PauseJobsRequest(request_id=str(uuid4()), target=target)


async def resume(world: World) -> Any:
    pausing = await pause(world)
    await world.call(f"{SERVICE}/PauseJobs", pausing)
    return pb.ResumeJobsRequest(request_id=str(uuid4()), target=pausing.target)


async def five_pauses(world: World) -> Any:
    for n in range(5):
        await world.call(f"{SERVICE}/PauseJobs", await pause(world, str(n)))
    return pb.ListPausesRequest()


async def some_jobs(world: World) -> Any:
    return pb.GetDepthsRequest(top_tenants=5)


async def weights(world: World, request: Any) -> list[Any]:
    """The weight of this test's tenant."""
    reply = await world.call(f"{SERVICE}/ListTenantWeights", pb.ListTenantWeightsRequest(page_size=1000))
    return [weight for weight in reply.weights if weight.tenant_id == str(world.tenant)]


async def weigh(world: World) -> Any:
    weight = pb.TenantWeight(tenant_id=str(world.tenant), weight=250)
    return pb.SetTenantWeightRequest(request_id=str(uuid4()), weight=weight)


async def five_weights(world: World) -> Any:
    for _ in range(5):
        request = await weigh(world)
        request.weight.tenant_id = str(uuid4())
        await world.call(f"{SERVICE}/SetTenantWeight", request)
    return pb.ListTenantWeightsRequest()


def elsewhere(request: Any) -> None:
    request.target.queue = "no.such"


class TestQueueAdminService(ServiceContract):
    service = SERVICE
    tiers = ("queue",)
    cases = (
        Case(
            "PutQueue",
            put,
            lambda request, reply: equal((reply.queue.name, reply.queue.max_attempts), (request.queue.name, 3)),
            ("queue.name", lambda r: setattr(r.queue, "name", "No Name")),
            "it makes what is not there",
            mutation=Mutation(queues, vary=lambda r: setattr(r.queue, "max_attempts", 4)),
        ),
        Case(
            "GetQueue",
            get,
            lambda request, reply: equal(reply.queue.name, request.name),
            ("name", lambda r: setattr(r, "name", "")),
            lambda r: setattr(r, "name", "no.such"),
        ),
        Case(
            "ListQueues",
            list_five,
            lambda request, reply: equal(sorted(q.name for q in reply.queues), [q.name for q in reply.queues]),
            "it takes nothing but a page",
            "a list of nothing is empty",
            listing=Listing("queues", 5),
        ),
        Case(
            "MoveKinds",
            move,
            lambda request, reply: equal(list(reply.queue.kinds), list(request.kinds)),
            ("kinds[0]", lambda r: r.kinds.__setitem__(0, "No Kind")),
            lambda r: setattr(r, "queue", "no.such"),
            mutation=Mutation(queues, vary=lambda r: r.kinds.append("other")),
        ),
        Case(
            "PauseJobs",
            pause,
            lambda request, reply: None,
            ("target", lambda r: r.ClearField("target")),
            elsewhere,
            mutation=Mutation(pauses, vary=elsewhere),
        ),
        Case(
            "ResumeJobs",
            resume,
            lambda request, reply: None,
            ("target", lambda r: r.ClearField("target")),
            elsewhere,
            mutation=Mutation(pauses, vary=elsewhere),
        ),
        Case(
            "ListPauses",
            five_pauses,
            lambda request, reply: equal(len(reply.pauses) >= 5, True),
            "it takes nothing but a page",
            "a list of nothing is empty",
            listing=Listing("pauses", 5),
        ),
        Case(
            "SetTenantWeight",
            weigh,
            lambda request, reply: None,
            ("weight.weight", lambda r: setattr(r.weight, "weight", 10_001)),
            "any tenant may have a weight",
            mutation=Mutation(weights, vary=lambda r: setattr(r.weight, "weight", 50)),
        ),
        Case(
            "ListTenantWeights",
            five_weights,
            lambda request, reply: equal(len(reply.weights) >= 5, True),
            "it takes nothing but a page",
            "a list of nothing is empty",
            listing=Listing("weights", 5),
        ),
        Case(
            "GetDepths",
            some_jobs,
            lambda request, reply: equal(reply.HasField("computed_at"), True),
            ("top_tenants", lambda r: setattr(r, "top_tenants", 101)),
            "a count of nothing is empty",
        ),
    )
