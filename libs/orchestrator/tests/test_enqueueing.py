"""Single jobs that go by a stream once there are many at once; whatever becomes of the stream, each is stored once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin_chassis.pool import Database
from penguin_orchestrator import enqueueing
from penguin_orchestrator import jobs as module
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.enqueueing import _Stream
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.jobs import Answer, Callback, Jobs, NewJob, Terms

TERMS = Terms("test.streamed")


@pytest.fixture
async def jobs(tiers: dict[str, Tier]) -> AsyncIterator[Jobs]:
    opened = Jobs(tiers["queue"])
    yield opened
    await opened.close()


async def one(jobs: Jobs, tenant: UUID, n: float) -> int:
    """Enqueue one, some time soon."""
    await asyncio.sleep(n % 1 / 200)
    return await jobs.enqueue(tenant, TERMS, {"n": n})


async def in_rounds(jobs: Jobs, tenant: UUID, rounds: int) -> list[int]:
    """Enqueue some at once, several times over."""
    numbers: list[int] = []

    for n in range(rounds):
        numbers += await asyncio.gather(*(one(jobs, tenant, n + i / 8) for i in range(8)))
    return numbers


async def count(db: Database, tenant: UUID) -> int:
    async with db.tenant(tenant) as connection:
        found: int = await connection.fetchval("SELECT count(*) FROM jobs")
    return found


async def test_many_at_once_are_given_a_stream_and_one_alone_is_not(
    jobs: Jobs, queue_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = 0
    send = _Stream.send

    async def counted(self: _Stream, request: pb.EnqueueBatchRequest) -> Any:
        nonlocal sent
        sent += 1
        return await send(self, request)

    monkeypatch.setattr(_Stream, "send", counted)
    alone, many = uuid4(), uuid4()
    for _ in range(3):
        await jobs.enqueue(alone, TERMS, {})
    assert sent == 0
    numbers = await in_rounds(jobs, many, 20)
    assert sent > 10
    assert len(set(numbers)) == 160 == await count(queue_db, many)
    assert await count(queue_db, alone) == 3


async def test_a_stream_that_breaks_loses_and_doubles_nothing(
    jobs: Jobs, tiers: dict[str, Tier], queue_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each answer is as likely to be lost with its stream as to come."""
    tenant, broken = uuid4(), 0
    read = _Stream._read

    async def breaking(self: _Stream, call: Any) -> None:
        nonlocal broken
        reading = asyncio.create_task(read(self, call))
        await asyncio.wait([reading], timeout=0.05)
        broken += 1
        reading.cancel()
        await asyncio.wait([reading])

    monkeypatch.setattr(_Stream, "_read", breaking)
    numbers = await in_rounds(jobs, tenant, 60)
    assert broken > 1
    assert len(set(numbers)) == 480 == await count(queue_db, tenant)


async def test_an_idle_stream_closes_and_an_old_one_takes_nothing_more(
    jobs: Jobs, tiers: dict[str, Tier], queue_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enqueueing, "IDLE_S", 0.05)
    tenant = uuid4()
    await in_rounds(jobs, tenant, 5)
    (task,) = jobs._streams._tasks
    async with asyncio.timeout(10):
        await asyncio.wait([task])
    assert not jobs._streams._streams
    monkeypatch.setattr(enqueueing, "AGE_S", 0.0)
    assert len(set(await in_rounds(jobs, tenant, 5))) == 40
    assert await count(queue_db, tenant) == 80


async def test_a_refusal_is_told_as_a_call_tells_it(jobs: Jobs) -> None:
    tenant = uuid4()
    await in_rounds(jobs, tenant, 5)
    (stream,) = jobs._streams._streams.values()
    wrong = pb.EnqueueBatchRequest(
        tenant_id=str(tenant), request_id=str(uuid4()), kind="test.streamed", payloads=[b"[]"]
    )
    assert await stream.send(wrong) is None
    with pytest.raises(TierError) as refused:
        await jobs._streams.send(tenant, wrong, jobs._call)
    assert refused.value.reason == "INVALID_FIELD"
    assert len(await in_rounds(jobs, tenant, 2)) == 16


async def test_one_that_is_wrong_is_refused_and_those_beside_it_are_stored(jobs: Jobs, queue_db: Database) -> None:
    tenant = uuid4()
    wrong = [jobs.enqueue(tenant, TERMS, {"x": "y" * 70_000}), jobs.enqueue(tenant, Terms("No Kind"), {})]
    right = [jobs.enqueue(tenant, TERMS, {"n": n}) for n in range(10)]
    answers = await asyncio.gather(*right[:5], *wrong, *right[5:], return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, BaseException)]
    assert [isinstance(each, TierError) and each.reason for each in refused] == ["INVALID_FIELD"] * 2
    assert refused == [answers[5], answers[6]]
    assert await count(queue_db, tenant) == 10


