"""A tenant's transaction: whose it is, how long it may take, and what it leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from penguin_chassis import calls, fairness, outbox
from penguin_chassis.calls import Call, Caller
from penguin_chassis.faults import DeadlineExceeded, Fault, ResourceExhausted, Unavailable
from penguin_chassis.pool import OPENING_MAX, CommitError, Connection, Database, database
from penguin_chassis.settings import PoolSettings
from penguin_devstack.roles import TierDatabase

CONTEXT = "SELECT current_setting('app.current_tenant_id', true)"
COUNT = "SELECT count(*) FROM outbox"


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """As inside a call that has this long."""
    caller = Caller("test", None, frozenset())
    token = calls.enter(Call("/test", caller, time.monotonic() + seconds))
    try:
        yield
    finally:
        calls.leave(token)


async def owe(connection: Connection, tenant: UUID) -> None:
    await outbox.append(connection, tenant, [outbox.Owed(uuid4(), "queue", "k", {})], datetime.now(UTC))


async def backend(connection: Connection) -> int:
    pid: int = await connection.fetchval("SELECT pg_backend_pid()")
    return pid


async def test_the_context_is_the_tenants_and_leaks_into_nobody_elses(urls: TierDatabase, tenant: UUID) -> None:
    other = uuid4()
    async with database(PoolSettings(urls.app_url, urls.maintenance_url, max_size=1)) as db:
        async with db.tenant(tenant) as connection:
            first = await backend(connection)
            await owe(connection, tenant)
            assert await connection.fetchval(CONTEXT) == str(tenant)
            assert await connection.fetchval(COUNT) == 1
        async with db.tenant(other) as connection:
            assert await backend(connection) == first  # the very same connection
            assert await connection.fetchval(CONTEXT) == str(other)
            assert await connection.fetchval(COUNT) == 0
        raw = await db._app.pool.acquire()
        try:
            assert await raw.fetchval("SELECT pg_backend_pid()") == first
            assert await raw.fetchval(CONTEXT) in {None, ""}
            assert await raw.fetchval(COUNT) == 0
            assert await raw.fetchval("SHOW statement_timeout") == "0"
        finally:
            await db._app.pool.release(raw)


async def test_what_is_not_the_tenants_can_be_neither_read_nor_written(db: Database, tenant: UUID) -> None:
    other = uuid4()
    async with db.tenant(other) as connection:
        await owe(connection, other)
    async with db.tenant(tenant) as connection:
        assert await connection.fetchval("SELECT count(*) FROM outbox WHERE tenant_id = $1", other) == 0
        assert await connection.execute("DELETE FROM outbox WHERE tenant_id = $1", other) == "DELETE 0"
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with db.tenant(tenant) as connection:
            await owe(connection, other)
    async with db.tenant(other) as connection:
        assert await connection.fetchval(COUNT) == 1


@pytest.mark.parametrize(
    "value", ["x'; SET LOCAL app.current_tenant_id = '{other}", "{other}", "$1", "'); DELETE FROM outbox; --"]
)
async def test_no_value_changes_the_context(db: Database, tenant: UUID, value: str) -> None:
    hostile = value.format(other=uuid4())
    async with db.tenant(tenant) as connection:
        assert await connection.fetchval("SELECT $1::text", hostile) == hostile
        await outbox.append(
            connection, tenant, [outbox.Owed(uuid4(), hostile[:50], "k", {"v": hostile})], datetime.now(UTC)
        )
        assert await connection.fetchval(CONTEXT) == str(tenant)


async def test_the_maintenance_role_sees_all_tenants_and_keeps_no_context(db: Database, tenant: UUID) -> None:
    async with db.tenant(tenant) as connection:
        await owe(connection, tenant)
    async with db.maintenance() as connection:
        assert await connection.fetchval(CONTEXT) == ""
        assert await connection.fetchval("SELECT count(*) FROM outbox WHERE tenant_id = $1", tenant) == 1


async def test_an_error_rolls_back_and_keeps_the_connection(urls: TierDatabase, tenant: UUID) -> None:
    async with database(PoolSettings(urls.app_url, urls.maintenance_url, max_size=1)) as db:
        async with db.tenant(tenant) as connection:
            first = await backend(connection)

        async def write_and_fail(error: Exception) -> None:
            async with db.tenant(tenant) as connection:
                await owe(connection, tenant)
                raise error

        for error in (Fault("no"), KeyError("no")):
            with pytest.raises(type(error)):
                await write_and_fail(error)
        with pytest.raises(asyncpg.UndefinedTableError):
            async with db.tenant(tenant) as connection:
                await connection.execute("SELECT * FROM no_such_table")
        async with db.tenant(tenant) as connection:
            assert await backend(connection) == first
            assert await connection.fetchval(COUNT) == 0


async def test_a_broken_transaction_is_never_reported_as_committed(db: Database, tenant: UUID) -> None:
    async def write_over_an_error() -> None:
        async with db.tenant(tenant) as connection:
            await owe(connection, tenant)
            with contextlib.suppress(asyncpg.PostgresError):
                await connection.execute("SELECT 1/0")

    with pytest.raises(CommitError):
        await write_over_an_error()
    async with db.tenant(tenant) as connection:
        assert await connection.fetchval(COUNT) == 0


async def test_statements_end_with_the_calls_deadline_and_the_connection_stays(
    urls: TierDatabase, tenant: UUID
) -> None:
    async with database(PoolSettings(urls.app_url, urls.maintenance_url, max_size=1)) as db:
        async with db.tenant(tenant) as connection:
            first = await backend(connection)

        async def sleep_long() -> None:
            async with db.tenant(tenant) as connection:
                limit = await connection.fetchval("SHOW statement_timeout")
                assert limit.endswith("ms")
                assert 200 <= int(limit.removesuffix("ms")) <= 380
                await connection.execute("SELECT pg_sleep(10)")

        started = time.monotonic()
        with within(0.4), pytest.raises((DeadlineExceeded, asyncpg.QueryCanceledError)):
            await sleep_long()
        assert time.monotonic() - started < 1.0
        async with db.tenant(tenant) as connection:
            assert await backend(connection) == first


async def test_work_between_statements_is_held_to_the_deadline_too(db: Database, tenant: UUID) -> None:
    started = time.monotonic()
    with within(0.2), pytest.raises(DeadlineExceeded):
        async with db.tenant(tenant):
            await asyncio.sleep(5)
    assert time.monotonic() - started < 1.0


async def test_a_call_without_time_left_takes_no_connection(db: Database, tenant: UUID) -> None:
    with within(0.0), pytest.raises(DeadlineExceeded):
        async with db.tenant(tenant):
            pytest.fail("it came in")


async def test_an_exhausted_pool_sheds_within_its_time(urls: TierDatabase) -> None:
    settings = PoolSettings(urls.app_url, urls.maintenance_url, max_size=2, acquire_timeout_s=0.3)
    async with database(settings) as db, db.tenant(uuid4()), db.tenant(uuid4()):
        started = time.monotonic()
        with pytest.raises(ResourceExhausted) as caught:
            async with db.tenant(uuid4()):
                pytest.fail("it came in")
        assert 0.3 * fairness.LEAST * 0.9 < time.monotonic() - started < 1.0
        assert caught.value.retry_after_s
        started = time.monotonic()
        with within(0.1), pytest.raises(ResourceExhausted):
            async with db.tenant(uuid4()):
                pytest.fail("it came in")
        assert time.monotonic() - started < 0.5


async def test_a_cancelled_transaction_leaves_nothing_broken(urls: TierDatabase, tenant: UUID) -> None:
    async with database(PoolSettings(urls.app_url, urls.maintenance_url, max_size=2)) as db:

        async def write_slowly() -> None:
            async with db.tenant(tenant) as connection:
                await owe(connection, tenant)
                await connection.execute("SELECT pg_sleep(10)")

        for pause in (0.0, 0.001, 0.005, 0.02, 0.1):
            task = asyncio.create_task(write_slowly())
            await asyncio.sleep(pause)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        for _ in range(4):
            async with db.tenant(tenant) as connection:
                assert await connection.fetchval(COUNT) == 0
        await db.settled()
        assert db.pool_size == db.pool_idle


async def test_a_call_that_is_dropped_leaves_no_work_to_the_server(urls: TierDatabase, tenant: UUID) -> None:
    """Else calls begun and dropped would pile up behind the pool's back, with their locks and their snapshots."""
    async with database(PoolSettings(urls.app_url, urls.maintenance_url, max_size=4)) as db:

        async def sleep(mark: str) -> None:
            async with db.tenant(tenant) as connection:
                await connection.execute(f"SELECT pg_sleep(20) /* {mark} */")

        mark = uuid4().hex
        for _ in range(10):
            task = asyncio.create_task(sleep(mark))
            await asyncio.sleep(0.05)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        with within(0.3), pytest.raises((DeadlineExceeded, asyncpg.QueryCanceledError)):
            await sleep(mark)
        await db.settled()
        watching = await asyncpg.connect(urls.owner_url)
        try:
            left = await watching.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE state <> 'idle' AND query LIKE '%pg_sleep(20) /* ' || $1 || '%'"
                " AND pid <> pg_backend_pid()",
                mark,
            )
        finally:
            await watching.close()
        assert left == 0


