"""From a pause's answer on nothing is leased, not even by who had begun before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
import pytest
from libs.worker.tests.waiting import until
from services.queue.tests.conftest import Serve
from services.queue.tests.rpc.test_queues import Admin

from penguin.queue.v1 import queue_admin_service_pb2 as pb
from penguin.queue.v1 import queue_service_pb2 as jobs_pb
from penguin_chassis.queries import load
from penguin_devstack.roles import TierDatabase
from penguin_testkit.databases import Databases

leases, jobs = load("penguin_queue.store", "leases.sql"), load("penguin_queue.store", "jobs.sql")
# Much longer than a pause takes that waits for nobody.
A_WHILE_S = 0.5
Open: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@pytest.fixture
async def urls(databases: Databases) -> TierDatabase:
    return await databases.clone("queue")


@pytest.fixture
async def admin(serve: Serve, urls: TierDatabase, kind: str) -> AsyncIterator[Admin]:
    """A service of its own: other tests' leases are not waited for."""
    async with serve(urls, "") as client:
        admin = Admin(client, kind)
        await admin.put()
        yield admin


@pytest.fixture
async def maintenance(urls: TierDatabase) -> AsyncIterator[Open]:
    connection = await asyncpg.connect(urls.maintenance_url)
    yield connection
    await connection.close()


@pytest.fixture
async def app(urls: TierDatabase) -> AsyncIterator[Open]:
    connection = await asyncpg.connect(urls.app_url)
    yield connection
    await connection.close()


async def pausing(admin: Admin) -> asyncio.Task[None]:
    """A pause that has been written."""
    task = asyncio.create_task(admin.pause(pb.PauseTarget(kind=admin.kind)))

    async def written() -> bool:
        found: pb.ListPausesResponse = await admin.client.call(admin.stub.ListPauses, pb.ListPausesRequest())
        return bool(found.pauses)

    await until(written, 10)
    return task


async def is_answered(task: asyncio.Task[None]) -> bool:
    done, _ = await asyncio.wait({task}, timeout=A_WHILE_S)
    return bool(done)


async def lease(connection: Open, admin: Admin, tenant: UUID, n: int) -> list[Any]:
    """What another process leases of the kind, not committed yet."""
    kind_id = await connection.fetchval("SELECT id FROM kinds WHERE name = $1", admin.kind)
    until = await connection.fetchval("SELECT now() + interval '1 min'")
    before = await connection.fetchval("SELECT timestamptz '2000-01-01'")
    found = await connection.fetch(
        leases.lease_lots,
        [1],
        [2],
        [kind_id],
        [tenant],
        [-1000],
        [before],
        [0],
        [n],
        [n],
        n,
        [7],
        [until],
        ["w"],
        [],
        before,
        1_000_000,
    )
    return [row["id"] for row in found]


async def test_a_pause_is_answered_when_the_leases_that_had_begun_are_over(
    admin: Admin, tenant: UUID, maintenance: Open
) -> None:
    first, second = await admin.enqueue(tenant, 2)
    async with maintenance.transaction():
        assert await lease(maintenance, admin, tenant, 1) == [first]
        task = await pausing(admin)
        assert not await is_answered(task)
        # It is no secret meanwhile: what begins now passes them over, and waits for nobody.
        assert await admin.lease() == []
        assert (await admin.get(tenant, first)).state == jobs_pb.JOB_STATE_READY
    await asyncio.wait_for(task, 10)
    assert (await admin.get(tenant, first)).state == jobs_pb.JOB_STATE_LEASED
    assert await lease(maintenance, admin, tenant, 1) == []
    assert (await admin.get(tenant, second)).state == jobs_pb.JOB_STATE_READY


async def test_a_pause_waits_for_whoever_may_store_jobs_leased(admin: Admin, tenant: UUID, app: Open) -> None:
    await admin.enqueue(tenant)
    kind_id = await app.fetchval("SELECT id FROM kinds WHERE name = $1", admin.kind)
    async with app.transaction():
        (terms,) = await app.fetch(jobs.terms, tenant, [kind_id])
        assert terms["unhindered"]
        task = await pausing(admin)
        assert not await is_answered(task)
    await asyncio.wait_for(task, 10)
    (terms,) = await app.fetch(jobs.terms, tenant, [kind_id])
    assert not terms["unhindered"]


async def test_a_pause_waits_for_nobody_who_only_reads_jobs(admin: Admin, tenant: UUID, maintenance: Open) -> None:
    await admin.enqueue(tenant)
    async with maintenance.transaction():
        assert await maintenance.fetchval("SELECT count(*) FROM jobs") == 1
        await asyncio.wait_for(admin.pause(pb.PauseTarget(kind=admin.kind)), 10)
    assert await admin.lease() == []
