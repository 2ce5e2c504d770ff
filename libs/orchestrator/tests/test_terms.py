"""What a producer can say of its jobs arrives, single jobs with keys travel together, and each gets its own answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest

from penguin_chassis.pool import Database
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.jobs import Batch, Callback, Duplicate, Jobs, NewJob, Terms, Unique
from penguin_testkit.faults import Faults

KIND = "test.terms"
SOON = datetime.now(UTC) + timedelta(hours=1)
ROWS, COLUMNS = "EnqueueJobs", "EnqueueBatch"


@pytest.fixture
async def jobs(tiers: dict[str, Tier]) -> AsyncIterator[Jobs]:
    opened = Jobs(tiers["queue"])
    yield opened
    await opened.close()


async def rows(db: Database, tenant: UUID, what: str, table: str = "jobs", order: str = "id") -> list[tuple[Any, ...]]:
    async with db.tenant(tenant) as connection:
        return [tuple(row) for row in await connection.fetch(f"SELECT {what} FROM {table} ORDER BY {order}")]


async def test_all_that_is_said_of_a_single_job_arrives(jobs: Jobs, queue_db: Database) -> None:
    tenant = uuid4()
    first = await jobs.enqueue(tenant, Terms(KIND), {})
    said = Terms(
        KIND, "high", -7, SOON, 4, rate_key="r", ordering_key="o", after=(first,), run_if_failed=True,
        unique=Unique("u", ("leased", "dead"), timedelta(minutes=5)),
    )  # fmt: skip
    number = await jobs.enqueue(tenant, said, {"n": 1})
    columns = "priority, rank, run_at, max_attempts, rate_key, ordering_key, waits, run_if_failed, payload"
    assert (await rows(queue_db, tenant, columns))[1] == (1, -7, SOON, 4, "r", "o", 1, True, b'{"n":1}')
    ((key, owner, holds, span),) = await rows(
        queue_db, tenant, "key, job_id, holds, until - now()", "unique_keys", "key"
    )
    assert (key, owner, holds) == ("u", number, 2 | 8)
    assert timedelta(minutes=4) < span <= timedelta(minutes=5)


async def test_singles_with_keys_of_their_own_travel_in_one_call(
    jobs: Jobs, queue_db: Database, faults: dict[str, Faults]
) -> None:
    tenant = uuid4()
    said = [Terms(KIND, ordering_key=f"o{n}", rate_key=f"r{n}", unique=Unique(f"u{n // 2}")) for n in range(40)]
    answers = await asyncio.gather(*(jobs.enqueue(tenant, each, {"n": n}) for n, each in enumerate(said)))
    assert [isinstance(each, Duplicate) for each in answers] == [False, True] * 20
    assert answers[::2] == answers[1::2]
    stored = await rows(queue_db, tenant, "id, ordering_key, rate_key, payload")
    assert sorted(stored) == sorted(
        (answers[n], f"o{n}", f"r{n}", b'{"n":%d}' % n) for n in range(0, 40, 2)
    )  # fmt: skip
    assert len(faults["queue"].requests[ROWS]) == 1
    assert not faults["queue"].requests[COLUMNS]


async def test_what_has_no_keys_or_many_of_the_same_goes_as_columns(
    jobs: Jobs, queue_db: Database, faults: dict[str, Faults]
) -> None:
    tenant = uuid4()
    said = [*[Terms(KIND)] * 5, *[Terms(KIND, rate_key="r")] * 30, Terms(KIND, rate_key="alone"), *[Terms(KIND)] * 4]
    numbers = await asyncio.gather(*(jobs.enqueue(tenant, each, {"n": n}) for n, each in enumerate(said)))
    requests = faults["queue"].requests
    assert [(len(each.payloads), each.rate_key) for each in requests[COLUMNS]] == [(5, ""), (30, "r"), (4, "")]
    assert [[job.rate_key for job in each.jobs] for each in requests[ROWS]] == [["alone"]]
    stored = dict(await rows(queue_db, tenant, "id, payload"))
    assert [stored[each] for each in numbers] == [b'{"n":%d}' % n for n in range(40)]


async def test_replacing_gives_the_waiting_job_its_new_payload(jobs: Jobs, queue_db: Database) -> None:
    tenant, said = uuid4(), Terms(KIND, unique=Unique("u", replace=True))
    first, again = await jobs.enqueue(tenant, said, {"n": 1}), await jobs.enqueue(tenant, said, {"n": 2})
    assert (again, isinstance(first, Duplicate), isinstance(again, Duplicate)) == (first, False, True)
    assert await rows(queue_db, tenant, "id, payload") == [(first, b'{"n":2}')]


async def test_one_with_a_wrong_key_is_refused_and_those_beside_it_are_stored(jobs: Jobs, queue_db: Database) -> None:
    tenant = uuid4()
    right = [jobs.enqueue(tenant, Terms(KIND, ordering_key=f"o{n}"), {}) for n in range(6)]
    wrong = [
        jobs.enqueue(tenant, Terms(KIND, rate_key="r" * 201), {}), jobs.enqueue(tenant, Terms(KIND, after=(2**62,)), {})
    ]  # fmt: skip
    answers = await asyncio.gather(*right[:3], *wrong, *right[3:], return_exceptions=True)
    long, missing = answers[3:5]
    assert isinstance(long, TierError)
    assert (long.code, long.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert long.field.endswith("rate_key")
    assert isinstance(missing, TierError)
    assert (missing.code, missing.reason, missing.field) == (
        grpc.StatusCode.FAILED_PRECONDITION, "REFERENCE_MISSING", "waits_for[0]",
    )  # fmt: skip
    assert len(await rows(queue_db, tenant, "id")) == 6


async def test_different_jobs_of_one_call_wait_for_each_other_and_a_repeat_is_the_same_call(
    jobs: Jobs, queue_db: Database
) -> None:
    tenant, request_id = uuid4(), uuid4()
    diamond = [
        NewJob(Terms(KIND), {}), NewJob(Terms(KIND, "low"), {}, (0,)), NewJob(Terms("test.other"), {}, (0,)),
        NewJob(Terms(KIND, run_if_failed=True), {}, (1, 2)), NewJob(Terms(KIND, after=(2**62,)), {}),
    ]  # fmt: skip
    *numbers, error = await jobs.enqueue_each(tenant, diamond, request_id=request_id)
    assert isinstance(error, TierError)
    assert error.reason == "REFERENCE_MISSING"
    assert await rows(queue_db, tenant, "id, waits") == list(zip(numbers, (None, 1, 1, 2), strict=True))
    assert (await jobs.enqueue_each(tenant, diamond, request_id=request_id))[:4] == numbers
    assert len(await rows(queue_db, tenant, "id")) == 4


async def test_a_batch_of_two_calls_has_one_callback(jobs: Jobs, queue_db: Database) -> None:
    tenant, request_id = uuid4(), uuid4()
    over = Callback(Terms("test.over", "high", max_attempts=2), {"over": True})
    members = Terms(KIND, ordering_key="o", rate_key="r")
    first = await jobs.enqueue_batch(tenant, members, [{}] * 3, over, more=True, request_id=request_id)
    assert await jobs.enqueue_batch(tenant, members, [{}] * 3, over, more=True, request_id=request_id) == first
    last = await jobs.enqueue_batch(tenant, Terms(KIND), [{}] * 2, first.callback_id)
    assert last == Batch(last.jobs, first.callback_id)
    assert await rows(queue_db, tenant, "callback_id, total, open", "batches", "1") == [(first.callback_id, 5, False)]
    stored = {row[0]: row[1:] for row in await rows(queue_db, tenant, "id, batch_id, ordering_key, rate_key, payload")}
    assert stored.pop(first.callback_id) == (None, None, None, b'{"over":true}')
    assert stored == dict.fromkeys(first.jobs, (first.callback_id, "o", "r", b"{}")) | dict.fromkeys(
        last.jobs, (first.callback_id, None, None, b"{}")
    )
    with pytest.raises(TierError) as refused:
        await jobs.enqueue_batch(tenant, Terms(KIND), [{}], first.callback_id)
    assert refused.value.reason == "STATE_CONFLICT"


async def test_terms_that_cannot_hold_are_refused_before_anything_is_sent(jobs: Jobs) -> None:
    for wrong in (lambda: Terms(KIND, "urgent"), lambda: Unique("u", ("held",))):
        with pytest.raises(ValueError, match="one of"):
            wrong()
    one = Terms(KIND, unique=Unique("u"))
    with pytest.raises(ValueError, match="one by one"):
        await jobs.enqueue_many(uuid4(), one, [{}, {}])
    with pytest.raises(ValueError, match="neither a time nor keys"):
        await jobs.enqueue_batch(uuid4(), Terms(KIND), [{}], Callback(one, {}))


async def test_payloads_that_no_message_takes_are_refused_with_the_reason(jobs: Jobs) -> None:
    with pytest.raises(ValueError, match="a call at most 3145728"):
        await jobs.enqueue_many(uuid4(), Terms("k"), [{"a": "x" * 60_000}] * 60)