async def test_a_tenant_that_needs_many_connections_at_once_lets_others_open_theirs(
    urls: TierDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect, under_way, most = asyncpg.connect, 0, 0

    async def slow(*arguments: Any, **options: Any) -> Any:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            await asyncio.sleep(0.2)
            return await connect(*arguments, **options)
        finally:
            under_way -= 1

    async def hold(tenant: UUID, seconds: float = 0.0) -> float:
        began = time.monotonic()
        token = calls.enter(Call("/test", Caller("test", tenant, frozenset()), began + 20))
        try:
            async with db.tenant(tenant):
                opened = time.monotonic() - began
                await asyncio.sleep(seconds)
        finally:
            calls.leave(token)
        return opened

    settings = PoolSettings(urls.app_url, urls.maintenance_url, max_size=40, acquire_timeout_s=10.0)
    async with database(settings) as db:
        monkeypatch.setattr(asyncpg, "connect", slow)
        noisy = [asyncio.create_task(hold(UUID(int=1), 2.0)) for _ in range(14)]
        await asyncio.sleep(0.05)
        others = await hold(UUID(int=2))
        times = await asyncio.gather(*noisy)
        monkeypatch.undo()
    assert most <= OPENING_MAX
    assert others < max(times), "another tenant waited for all of them"


async def test_a_disk_without_room_is_an_outage_that_leaves_nothing_behind(db: Database, tenant: UUID) -> None:
    async def lacks_room() -> None:
        async with db.tenant(tenant) as connection:
            await owe(connection, tenant)
            await connection.execute("DO $$ BEGIN RAISE EXCEPTION 'full' USING ERRCODE = 'disk_full'; END $$")

    with within(5), pytest.raises(Unavailable) as refused:
        await lacks_room()
    assert (refused.value.reason, refused.value.metadata) == ("TIER_DB_DOWN", {"effect": "none"})
    assert refused.value.retry_after_s
    with within(5):
        async with db.tenant(tenant) as connection:
            assert await connection.fetchval(COUNT) == 0
            await owe(connection, tenant)
        # The call has done something before: nobody may be told that it had no effect.
        with pytest.raises(Unavailable) as refused:
            await lacks_room()
    assert refused.value.metadata == {}


async def test_a_hot_read_leaves_no_context_behind(urls: TierDatabase, tenant: UUID) -> None:
    owner = await asyncpg.connect(urls.owner_url)
    try:
        await owner.execute(
            """CREATE FUNCTION hot_owed(uuid) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
            DECLARE found bigint;
            BEGIN
                EXECUTE format('SET LOCAL app.current_tenant_id = %L', $1);
                SELECT count(*) INTO found FROM outbox WHERE tenant_id = $1;
                RETURN found;
            END $$"""
        )
    finally:
        await owner.close()
    async with database(PoolSettings(urls.app_url, urls.maintenance_url, max_size=1)) as db:
        async with db.tenant(tenant) as connection:
            await owe(connection, tenant)
        assert [r[0] for r in await db.one_trip("SELECT hot_owed($1)", tenant)] == [1]
        assert [r[0] for r in await db.one_trip("SELECT hot_owed($1)", uuid4())] == [0]
        raw = await db._app.pool.acquire()
        try:
            assert await raw.fetchval(CONTEXT) in {None, ""}
        finally:
            await db._app.pool.release(raw)
        with within(0.2), pytest.raises(DeadlineExceeded):
            await db.one_trip("SELECT pg_sleep(5), $1::uuid", tenant)
        assert await db.one_trip("SELECT hot_owed($1)", tenant)
