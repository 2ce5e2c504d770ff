"""Rounds of seeing to jobs that have left: each is bounded, none forgets anybody, and no tenant waits for another's many."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from services.queue.tests.leases import Leases

from penguin_chassis.barrier import Step
from penguin_chassis.pool import Database
from penguin_queue.domain.jobs import Failure, LeaseRef, NewJob
from penguin_queue.domain.ties import Ties
from penguin_queue.store import wakes
from penguin_queue.store.control import ControlStore
from penguin_queue.store.jobs import JobStore
from penguin_queue.store.kinds import Kinds
from penguin_queue.store.leases import Asked
from penguin_queue.store.wakes import Turns, drain, drain_held

AT = datetime(2026, 3, 1, tzinfo=UTC)
PAGE = 10


class LostRound(Exception):
    """The process ends before its transaction does."""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds that a test can fill."""
    monkeypatch.setattr(wakes, "DEPENDENTS_MAX", PAGE)
    monkeypatch.setattr(wakes, "WAKES_MAX", PAGE)
    monkeypatch.setattr(wakes, "TENANTS_MAX", 4)


@dataclass
class World:
    """The stores of one database."""

    db: Database
    kinds: Kinds = field(default_factory=Kinds)
    turns: Turns = field(default_factory=Turns)

    def __post_init__(self) -> None:
        self.jobs, self.control = JobStore(self.db, self.kinds), ControlStore(self.db, self.kinds)
        self.leases = Leases(self.db)

    async def enqueue(self, tenant: UUID, *ties: Ties | None) -> list[int]:
        items = [(step(tenant), NewJob("k", b"{}", 2, 0, None, 3, "", ties=each)) for each in ties]
        answers, _, _ = await self.jobs.enqueue(tenant, items, gate=None, at=AT)
        return [answer for answer in answers if isinstance(answer, int)]

    async def lease(self) -> list[LeaseRef]:
        leased = await self.leases.lease_ready(Asked((), 1000, AT + timedelta(seconds=30), "w"))
        return [LeaseRef(job.id, job.lease_token or 0) for job in leased]

    async def complete_all(self) -> list[int]:
        for ref in (done := await self.lease()):
            assert await self.leases.complete([ref.job_id], [ref.token], AT) == []
        return [ref.job_id for ref in done]

    async def round(self) -> tuple[list[int], bool]:
        ready, more = await drain(self.db, self.kinds, AT, self.turns)
        return [job.id for job in ready], more

    async def rounds(self) -> list[list[int]]:
        """What each round frees, to the last."""
        found, more = [], True
        while more:
            ids, more = await self.round()
            found.append(ids)
            assert len(found) < 1000, "it never ends"
        return found

    async def left(self) -> int:
        """Rows that rounds have still to see to."""
        async with self.db.maintenance() as connection:
            count: int = await connection.fetchval("SELECT count(*) FROM wakes")
            return count


@pytest.fixture
def world(own_db: Database) -> World:
    return World(own_db)


def step(tenant: UUID) -> Step:
    return Step(tenant, f"req:{uuid4()}", b"d", AT)


async def test_many_who_wait_for_one_come_free_by_pages_and_another_tenants_one_with_the_first(world: World) -> None:
    big, small = uuid4(), uuid4()
    (root,) = await world.enqueue(big, None)
    many = await world.enqueue(big, *[Ties(waits_for=(root,))] * (5 * PAGE + 3))
    # Keys are seen to once, batches counted once: with the first page.
    first, second = await world.enqueue(small, None, Ties(after_items=(0,)))
    assert sorted(await world.complete_all()) == sorted([root, first])
    found = await world.rounds()
    assert all(len(ids) <= PAGE + 1 for ids in found)
    assert second in found[0]
    assert sorted(n for ids in found for n in ids) == sorted([*many, second])
    assert await world.left() == 0


async def test_a_page_that_is_lost_is_done_by_the_next_round(world: World) -> None:
    tenant = uuid4()
    (root,) = await world.enqueue(tenant, None)
    many = await world.enqueue(tenant, *[Ties(waits_for=(root,))] * (2 * PAGE))
    await world.complete_all()
    freed, more = await world.round()
    assert (len(freed), more) == (PAGE, True)

    async def lost() -> None:
        async with world.db.maintenance() as connection:
            taken, _ = await wakes._take(connection, Turns(), AT)
            assert len((await wakes._see_to(connection, taken, AT, {})).rows) == PAGE
            raise LostRound

    with pytest.raises(LostRound):
        await lost()
    # Another process, which knows nothing of the first page.
    world.turns = Turns()
    rest = [n for ids in await world.rounds() for n in ids]
    assert sorted(freed + rest) == many


async def test_those_who_wait_on_are_passed_by_and_come_free_when_it_is_redriven_and_done(world: World) -> None:
    tenant = uuid4()
    (root,) = await world.enqueue(tenant, None)
    strict = await world.enqueue(tenant, *[Ties(waits_for=(root,))] * (3 * PAGE))
    anyway = await world.enqueue(tenant, *[Ties(waits_for=(root,), run_if_failed=True)] * 3)
    (ref,) = await world.lease()
    await world.leases.fail([Failure(ref, "x", False, None, 0.5)], AT)
    # A page of those who wait on comes first; and it is redriven before the last page.
    assert await world.round() == ([], True)
    assert await world.control.redrive(step(tenant), [root]) is not None
    assert await world.rounds() == [[]]
    assert await world.left() == 0
    (ref,) = await world.lease()
    await world.leases.fail([Failure(ref, "x", False, None, 0.5)], AT)
    assert sorted(n for ids in await world.rounds() for n in ids) == anyway
    await world.control.redrive(step(tenant), [root])
    assert sorted(await world.complete_all()) == sorted([root, *anyway])
    assert sorted(n for ids in await world.rounds() for n in ids) == strict


