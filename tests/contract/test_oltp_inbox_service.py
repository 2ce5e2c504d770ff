"""InboxService: every method, by its contract: references to mail received or imported."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from services.oltp.tests.rows import inbox_request, new_message
from tests.contract.cases import Batch, Case, Listing, Mutation, Within, equal
from tests.contract.harness import ServiceContract
from tests.contract.resources import unknown_tenant
from tests.contract.wire import World

from penguin.oltp.v1 import inbox_service_pb2 as pb

SERVICE = "penguin.oltp.v1.InboxService"
UNKNOWN = str(uuid4())


async def create(world: World, count: int) -> list[pb.NewInboxMessage]:
    """References that stand, as they were given."""
    messages = [new_message() for _ in range(count)]
    await world.call(f"{SERVICE}/BatchCreateInboxMessages", inbox_request(world.tenant, *messages))
    return messages


async def listed(world: World, request: Any) -> list[Any]:
    """The references of the request's tenant."""
    asked = pb.ListInboxMessagesRequest(tenant_id=request.tenant_id)
    return list((await world.call(f"{SERVICE}/ListInboxMessages", asked)).inbox_messages)


async def three_new(world: World) -> Any:
    return inbox_request(world.tenant, *(new_message() for _ in range(3)))


def check_created(request: Any, reply: Any) -> None:
    assert [r.message.id for r in reply.results] == [message.id for message in request.messages]
    assert not any(r.message.existed for r in reply.results)


def same_id(items: Any) -> None:
    items[1].id = items[0].id


async def get_one(world: World) -> Any:
    (message,) = await create(world, 1)
    return pb.GetInboxMessageRequest(tenant_id=str(world.tenant), inbox_message_id=message.id)


async def list_five(world: World) -> Any:
    await create(world, 5)
    return pb.ListInboxMessagesRequest(tenant_id=str(world.tenant))


async def find_two(world: World) -> Any:
    messages = await create(world, 2)
    prints = [message.fingerprint for message in messages]
    return pb.FindFingerprintsRequest(
        tenant_id=str(world.tenant), mailbox=messages[0].mailbox, fingerprints=[*prints, "0" * 64]
    )


def none_found(reply: Any) -> None:
    assert list(reply.found) == []


async def delete_two(world: World) -> Any:
    ids = [message.id for message in await create(world, 2)]
    return pb.DeleteInboxMessagesRequest(tenant_id=str(world.tenant), request_id=str(uuid4()), inbox_message_ids=ids)


def only_unknown(request: Any) -> None:
    del request.inbox_message_ids[:]
    request.inbox_message_ids.append(UNKNOWN)


def none_deleted(reply: Any) -> None:
    assert reply.deleted == 0


class TestInboxService(ServiceContract):
    service = SERVICE
    tiers = ("oltp",)
    cases = (
        Case(
            "BatchCreateInboxMessages",
            three_new,
            check_created,
            ("messages[1].fingerprint", lambda r: setattr(r.messages[1], "fingerprint", "x")),
            unknown_tenant,
            stranger=lambda reply: equal([r.WhichOneof("outcome") for r in reply.results], ["message"] * 3),
            mutation=Mutation(listed, vary=lambda r: setattr(r.messages[0], "subject", "other")),
            batch=Batch("messages", same_id, "ALREADY_EXISTS"),
        ),
        Case(
            "GetInboxMessage",
            get_one,
            lambda request, reply: equal(reply.inbox_message.id, request.inbox_message_id),
            ("inbox_message_id", lambda r: setattr(r, "inbox_message_id", "x")),
            lambda r: setattr(r, "inbox_message_id", UNKNOWN),
        ),
        Case(
            "ListInboxMessages",
            list_five,
            lambda request, reply: equal(len(reply.inbox_messages), 5),
            ("mailbox", lambda r: setattr(r, "mailbox", "x" * 321)),
            "a list of nothing is empty",
            stranger=lambda reply: equal(list(reply.inbox_messages), []),
            listing=Listing("inbox_messages", 5, lambda r: setattr(r, "thread_id", "<root@b.example>")),
        ),
        Case(
            "FindFingerprints",
            find_two,
            lambda request, reply: equal(set(reply.found), set(request.fingerprints[:2])),
            ("fingerprints[0]", lambda r: r.fingerprints.__setitem__(0, "x")),
            Within(lambda r: setattr(r, "mailbox", "nobody@example.com"), none_found),
            stranger=none_found,
        ),
        Case(
            "DeleteInboxMessages",
            delete_two,
            lambda request, reply: equal(reply.deleted, 2),
            ("inbox_message_ids[0]", lambda r: r.inbox_message_ids.__setitem__(0, "x")),
            Within(only_unknown, none_deleted),
            stranger=none_deleted,
            mutation=Mutation(listed, vary=lambda r: r.inbox_message_ids.append(UNKNOWN)),
        ),
    )
