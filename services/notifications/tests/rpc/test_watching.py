"""WatchNotifications as its clients see it: nothing missed, nothing twice, ended in good order."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from services.notifications.tests.rows import config_of, create_request, new_notification

from penguin.notifications.v1 import notification_service_pb2 as pb
from penguin.notifications.v1.notification_service_pb2_grpc import NotificationServiceStub
from penguin_chassis import migrate
from penguin_chassis.pool import Database
from penguin_devstack.postgres import PostgresCluster, temporary_cluster
from penguin_devstack.roles import TierPasswords, provision_tier
from penguin_notifications.app import serving
from penguin_notifications.domain.feed import Place, Watcher, token_of
from penguin_notifications.operations import watching
from penguin_testkit.calling import Answer, Refused, TierClient, answer_of
from penguin_testkit.databases import Databases
from penguin_testkit.tokens import TokenFactory

WATCH = "/penguin.notifications.v1.NotificationService/WatchNotifications"
SOON_S = 15.0
INSERT = """
INSERT INTO notifications (tenant_id, id, type, title, message, channel, subject_ref, created_at)
VALUES ($1, $2, 'a.b', 'late', '', 'in_app', '', now())"""


@contextlib.asynccontextmanager
async def watch(tier: TierClient, tenant: UUID, *, timeout: float = 30, **fields: Any) -> AsyncIterator[Any]:
    """A stream; leaving the block ends it."""
    call = NotificationServiceStub(tier.channel).WatchNotifications(
        pb.WatchNotificationsRequest(tenant_id=str(tenant), **fields),
        metadata=tier.authorization(WATCH, tenant), timeout=timeout,
    )  # fmt: skip
    try:
        yield call
    finally:
        call.cancel()


async def following(call: Any) -> pb.WatchNotificationsResponse:
    """The next message."""
    async with asyncio.timeout(SOON_S):
        message = await call.read()
    assert isinstance(message, pb.WatchNotificationsResponse)
    return message


async def notified(call: Any, count: int) -> tuple[list[str], str]:
    """The next `count` notifications' ids, keep-alives passed over, and the last token."""
    ids: list[str] = []
    token = ""
    while len(ids) < count:
        message = await following(call)
        token = message.resume_token
        if message.HasField("notification"):
            ids.append(message.notification.id)
    return ids, token


async def ending(call: Any) -> Answer | None:
    """How a stream ends: None in good order."""
    try:
        async with asyncio.timeout(SOON_S * 2):
            while await call.read() is not grpc.aio.EOF:
                pass
    except grpc.aio.AioRpcError as error:
        return answer_of(error)
    return None


async def create(tier: TierClient, tenant: UUID, *users: str) -> list[str]:
    """Notifications for these users, in one batch."""
    items = [new_notification(user_id=user) for user in users]
    method = NotificationServiceStub(tier.channel).BatchCreateNotifications
    return [r.notification.id for r in (await tier.call(method, create_request(tenant, *items))).results]


async def test_a_watcher_is_told_at_once_and_only_what_is_its_own(notifications: TierClient, tenant: UUID) -> None:
    user = str(uuid4())
    await create(notifications, tenant, user)
    async with watch(notifications, tenant, user_id=user) as call:
        first = await following(call)
        assert not first.HasField("notification")
        assert first.resume_token
        await create(notifications, tenant, str(uuid4()))
        await create(notifications, uuid4(), "")
        began = time.monotonic()
        expected = await create(notifications, tenant, user) + await create(notifications, tenant, "")
        ids, _ = await notified(call, 2)
        assert ids == expected
        assert time.monotonic() - began < 5.0


async def test_a_stream_resumes_where_the_last_one_ended(notifications: TierClient, tenant: UUID) -> None:
    async with watch(notifications, tenant) as call:
        start = (await following(call)).resume_token
    created = await create(notifications, tenant, *[""] * 250) + await create(notifications, tenant, "")
    async with watch(notifications, tenant, resume_token=start) as call:
        first, token = await notified(call, 100)
    async with watch(notifications, tenant, resume_token=token) as call:
        rest, token = await notified(call, 151)
    assert first + rest == sorted(created[:250]) + created[250:]
    async with watch(notifications, tenant, resume_token=token) as call:
        assert not (await following(call)).HasField("notification")


async def test_what_commits_late_is_not_missed(notifications: TierClient, tenant: UUID, db: Database) -> None:
    late = uuid4()
    async with watch(notifications, tenant) as call:
        token = (await following(call)).resume_token
        async with db.tenant(tenant) as connection:
            await connection.execute(INSERT, tenant, late)
            # Written later, committed earlier: it must not carry the watcher past the one still open.
            early = await create(notifications, tenant, "")
            await asyncio.sleep(0.3)
        ids, _ = await notified(call, 2)
        assert ids == [str(late), *early]
    async with watch(notifications, tenant, resume_token=token) as call:
        assert (await notified(call, 2))[0] == ids


async def test_many_writers_and_a_watcher_that_keeps_falling_off(notifications: TierClient, tenant: UUID) -> None:
    async with watch(notifications, tenant) as call:
        token = (await following(call)).resume_token

    async def write() -> list[str]:
        return [each for _ in range(10) for each in await create(notifications, tenant, "", "")]

    writing = asyncio.gather(*(write() for _ in range(8)))
    seen: list[str] = []
    while len(seen) < 160:
        async with watch(notifications, tenant, resume_token=token) as call:
            ids, token = await notified(call, min(13, 160 - len(seen)))
            seen += ids
    created = [each for ids in await writing for each in ids]
    assert len(set(seen)) == 160
    assert set(seen) == set(created)


