"""What a failure means, which payloads are right, and who is told of new jobs."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from penguin_chassis.faults import InvalidArgument
from penguin_queue.domain.jobs import Backoff, Failure, LeaseRef, Ready, check_payload, retry_at
from penguin_queue.domain.lanes import Lanes
from penguin_queue.operations.announcing import Announcer
from penguin_queue.operations.news import News

AT = datetime(2026, 1, 1, tzinfo=UTC)
BACKOFF = Backoff(timedelta(seconds=1), timedelta(hours=1))


def failure(*, retryable: bool = True, delay: timedelta | None = None, chance: float = 0.5) -> Failure:
    return Failure(LeaseRef(1, 2), "smtp.temporary", retryable, delay, chance)


def ready(kind: str, run_at: datetime = AT) -> Ready:
    return Ready(uuid4(), 1, kind, 2, run_at)


@pytest.mark.parametrize(("attempts", "ceiling_s"), [(1, 1), (2, 2), (5, 16), (12, 2048), (13, 3600), (100, 3600)])
def test_backoff_doubles_up_to_an_hour_with_full_jitter(attempts: int, ceiling_s: float) -> None:
    assert BACKOFF.after(attempts, 0.0) == timedelta(0)
    assert BACKOFF.after(attempts, 0.5) == timedelta(seconds=ceiling_s / 2)


def test_a_backoff_of_a_day_is_capped_at_its_cap_after_any_number_of_failures() -> None:
    week = timedelta(days=7)
    assert Backoff(timedelta(days=1), week).after(100, 1.0) == week


def test_a_failure_retries_while_attempts_are_left() -> None:
    assert retry_at(failure(), 9, 10, AT, BACKOFF) == AT + timedelta(seconds=128)
    assert retry_at(failure(), 10, 10, AT, BACKOFF) is None
    assert retry_at(failure(retryable=False), 1, 10, AT, BACKOFF) is None
    assert retry_at(failure(delay=timedelta(seconds=7)), 1, 10, AT, BACKOFF) == AT + timedelta(seconds=7)


@pytest.mark.parametrize("payload", [b"{}", b'{"email_id": "1", "n": [1, 2]}'])
def test_objects_are_payloads(payload: bytes) -> None:
    check_payload(payload)


@pytest.mark.parametrize(
    "payload", [b"", b"null", b"[1]", b'"x"', b"{", b'{"n": NaN}', b"\xff\xfe", b'{"a":' * 30_000], ids=range(8)
)
def test_anything_else_is_none(payload: bytes) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check_payload(payload)
    assert refused.value.field == "payload"


async def test_only_as_many_waiters_are_told_as_there_is_work_for() -> None:
    announcer = Announcer(News(None), Lanes())
    with (
        announcer.waiting(("a",), 2) as first,
        announcer.waiting(("b",), 1) as other,
        announcer.waiting((), 5) as any_kind,
        announcer.waiting(("a",), 1) as last,
    ):
        announcer.tell([ready("a") for _ in range(3)], AT)
        assert [w.rung.is_set() for w in (first, other, any_kind, last)] == [True, False, True, False]
        announcer.tell([ready("b", AT + timedelta(seconds=5))], AT)
        assert not other.rung.is_set()


async def test_an_earlier_job_brings_the_sweep_forward() -> None:
    announcer = Announcer(News(None), Lanes())
    turn = asyncio.create_task(announcer.until_turn(AT + timedelta(seconds=50), AT, 60, 0.01))
    await asyncio.sleep(0)
    announcer.tell([ready("a", AT + timedelta(seconds=55))], AT)
    await asyncio.sleep(0.01)
    assert not turn.done()
    announcer.tell([ready("a", AT + timedelta(seconds=1))], AT)
    async with asyncio.timeout(5):
        await turn
