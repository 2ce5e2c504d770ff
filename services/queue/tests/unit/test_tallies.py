"""Counts that are shared: by whom, for how long, and for how many tenants."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from datetime import datetime
from uuid import UUID, uuid4

import pytest

from penguin_chassis import calls
from penguin_chassis.clock import now
from penguin_queue.operations import tallies
from penguin_queue.operations.tallies import Shared


class Counted:
    """Counts its counts, each of which takes a while."""

    def __init__(self, takes_s: float) -> None:
        self.takes_s, self.counts = takes_s, 0

    async def __call__(self, tenant_id: UUID, at: datetime) -> int:
        self.counts += 1
        number = self.counts
        await asyncio.sleep(self.takes_s)
        return number


async def test_all_who_ask_at_once_share_a_count() -> None:
    counted = Counted(0.05)
    shared, tenant = Shared(counted, 30.0, now), uuid4()
    found = await asyncio.gather(*(shared.latest(tenant) for _ in range(50)))
    assert {number for number, _ in found} == {1}
    assert (await shared.latest(tenant))[0] == 1
    assert (await shared.latest(uuid4()))[0] == 2


async def test_who_asks_while_it_is_counted_gets_a_later_count_that_others_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tallies, "SHARE", 0.0)
    counted = Counted(0.05)
    shared, tenant = Shared(counted, 30.0, now), uuid4()
    first = asyncio.create_task(shared.latest(tenant))
    await asyncio.sleep(0.01)
    later = await asyncio.gather(*(shared.latest(tenant) for _ in range(20)))
    assert ((await first)[0], {number for number, _ in later}) == (1, {2})


async def test_what_is_cheap_is_counted_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tallies, "CHEAP_S", 10.0)  # whatever else the machine does meanwhile
    shared, tenant = Shared(Counted(0.0), 30.0, now), uuid4()
    assert [(await shared.latest(tenant))[0] for _ in range(3)] == [1, 2, 3]


async def test_a_count_that_nobody_can_wait_for_is_there_for_the_next_who_asks() -> None:
    counted = Counted(0.2)
    shared, tenant = Shared(counted, 30.0, now), uuid4()

    async def ask(wait_s: float) -> int:
        async with asyncio.timeout(wait_s):
            return (await shared.latest(tenant))[0]

    gone = [await asyncio.gather(ask(0.05), return_exceptions=True) for _ in range(3)]
    assert [type(error) for (error,) in gone] == [TimeoutError] * 3
    assert (await ask(10), counted.counts) == (1, 1)


@contextlib.contextmanager
def call(wait_s: float) -> Iterator[None]:
    """A call of which so much time is left."""
    entered = calls.enter(calls.Call("m", calls.Caller("c", uuid4(), frozenset()), time.monotonic() + wait_s))
    try:
        yield
    finally:
        calls.leave(entered)


async def test_who_cannot_wait_for_a_count_has_the_last_one_and_the_next_who_asks_what_was_counted_since(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tallies, "SHARE", 0.0)  # asked for more seldom than a count is good for
    counted = Counted(0.3)
    shared, tenant = Shared(counted, 30.0, now), uuid4()
    with pytest.raises(TimeoutError), call(0.1):
        async with asyncio.timeout(0.1):
            await shared.latest(tenant)
    found = []
    for _ in range(3):
        await asyncio.sleep(0.35)
        with call(0.1):
            async with asyncio.timeout(0.1):
                found.append((await shared.latest(tenant))[0])
    assert found == [1, 2, 3]
    # Whoever has the time waits for the next.
    with call(30):
        assert (await shared.latest(tenant))[0] == 4


async def test_who_waits_for_a_count_that_takes_longer_than_the_last_one_has_that_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tallies, "SHARE", 0.0)
    counted = Counted(0.0)
    shared, tenant = Shared(counted, 30.0, now), uuid4()
    assert (await shared.latest(tenant))[0] == 1
    counted.takes_s = 10.0
    with call(0.4):
        async with asyncio.timeout(0.4):
            assert (await shared.latest(tenant))[0] == 1
    assert counted.counts == 2


async def test_no_count_is_good_for_longer_than_is_said() -> None:
    shared, tenant = Shared(Counted(0.02), 0.0, now), uuid4()
    assert [(await shared.latest(tenant))[0] for _ in range(2)] == [1, 2]


async def test_a_count_that_fails_is_made_anew_and_few_tenants_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tallies, "TENANTS_MAX", 2)
    failing = [True]

    async def count(tenant_id: UUID, at: datetime) -> UUID:
        if failing and failing.pop():
            raise TimeoutError
        return tenant_id

    shared: Shared[UUID] = Shared(count, 30.0, now)
    with pytest.raises(TimeoutError):
        await shared.latest(uuid4())
    tenants = [uuid4() for _ in range(5)]
    assert [(await shared.latest(tenant))[0] for tenant in tenants] == tenants
    assert list(shared._places) == tenants[-2:]
