"""Each tier is its own failure domain: while one is down the others answer, and it comes back without a restart of
anything else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import grpc
import pytest
from libs.worker.tests.waiting import until

from penguin.content.v1 import content_service_pb2 as content_pb
from penguin.content.v1.content_service_pb2_grpc import ContentServiceStub
from penguin.notifications.v1 import notification_service_pb2 as notification_pb
from penguin.notifications.v1.notification_service_pb2_grpc import NotificationServiceStub
from penguin.olap.v1 import facts_service_pb2 as facts_pb
from penguin.olap.v1.facts_service_pb2_grpc import FactsServiceStub
from penguin.oltp.v1 import lead_service_pb2 as lead_pb
from penguin.oltp.v1.lead_service_pb2_grpc import LeadServiceStub
from penguin.queue.v1 import queue_service_pb2 as queue_pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_devstack.stack import LocalStack
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.platform import Penguin

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(180)]

RECOVERY_S = 30.0
# By then a tier knows that its database does not answer: a look each second, and what one takes.
KNOWN_S = 6.0
# A refusal while the database is away; beside it the channel's own retries of UNAVAILABLE take their time.
SHED_S = 1.0

READS: dict[str, tuple[Callable[[Any], Any], str, Callable[[str], Any]]] = {
    "oltp": (LeadServiceStub, "ListLeads", lambda t: lead_pb.ListLeadsRequest(tenant_id=t)),
    "content": (ContentServiceStub, "ListContents", lambda t: content_pb.ListContentsRequest(tenant_id=t)),
    "olap": (FactsServiceStub, "GetWatermark", lambda t: facts_pb.GetWatermarkRequest(tenant_id=t, source="x")),
    "queue": (QueueServiceStub, "ListJobs", lambda t: queue_pb.ListJobsRequest(tenant_id=t)),
    "notifications": (
        NotificationServiceStub,
        "CountUnread",
        lambda t: notification_pb.CountUnreadRequest(tenant_id=t),
    ),
}


async def read(tier: Tier, tenant: UUID, timeout: float = 5.0) -> None:
    """One read of the tier that needs its database."""
    service, method, request = READS[tier.name]
    await tier.call(getattr(tier.stub(service), method), request(str(tenant)), timeout=timeout)


async def others_answer(penguin: Penguin, down: str, tenant: UUID) -> None:
    for name, tier in penguin.tiers.items():
        if name != down:
            await read(tier, tenant)


async def recovered(tier: Tier, tenant: UUID) -> float:
    """Seconds until the tier answers again; fails after 30."""
    started = time.monotonic()
    while True:
        try:
            await read(tier, tenant)
        except TierError as error:
            if time.monotonic() - started > RECOVERY_S:
                raise AssertionError(f"{tier.name} is not back after {RECOVERY_S} s") from error
            await asyncio.sleep(0.1)
        else:
            return time.monotonic() - started


async def sheds(tier: Tier, tenant: UUID) -> bool:
    """Whether it refuses at once because its database is away; as yet it may still wait for it."""
    with pytest.raises(TierError) as refused:
        await read(tier, tenant, timeout=SHED_S)
    return refused.value.reason == "TIER_DB_DOWN"


def pids(stack: LocalStack) -> dict[str, int]:
    return {n: c.process.pid for n, c in stack.status().components.items() if c.process is not None}


@pytest.fixture(scope="module")
async def tenant(penguin: Penguin) -> UUID:
    return await penguin.tenants.onboard("Standing alone")


@pytest.fixture(autouse=True)
async def all_answer(penguin: Penguin, tenant: UUID) -> None:
    """Each test begins with everything up, whatever the one before has broken."""
    for tier in penguin.tiers.values():
        await recovered(tier, tenant)


@pytest.mark.parametrize("name", list(READS))
async def test_a_killed_process(stack: LocalStack, penguin: Penguin, tenant: UUID, name: str) -> None:
    before = pids(stack)
    await stack.kill(name)
    await others_answer(penguin, name, tenant)
    await recovered(penguin.tiers[name], tenant)
    after = pids(stack)
    changed = {n for n in before if before[n] != after.get(n)}
    assert changed == {name}, "something else was restarted"


@pytest.mark.parametrize("name", list(READS))
async def test_a_stopped_database(stack: LocalStack, penguin: Penguin, tenant: UUID, name: str) -> None:
    before = pids(stack)
    await stack.stop_database(name, "immediate")
    try:
        with pytest.raises(TierError) as refused:
            await read(penguin.tiers[name], tenant)
        assert refused.value.code is grpc.StatusCode.UNAVAILABLE
        assert refused.value.reason == "TIER_DB_DOWN"
        assert refused.value.retry_after_s
        await others_answer(penguin, name, tenant)
    finally:
        await stack.start_database(name)
    await recovered(penguin.tiers[name], tenant)
    after = pids(stack)
    changed = {n for n in before if before[n] != after.get(n)}
    assert changed == {f"{name}-db"}, "something else was restarted"


@pytest.mark.parametrize("name", list(READS))
async def test_a_frozen_database(stack: LocalStack, penguin: Penguin, tenant: UUID, name: str) -> None:
    """The first calls keep their deadline; then the tier sheds at once."""
    stack.freeze_database(name)
    try:
        started = time.monotonic()
        with pytest.raises(TierError):
            await read(penguin.tiers[name], tenant, timeout=2.0)
        assert time.monotonic() - started < 2.0 + SHED_S
        await until(lambda: sheds(penguin.tiers[name], tenant), KNOWN_S)
        await others_answer(penguin, name, tenant)
    finally:
        stack.thaw_database(name)
    await recovered(penguin.tiers[name], tenant)
