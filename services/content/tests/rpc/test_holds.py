"""What a legal hold keeps in Content: keys, whoever asks for their deletion, and why ever."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import pytest
from services.content.tests.rows import delete_request
from services.content.tests.rpc.test_lifecycle import put

from penguin.content.v1 import content_service_pb2 as pb
from penguin.content.v1.content_service_pb2_grpc import ContentServiceStub
from penguin.tier.v1 import erasure_pb2 as tier_pb
from penguin.tier.v1.tier_service_pb2_grpc import TierServiceStub
from penguin_chassis import subjects
from penguin_chassis.pool import Database
from penguin_testkit.calling import Refused, TierClient
from penguin_testkit.holds import put_hold, release_hold, subject

ADA = subject("ada@example.com")


async def deleted(content: TierClient, stub: ContentServiceStub, tenant: UUID, *keys: str) -> tuple[int, list[str]]:
    reply: pb.DeleteContentsResponse = await content.call(stub.DeleteContents, delete_request(tenant, *keys))
    return reply.deleted, list(reply.held_keys)


@pytest.mark.parametrize("by_person", [True, False])
async def test_what_is_held_is_not_deleted_until_it_is_released(
    content: TierClient, stub: ContentServiceStub, tenant: UUID, *, by_person: bool
) -> None:
    kept, other = await put(content, stub, tenant), await put(content, stub, tenant)
    on = {"subject": ADA, "storage_keys": [kept, kept, "k/none"]} if by_person else {"storage_key": kept}
    hold = await put_hold(content, tenant, **on)
    assert hold.kept_keys == (2 if by_person else 0)
    assert await deleted(content, stub, tenant, kept, other) == (1, [kept])
    await release_hold(content, tenant, hold)
    assert await deleted(content, stub, tenant, kept) == (1, [])


async def test_two_holds_on_a_key_keep_it_until_both_are_released(
    content: TierClient, stub: ContentServiceStub, tenant: UUID
) -> None:
    key = await put(content, stub, tenant)
    holds = [await put_hold(content, tenant, subject=ADA, storage_keys=[key]) for _ in range(2)]
    await release_hold(content, tenant, holds[0])
    assert await deleted(content, stub, tenant, key) == (0, [key])
    await release_hold(content, tenant, holds[1])
    assert await deleted(content, stub, tenant, key) == (1, [])


async def test_anothers_hold_keeps_nothing_of_ours(content: TierClient, stub: ContentServiceStub, tenant: UUID) -> None:
    key = await put(content, stub, tenant)
    await put_hold(content, uuid4(), subject=ADA, storage_keys=[key])
    assert await deleted(content, stub, tenant, key) == (1, [])


async def test_an_erasure_is_refused_by_the_keys_of_a_hold(content: TierClient, tenant: UUID) -> None:
    await put_hold(content, tenant, subject=ADA, storage_keys=["k/held"])
    check = tier_pb.CheckErasureRequest(tenant_id=str(tenant), subject=subject("bob@example.com"))
    await content.call(TierServiceStub(content.channel).CheckErasure, check)
    check.storage_keys.append("k/held")
    with pytest.raises(Refused) as refused:
        await content.call(TierServiceStub(content.channel).CheckErasure, check)
    assert refused.value.answer.reason == "LEGAL_HOLD"


async def test_keys_are_kept_besides_a_person_only(content: TierClient, tenant: UUID) -> None:
    with pytest.raises(Refused) as refused:
        await put_hold(content, tenant, storage_key="k/1", storage_keys=["k/2"])
    assert (refused.value.answer.reason, refused.value.answer.fields) == ("INVALID_FIELD", ["storage_keys"])


async def test_a_hold_is_acknowledged_once_no_removal_is_under_way_that_has_not_seen_it(
    content: TierClient, db: Database, tenant: UUID
) -> None:
    async with db.tenant(tenant) as removing:
        assert await subjects.held_among(removing, tenant, ["k/1"]) == set()
        putting = asyncio.create_task(put_hold(content, tenant, subject=ADA, storage_keys=["k/1"]))
        waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        async with asyncio.timeout(5):
            while not await removing.fetchval(waits):
                assert not putting.done()
    await putting
    async with db.tenant(tenant) as removing:
        assert await subjects.held_among(removing, tenant, ["k/1"]) == {"k/1"}