async def test_a_page_of_those_who_are_gone_is_no_last_page(world: World) -> None:
    tenant = uuid4()
    (root,) = await world.enqueue(tenant, None)
    many = await world.enqueue(tenant, *[Ties(waits_for=(root,))] * (2 * PAGE))
    await world.control.cancel(step(tenant), many[: PAGE + 1])
    await world.complete_all()
    assert sorted(n for ids in await world.rounds() for n in ids) == many[PAGE + 1 :]


async def test_a_tenant_with_many_ends_is_one_among_those_with_few(world: World) -> None:
    big, few = UUID(int=1), UUID(int=2)
    await world.enqueue(big, *[Ties(ordering_key=f"k{n}") for n in range(3 * PAGE)])
    await world.complete_all()
    await world.enqueue(few, None, Ties(after_items=(0,)))
    await world.complete_all()
    freed, more = await world.round()
    assert (len(freed), more) == (1, True)
    assert await world.rounds()
    assert await world.left() == 0


async def test_tenants_that_one_round_does_not_come_to_have_the_next(world: World) -> None:
    tenants = [UUID(int=n) for n in range(1, 8)]
    waiting = [(await world.enqueue(tenant, None, Ties(after_items=(0,))))[1] for tenant in tenants]
    await world.complete_all()
    # The first ones have new ends with each round, and keep nobody from his turn.
    assert [await world.round() for _ in range(1)] == [(waiting[:4], True)]
    await world.complete_all()
    again = await world.enqueue(tenants[0], None, Ties(after_items=(0,)))
    await world.complete_all()
    freed, _ = await world.round()
    assert freed == waiting[4:]
    assert [n for ids in await world.rounds() for n in ids] == again[1:]


@contextlib.asynccontextmanager
async def in_hand(db: Database, tenant: UUID, key: str) -> AsyncIterator[None]:
    """The key as a process has it in hand that is enqueueing under it, or was when it froze."""
    async with db.maintenance() as connection:
        await connection.execute("SELECT pg_advisory_xact_lock(turn_lock($1, $2))", tenant, key)
        yield


async def test_a_key_in_hand_stops_nobody_and_is_seen_to_once_it_is_let_go(world: World) -> None:
    busy, other = uuid4(), uuid4()
    _, second = await world.enqueue(busy, Ties(ordering_key="k"), Ties(ordering_key="k"))
    await world.enqueue(other, None)
    _, theirs = await world.enqueue(other, Ties(ordering_key="k"), Ties(ordering_key="k"))
    _, elsewhere = await world.enqueue(busy, Ties(ordering_key="l"), Ties(ordering_key="l"))
    await world.complete_all()
    async with asyncio.timeout(5), in_hand(world.db, busy, "k"):
        freed, more = await world.round()
        assert (sorted(freed), more) == (sorted([theirs, elsewhere]), False)
        assert await world.round() == ([], False)
        assert list(world.turns.held) == [(busy, "k")]
        waiting = asyncio.create_task(drain_held(world.db, world.kinds, AT, world.turns))
        await asyncio.sleep(0.05)
        assert not waiting.done()
    assert [job.id for job in await waiting] == [second]
    assert (world.turns.held, await world.left()) == ({}, 0)


async def test_a_key_that_is_not_let_go_is_waited_for_longer_after_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wakes, "FIRST_WAIT_S", 0.05)
    tenant = uuid4()
    _, first = await world.enqueue(tenant, Ties(ordering_key="k"), Ties(ordering_key="k"))
    _, second = await world.enqueue(tenant, Ties(ordering_key="l"), Ties(ordering_key="l"))
    await world.complete_all()
    async with in_hand(world.db, tenant, "k"):
        async with in_hand(world.db, tenant, "l"):
            assert await world.round() == ([], False)
        assert await drain_held(world.db, world.kinds, AT, world.turns) == []
        assert world.turns.held == {(tenant, "l"): 0.05, (tenant, "k"): 0.1}
        assert [job.id for job in await drain_held(world.db, world.kinds, AT, world.turns)] == [second]
    # Who lets go before he is waited for again is found by any round.
    assert await world.round() == ([first], False)
    assert not world.turns.held


async def test_those_before_the_first_with_a_key_in_hand_come_free_and_the_others_later(world: World) -> None:
    tenant = uuid4()
    (root,) = await world.enqueue(tenant, None)
    ties = [Ties(waits_for=(root,), ordering_key=key) for key in ("", "", "k", "", "l", "")]
    many = await world.enqueue(tenant, *ties)
    await world.complete_all()
    async with in_hand(world.db, tenant, "k"):
        assert await world.round() == (many[:2], False)
        # Nothing more can be done, and nobody is kept busy with it.
        assert await world.round() == ([], False)
    assert [sorted(ids) for ids in await world.rounds()] == [many[2:]]
    assert await world.left() == 0


async def test_wakes_that_another_process_has_in_hand_keep_nobody_busy(world: World) -> None:
    tenants = [UUID(int=n) for n in range(1, 6)]
    waiting = [(await world.enqueue(tenant, None, Ties(after_items=(0,))))[1] for tenant in tenants]
    await world.complete_all()
    async with world.db.maintenance() as connection:
        await connection.execute("SELECT FROM wakes WHERE tenant_id <= $1 FOR UPDATE", tenants[3])
        # Those that one round did not come to have the next; and then there is nothing to be done, nor anybody kept busy.
        assert (await world.rounds())[:2] == [[], waiting[4:]]
        assert await world.rounds() == [[], []]
    assert (await world.rounds())[0] == waiting[:4]