async def test_the_same_request_is_stored_once_beside_whatever_it_comes(jobs: Jobs, queue_db: Database) -> None:
    tenant, known, other = uuid4(), uuid4(), uuid4()
    first = await jobs.enqueue(tenant, TERMS, {"n": 1}, request_id=known)
    # By itself, twice in one call, and among others on the same terms, of which some are wrong.
    assert await jobs.enqueue(tenant, TERMS, {"n": 1}, request_id=known) == first
    again = [jobs.enqueue(tenant, TERMS, {"n": 1}, request_id=known) for _ in range(2)]
    beside = [jobs.enqueue(tenant, TERMS, {"n": n}) for n in range(20)]
    wrong = jobs.enqueue(tenant, Terms("No Kind"), {}, request_id=uuid4())
    new = [jobs.enqueue(tenant, TERMS, {"n": 2}, request_id=other) for _ in range(2)]
    answers = await asyncio.gather(*beside[:10], *again, wrong, *new, *beside[10:], return_exceptions=True)
    assert isinstance(answers[12], TierError)
    assert answers[10:12] == [first, first]
    assert answers[13] == answers[14] != first
    assert len({each for each in answers if isinstance(each, int)}) == 22
    assert await count(queue_db, tenant) == 22
    # On keys, too.
    assert (
        len({await jobs.enqueue(tenant, Terms("k", rate_key="r"), {}, request_id=known) for known in [uuid4()] * 2})
        == 1
    )


async def test_a_repeat_may_come_in_another_trace(
    jobs: Jobs, queue_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of a handler does, whose every attempt has its own."""
    tenant, single, many, batch, each = uuid4(), uuid4(), uuid4(), uuid4(), uuid4()
    said: list[object] = []
    for n in range(2):
        monkeypatch.setattr(module, "traceparent", lambda n=n: f"00-{n + 1:032x}-{n + 1:016x}-01")
        over = Callback(Terms("test.over"), {})
        said.append(
            [
                await jobs.enqueue(tenant, TERMS, {}, request_id=single),
                await jobs.enqueue_many(tenant, TERMS, [{}] * 3, request_id=many),
                await jobs.enqueue_batch(tenant, TERMS, [{}] * 3, over, request_id=batch),
                await jobs.enqueue_each(tenant, [NewJob(TERMS, {})] * 2, request_id=each),
            ]
        )
    assert said[0] == said[1]
    assert await count(queue_db, tenant) == 1 + 3 + 4 + 2


async def test_another_job_under_a_request_id_in_use_is_refused(jobs: Jobs, queue_db: Database) -> None:
    tenant, known = uuid4(), uuid4()
    await jobs.enqueue(tenant, TERMS, {"n": 1}, request_id=known)
    with pytest.raises(TierError) as refused:
        await jobs.enqueue(tenant, TERMS, {"n": 2}, request_id=known)
    assert refused.value.reason == "REQUEST_ID_REUSED"
    assert await count(queue_db, tenant) == 1


async def test_an_answer_that_is_lost_is_had_by_asking_again(
    jobs: Jobs, queue_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant, known, send = uuid4(), uuid4(), jobs._send_rows
    numbers: list[Answer] = []

    async def deaf(to: UUID, rows: Sequence[pb.NewJob]) -> list[Answer]:
        numbers.extend(await send(to, rows))
        raise TierError("queue", grpc.StatusCode.DEADLINE_EXCEEDED, "", "gone")

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "_send_rows", deaf)
        with pytest.raises(TierError):
            await jobs.enqueue(tenant, TERMS, {"n": 1}, request_id=known)
    assert [await jobs.enqueue(tenant, TERMS, {"n": 1}, request_id=known)] == numbers
    assert await count(queue_db, tenant) == 1


async def test_large_ones_at_once_go_in_as_many_messages_as_they_need(jobs: Jobs, queue_db: Database) -> None:
    tenant = uuid4()
    await asyncio.gather(*(jobs.enqueue(tenant, TERMS, {"x": "y" * 50_000}) for _ in range(120)))
    assert await count(queue_db, tenant) == 120


async def test_payloads_of_all_tenants_count_towards_one_bound(
    jobs: Jobs, queue_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs._singles, "_limit_bytes", 100_000)
    tenants = [uuid4(), uuid4()]
    calls = [jobs.enqueue(tenants[n % 2], TERMS, {"x": "y" * 30_000}) for n in range(5)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [getattr(answer, "bound", "") for answer in answers] == ["", "", "", *["bytes of all tenants"] * 2]
    assert [await count(queue_db, tenant) for tenant in tenants] == [2, 1]
    await jobs.enqueue(tenants[0], TERMS, {"x": "y" * 30_000})