async def test_keep_alives_carry_newer_tokens(
    notifications: TierClient, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "KEEP_ALIVE_S", 0.2)
    user = str(uuid4())
    async with watch(notifications, tenant, user_id=user) as call:
        first = await following(call)
        await create(notifications, tenant, str(uuid4()))
        second = await following(call)
        assert not second.HasField("notification")
        assert second.resume_token != first.resume_token


async def test_it_ends_in_good_order_when_its_time_is_over(
    notifications: TierClient, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Room for a busy machine between the stream's end and its client's deadline.
    monkeypatch.setattr(watching, "ENDING_S", 2.0)
    async with watch(notifications, tenant, timeout=3.0) as call:
        began = time.monotonic()
        assert await ending(call) is None
        assert 0.5 < time.monotonic() - began < 3.0


@pytest.mark.parametrize("token", ["x", "A" * 43, "!" * 43, "\N{PENGUIN}"])
async def test_a_token_must_be_one_of_this_stream(notifications: TierClient, tenant: UUID, token: str) -> None:
    async with watch(notifications, tenant, resume_token=token) as call:
        answer = await ending(call)
    assert answer is not None
    assert (answer.code, answer.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_RESUME_TOKEN")


async def test_anothers_token_and_one_from_a_lost_future_are_refused(notifications: TierClient, tenant: UUID) -> None:
    user = str(uuid4())
    async with watch(notifications, tenant, user_id=user) as call:
        token = (await following(call)).resume_token
    future = token_of(Watcher(tenant, None), Place(2**62, uuid4()))
    for watcher, foreign in (("", token), (str(uuid4()), token), ("", future)):
        async with watch(notifications, tenant, user_id=watcher, resume_token=foreign) as call:
            answer = await ending(call)
        assert answer is not None
        assert answer.reason == "INVALID_RESUME_TOKEN"


async def test_nobody_watches_another(notifications: TierClient, tenant: UUID) -> None:
    stub = NotificationServiceStub(notifications.channel)
    request = pb.WatchNotificationsRequest(tenant_id=str(tenant))
    anonymous = await ending(stub.WatchNotifications(request, timeout=5))
    assert anonymous is not None
    assert (anonymous.code, anonymous.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING")
    metadata = notifications.authorization(WATCH, uuid4())
    stranger = await ending(stub.WatchNotifications(request, metadata=metadata, timeout=5))
    assert stranger is not None
    assert (stranger.code, stranger.reason) == (grpc.StatusCode.PERMISSION_DENIED, "TENANT_MISMATCH")
    request = pb.WatchNotificationsRequest(tenant_id=str(tenant), user_id="x")
    metadata = notifications.authorization(WATCH, tenant)
    bad = await ending(stub.WatchNotifications(request, metadata=metadata, timeout=5))
    assert bad is not None
    assert bad.fields == ["user_id"]


async def test_streams_wait_without_connections_and_shut_nothing_out(notifications: TierClient, tenant: UUID) -> None:
    async with contextlib.AsyncExitStack() as stack:
        calls = [await stack.enter_async_context(watch(notifications, tenant)) for _ in range(100)]
        for call in calls:
            await following(call)
        (created,) = await create(notifications, tenant, "")
        told = await asyncio.gather(*(notified(call, 1) for call in calls))
        assert {tuple(ids) for ids, _ in told} == {(created,)}


async def test_a_drained_server_ends_its_streams(databases: Databases, tokens: TokenFactory, tenant: UUID) -> None:
    urls = await databases.clone("notifications")
    async with contextlib.AsyncExitStack() as server:
        running = await server.enter_async_context(serving(config_of(urls, tokens)))
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{running.port}")
        async with channel, watch(TierClient("notifications", channel, tokens), tenant) as call:
            await following(call)
            closing = asyncio.create_task(server.aclose())
            assert await ending(call) is None
            await closing


@contextlib.asynccontextmanager
async def tier_of_its_own(cluster: PostgresCluster, tokens: TokenFactory) -> AsyncIterator[TierClient]:
    """A tier whose database may be broken."""
    urls = await provision_tier(cluster, "notifications", TierPasswords.generate())
    await migrate.migrate(urls.owner_url, "notifications", migrate.load("penguin_notifications.migrations"))
    async with (
        serving(config_of(urls, tokens)) as running,
        grpc.aio.insecure_channel(f"127.0.0.1:{running.port}") as channel,
    ):
        yield TierClient("notifications", channel, tokens)


async def test_it_survives_its_database(tokens: TokenFactory, tenant: UUID, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "LOOK_TIMEOUT_S", 1.0)
    with temporary_cluster() as cluster:
        async with tier_of_its_own(cluster, tokens) as tier:
            token = ""
            for fail, mend in ((cluster.kill, cluster.start), (cluster.freeze, cluster.thaw)):
                async with watch(tier, tenant, resume_token=token) as call:
                    token = (await following(call)).resume_token
                    await asyncio.to_thread(fail)
                    answer = await ending(call)
                    await asyncio.to_thread(mend)
                assert answer is not None
                assert (answer.code, answer.reason) == (grpc.StatusCode.UNAVAILABLE, "TIER_DB_DOWN")
                assert answer.retry_after_s == 1.0
                created = await create_when_back(tier, tenant)
                async with watch(tier, tenant, resume_token=token) as call:
                    ids, token = await notified(call, 1)
                assert ids == created


async def create_when_back(tier: TierClient, tenant: UUID) -> list[str]:
    for _ in range(100):
        try:
            return await create(tier, tenant, "")
        except Refused:
            await asyncio.sleep(0.1)
    raise AssertionError("the tier did not come back")
