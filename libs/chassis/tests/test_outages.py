"""The database away, stopped and frozen: deadlines are kept, then calls are shed at once, and nobody restarts anything."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from uuid import UUID, uuid4

import grpc
import pytest
from libs.chassis.tests.test_gate import settled
from libs.chassis.tests.test_pool import within

from penguin.tier.v1 import tier_service_pb2 as pb
from penguin.tier.v1.tier_service_pb2_grpc import TierServiceStub
from penguin_chassis.faults import DeadlineExceeded, Fault, ResourceExhausted, Unavailable
from penguin_chassis.pool import Database, database
from penguin_chassis.settings import PoolSettings
from penguin_devstack.postgres import PostgresCluster, temporary_cluster
from penguin_devstack.roles import TierDatabase
from penguin_oltp.app import serving
from penguin_oltp.config import OltpConfig
from penguin_testkit.calling import TierClient
from penguin_testkit.databases import Databases
from penguin_testkit.tokens import TokenFactory


@pytest.fixture(scope="module")
def breakable() -> Iterator[PostgresCluster]:
    """A cluster of this module's own: it is stopped and frozen."""
    with temporary_cluster() as running:
        yield running


@pytest.fixture(scope="module")
async def breakable_urls(breakable: PostgresCluster) -> TierDatabase:
    return await Databases(breakable).template("oltp")


@pytest.fixture
async def breakable_db(breakable_urls: TierDatabase) -> AsyncIterator[Database]:
    settings = PoolSettings(breakable_urls.app_url, breakable_urls.maintenance_url, max_size=4, acquire_timeout_s=0.5)
    async with database(settings) as opened:
        assert opened.up
        yield opened


async def read(db: Database, seconds: float = 1.0) -> int:
    with within(seconds):
        async with db.tenant(uuid4()) as connection:
            value: int = await connection.fetchval("SELECT 1")
            return value


async def timed_refusal(db: Database, seconds: float) -> tuple[Fault, float]:
    started = time.monotonic()
    with pytest.raises(Fault) as caught:
        await read(db, seconds)
    return caught.value, time.monotonic() - started


async def test_a_stopped_database_is_answered_for_at_once_and_found_again(
    breakable: PostgresCluster, breakable_db: Database
) -> None:
    assert await read(breakable_db) == 1
    await asyncio.to_thread(breakable.stop, "immediate")
    try:
        for _ in range(3):
            started = time.monotonic()
            with pytest.raises(Exception) as caught:
                await read(breakable_db, 10)
            assert time.monotonic() - started < 1.0
        assert isinstance(caught.value, Unavailable)
        assert caught.value.reason == "TIER_DB_DOWN"
        await settled(lambda: not breakable_db.up)
    finally:
        await asyncio.to_thread(breakable.start)
    await settled(lambda: breakable_db.up, within_s=5)
    assert await read(breakable_db, 5) == 1


async def test_a_frozen_database_costs_deadlines_first_and_nothing_later(
    breakable: PostgresCluster, breakable_db: Database
) -> None:
    assert await read(breakable_db) == 1
    breakable.freeze()
    try:
        fault, took = await timed_refusal(breakable_db, 0.5)
        assert isinstance(fault, DeadlineExceeded)
        assert took < 1.0
        crowd = await asyncio.gather(*(timed_refusal(breakable_db, 1.0) for _ in range(20)))
        assert all(isinstance(fault, DeadlineExceeded | ResourceExhausted | Unavailable) for fault, _ in crowd)
        assert max(took for _, took in crowd) < 1.6
        await settled(lambda: not breakable_db.up, within_s=5)
        for _ in range(3):
            fault, took = await timed_refusal(breakable_db, 10)
            assert isinstance(fault, Unavailable)
            assert took < 0.2
    finally:
        breakable.thaw()
    await settled(lambda: breakable_db.up, within_s=8)
    assert await read(breakable_db, 5) == 1
    assert breakable_db._app.places.waiting == 0
    # Every place is free again: as many at once as there are connections for other tenants.
    assert await asyncio.gather(*(read(breakable_db, 5) for _ in range(4))) == [1, 1, 1, 1]


async def test_closing_does_not_wait_for_a_frozen_server(
    breakable: PostgresCluster, breakable_urls: TierDatabase
) -> None:
    settings = PoolSettings(breakable_urls.app_url, breakable_urls.maintenance_url, max_size=4)
    async with database(settings) as db:
        await asyncio.gather(*(read(db) for _ in range(3)))
        async with db.maintenance() as connection:
            await connection.execute("SELECT 1")
        breakable.freeze()
        started = time.monotonic()
    try:
        assert time.monotonic() - started < 3.5
    finally:
        breakable.thaw()


async def test_a_tier_starts_and_is_ready_while_its_database_is_away(
    breakable: PostgresCluster, breakable_urls: TierDatabase
) -> None:
    await asyncio.to_thread(breakable.stop, "immediate")
    try:
        settings = PoolSettings(breakable_urls.app_url, breakable_urls.maintenance_url, max_size=4)
        started = time.monotonic()
        async with database(settings) as db:
            assert time.monotonic() - started < 4
            assert not db.up
            fault, took = await timed_refusal(db, 10)
            assert isinstance(fault, Unavailable)
            assert took < 0.2
            await asyncio.to_thread(breakable.start)
            await settled(lambda: db.up, within_s=5)
            assert await read(db, 5) == 1
    finally:
        await asyncio.to_thread(start_if_stopped, breakable)


def start_if_stopped(cluster: PostgresCluster) -> None:
    if not cluster.running:
        cluster.start()


async def test_status_and_readiness_answer_while_the_database_is_frozen(
    breakable: PostgresCluster, breakable_urls: TierDatabase, tokens: TokenFactory
) -> None:
    config = OltpConfig(
        OLTP_DB_URL=breakable_urls.app_url, OLTP_MAINTENANCE_DB_URL=breakable_urls.maintenance_url,
        OLTP_LISTEN="127.0.0.1:0", PENGUIN_JWKS_PATH=tokens.jwks_path, PENGUIN_DRAIN_SECONDS=0.1, OLTP_POOL_MAX=4,
    )  # fmt: skip
    async with serving(config) as running, grpc.aio.insecure_channel(f"127.0.0.1:{running.port}") as channel:
        client, stub = TierClient("oltp", channel, tokens), TierServiceStub(channel)
        up = await client.call(stub.GetStatus, pb.GetStatusRequest(), tenant=UUID(int=5))
        assert up.database == pb.DATABASE_STATE_UP
        assert up.applied_schema_version == up.schema_version > 0
        assert up.HasField("outbox_depth")
        breakable.freeze()
        try:
            started = time.monotonic()
            frozen = await client.call(stub.GetStatus, pb.GetStatusRequest(), tenant=UUID(int=5))
            assert time.monotonic() - started < 2
            assert frozen.database == pb.DATABASE_STATE_DOWN
            assert frozen.tier == "oltp"
            assert not frozen.HasField("outbox_depth")
        finally:
            breakable.thaw()
