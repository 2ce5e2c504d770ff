"""Effects in a handler's own store, once for each job: whoever dies, comes late, or does not know that its lease is lost."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest
from libs.worker.tests.conftest import Configure
from libs.worker.tests.test_real_queue import Side, queue, side
from libs.worker.tests.waiting import until

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_testkit.databases import Databases
from penguin_worker import effects as module
from penguin_worker.effects import AsyncpgEffects, EffectStore, effect_of, once, sql
from penguin_worker.jobs import Away, Job, NotDone, Release, Retry, Snooze
from penguin_worker.kinds import Kind, One, keeping
from penguin_worker.leasing import Worker
from penguin_worker.middleware import around

# The real queue of another module's tests.
__all__ = ["queue", "side"]
AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
BOOKINGS = "CREATE TABLE bookings (job_id bigint NOT NULL, fence bigint NOT NULL)"


@dataclass
class Books:
    """A handler's own database."""

    pool: asyncpg.Pool[asyncpg.Record]
    effects: AsyncpgEffects

    async def book(self, job: Job) -> str:
        await self.effects.connection.execute("INSERT INTO bookings VALUES ($1, $2)", job.id, job.lease_token)
        return f"bookings/{job.lease_token}"

    async def booked(self) -> list[tuple[int, int]]:
        """Jobs and by whose lease, whatever is booked."""
        return [tuple(row) for row in await self.pool.fetch("SELECT job_id, fence FROM bookings ORDER BY 1, 2")]


@pytest.fixture
async def books(databases: Databases) -> AsyncIterator[Books]:
    urls = await databases.clone("queue")
    async with asyncpg.create_pool(urls.owner_url, min_size=0, max_size=12) as pool:
        await pool.execute(sql.table)
        await pool.execute(BOOKINGS)
        yield Books(pool, AsyncpgEffects(pool))


def attempt(token: int, job_id: int = 7, lease_s: float = 60.0) -> Job:
    """One attempt at a job, under a lease of its own."""
    return Job(job_id, UUID(int=1), "invoice.book", {}, token, time.monotonic() + lease_s, created_at=AT)


async def run(store: EffectStore, one: One, job: Job) -> None:
    await around(keeping(one), [once(store)])(job)


class Slow:
    """A handler that books, and then waits to be let go on."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()

    async def handle(self, job: Job) -> str:
        result = await self._books.book(job)
        self.begun.set()
        await self.go_on.wait()
        return result


async def test_an_attempt_after_one_that_died_before_its_word_finds_the_effect_and_its_result(books: Books) -> None:
    dead, later = attempt(1), attempt(2)
    await run(books.effects, books.book, dead)
    await run(books.effects, books.book, later)
    assert await books.booked() == [(7, 1)]
    assert (dead.result, later.result) == ("bookings/1", "bookings/1")


async def test_what_a_failed_attempt_did_is_undone_and_the_next_one_does_it(books: Books) -> None:
    async def fails(job: Job) -> None:
        await books.book(job)
        raise Retry("books.closed")

    with pytest.raises(Retry, match="closed"):
        await run(books.effects, fails, attempt(1))
    assert await books.booked() == []
    await run(books.effects, books.book, attempt(2))
    assert await books.booked() == [(7, 2)]


async def test_a_zombie_that_ends_after_its_successor_is_undone(books: Books) -> None:
    slow = Slow(books)
    zombie = asyncio.create_task(run(books.effects, slow.handle, attempt(1)))
    await asyncio.wait_for(slow.begun.wait(), 10)
    # Nothing of the zombie's keeps the other waiting.
    await asyncio.wait_for(run(books.effects, books.book, attempt(2)), 10)
    slow.go_on.set()
    with pytest.raises(Snooze, match="overtaken"):
        await zombie
    assert await books.booked() == [(7, 2)]


async def test_a_zombie_that_ends_before_its_successor_is_undone_too(books: Books) -> None:
    first, second = Slow(books), Slow(books)
    zombie = asyncio.create_task(run(books.effects, first.handle, attempt(1)))
    await asyncio.wait_for(first.begun.wait(), 10)
    successor = asyncio.create_task(run(books.effects, second.handle, attempt(2)))
    await asyncio.wait_for(second.begun.wait(), 10)
    first.go_on.set()
    with pytest.raises(Snooze, match="overtaken"):
        await zombie
    second.go_on.set()
    await successor
    assert await books.booked() == [(7, 2)]


@pytest.mark.parametrize("how", ["told", "run out"])
async def test_under_a_lost_lease_nothing_is_kept(books: Books, how: str) -> None:
    slow, job = Slow(books), attempt(1)
    running = asyncio.create_task(run(books.effects, slow.handle, job))
    await asyncio.wait_for(slow.begun.wait(), 10)
    if how == "told":
        job.lost = True
    else:
        job.lease_until = time.monotonic()
    slow.go_on.set()
    with pytest.raises(Release, match="lease_lost"):
        await running
    assert await books.booked() == []


async def test_who_has_no_lease_any_more_does_not_begin(books: Books) -> None:
    with pytest.raises(Release, match="lease_lost"):
        await run(books.effects, books.book, attempt(1, lease_s=-1))
    assert await books.pool.fetchval("SELECT count(*) FROM job_effects") == 0


async def test_a_handler_that_is_cancelled_leaves_nothing(books: Books) -> None:
    slow = Slow(books)
    running = asyncio.create_task(run(books.effects, slow.handle, attempt(1)))
    await asyncio.wait_for(slow.begun.wait(), 10)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await books.booked() == []


async def test_a_job_of_another_time_under_the_same_number_is_another_one(books: Books) -> None:
    await run(books.effects, books.book, attempt(1))
    await run(books.effects, books.book, replace(attempt(2), created_at=AT + timedelta(days=1)))
    assert await books.booked() == [(7, 1), (7, 2)]


async def test_other_kinds_are_let_through(books: Books) -> None:
    called: list[int] = []

    async def other(job: Job) -> None:
        called.append(job.lease_token)

    one = around(keeping(other), [once(books.effects, {"invoice.cancel"})])
    await one(attempt(1))
    await one(attempt(2))
    assert called == [1, 2]
    with pytest.raises(RuntimeError):
        _ = books.effects.connection


async def test_a_database_that_is_away_costs_no_attempt(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor one whose row is held by somebody who is frozen in his commit: for both the job waits."""
    await books.effects.claim(effect_of(attempt(1)))
    monkeypatch.setattr(module, "CLAIM_S", 0.2)
    async with books.pool.acquire() as frozen, frozen.transaction():
        await frozen.execute("UPDATE job_effects SET applied_at = now()")
        with pytest.raises(Away, match=r"effects\.unreachable"):
            await run(books.effects, books.book, attempt(2))
    async with asyncpg.create_pool("postgresql://nobody@127.0.0.1:1/none", min_size=0) as nowhere:
        with pytest.raises(Away, match=r"effects\.unreachable"):
            await AsyncpgEffects(nowhere).claim(effect_of(attempt(1)))


async def test_a_database_that_is_away_when_the_handler_is_to_begin_costs_no_attempt() -> None:
    async with asyncpg.create_pool("postgresql://nobody@127.0.0.1:1/none", min_size=0) as nowhere:
        with pytest.raises(Away, match=r"effects\.unreachable"):
            async with AsyncpgEffects(nowhere).transaction():
                raise AssertionError


class BooksError(Exception):
    """What a handler makes of its database's errors."""


async def lose(books: Books) -> None:
    """End the sessions that have a transaction open, as a database that goes does."""
    await books.pool.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND state = $1",
        "idle in transaction",
    )


@pytest.mark.parametrize("then", ["writes on", "ends", "says so its own way"])
async def test_a_database_that_goes_while_a_handler_is_at_work_costs_no_attempt(books: Books, then: str) -> None:
    async def handle(job: Job) -> str:
        result = await books.book(job)
        if job.lease_token == 1:
            await lose(books)
            if then == "writes on":
                await books.book(job)
            if then == "says so its own way":
                raise BooksError
        return result

    with pytest.raises(Away, match=r"effects\.lost"):
        await run(books.effects, handle, attempt(1))
    # But it is not put off for ever.
    with pytest.raises(Retry, match=r"effects\.lost"):
        await run(books.effects, handle, replace(attempt(1), snoozes=module.LOST_MAX))
    await run(books.effects, handle, attempt(2))
    assert await books.booked() == [(7, 2)]


async def test_what_a_handler_says_itself_is_said_though_its_database_has_gone(books: Books) -> None:
    async def refuses(job: Job) -> None:
        await books.book(job)
        await lose(books)
        raise Retry("books.closed")

    with pytest.raises(Retry, match="closed"):
        await run(books.effects, refuses, attempt(1))
    slow = Slow(books)
    running = asyncio.create_task(run(books.effects, slow.handle, attempt(2)))
    await asyncio.wait_for(slow.begun.wait(), 10)
    await lose(books)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await books.booked() == []


async def test_a_defect_of_a_handler_stays_one(books: Books) -> None:
    async def twice(_: Job) -> None:
        await books.effects.connection.execute("SELECT 1", "a parameter that it does not have")

    with pytest.raises(asyncpg.InterfaceError):
        await run(books.effects, twice, attempt(1))

    async def times_out(_: Job) -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        await run(books.effects, times_out, attempt(1))


async def test_a_note_that_is_kept_waiting_costs_no_attempt(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(books)
    running = asyncio.create_task(run(books.effects, slow.handle, attempt(1)))
    await asyncio.wait_for(slow.begun.wait(), 10)
    monkeypatch.setattr(module, "CLAIM_S", 0.2)
    async with books.pool.acquire() as frozen, frozen.transaction():
        await frozen.execute("UPDATE job_effects SET applied_at = now()")
        slow.go_on.set()
        with pytest.raises(Away, match=r"effects\.unreachable"):
            await running
    assert await books.booked() == []


async def test_notes_are_forgotten_by_age_a_bounded_number_at_a_time(books: Books) -> None:
    for job_id in range(5):
        await run(books.effects, books.book, attempt(1, job_id))
    await books.pool.execute("UPDATE job_effects SET claimed_at = claimed_at - interval '91 days' WHERE job_id < 3")
    assert [await books.effects.forget(timedelta(days=90), 2) for _ in range(3)] == [2, 1, 0]
    assert await books.pool.fetchval("SELECT count(*) FROM job_effects") == 2


JOBS, ATTEMPTS = 20, 12


async def crowd(books: Books, chance: random.Random) -> list[tuple[int, int]]:
    """Attempts at the same jobs all at once: some fail, some die, some lose their lease and are not told, some come late. What
    is booked when a last one has been at each."""

    async def handle(job: Job) -> str:
        await asyncio.sleep(chance.random() / 50)
        result = await books.book(job)
        await asyncio.sleep(chance.random() / 50)
        if chance.random() < 0.3:
            raise Retry("by chance")
        if chance.random() < 0.2:
            # Its session ends in the middle, as a killed worker's does.
            await books.effects.connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        return result

    async def one_attempt(job_id: int, token: int) -> None:
        await asyncio.sleep(chance.random() / 10)
        running = asyncio.create_task(run(books.effects, handle, attempt(token, job_id)))
        if chance.random() < 0.2:
            await asyncio.wait([running], timeout=chance.random() / 20)
            running.cancel()
        await asyncio.wait([running])

    tokens = iter(chance.sample(range(1, 10**6), JOBS * ATTEMPTS))
    async with asyncio.timeout(60):
        await asyncio.gather(*(one_attempt(job_id, next(tokens)) for job_id in range(JOBS) for _ in range(ATTEMPTS)))
        for job_id in range(JOBS):
            await run(books.effects, books.book, attempt(10**6, job_id))
    return await books.booked()


async def agrees(books: Books, booked: list[tuple[int, int]]) -> bool:
    """Whether each job's effect is there once, and by whom its note says."""
    noted = await books.pool.fetch("SELECT job_id, fence FROM job_effects WHERE applied_at IS NOT NULL ORDER BY 1")
    return [job_id for job_id, _ in booked] == list(range(JOBS)) and booked == [tuple(row) for row in noted]


async def test_whoever_has_a_job_at_once_its_effect_is_applied_once(books: Books) -> None:
    booked = await crowd(books, random.Random(11))
    assert await agrees(books, booked)
    # And not by the last alone.
    assert len([token for _, token in booked if token != 10**6]) > JOBS / 4


FENCED, OPEN = "e.fence = $2", "e.applied_at IS NULL"
MUTANTS = {
    "any attempt may note it": {"note": (FENCED, "$2::bigint IS NOT NULL")},
    "what is applied may be claimed": {"claim": (OPEN, "true"), "note": (OPEN, "true")},
}


@pytest.mark.parametrize("mutant", MUTANTS)
async def test_the_test_above_has_teeth(books: Books, monkeypatch: pytest.MonkeyPatch, mutant: str) -> None:
    for query, (guard, nothing) in MUTANTS[mutant].items():
        words = getattr(sql, query)
        assert words.count(guard) == 1
        monkeypatch.setattr(sql, query, words.replace(guard, nothing))
    assert not await agrees(books, await crowd(books, random.Random(11)))


async def test_one_lease_that_is_run_twice_acts_once(books: Books) -> None:
    first, second = Slow(books), Slow(books)
    running = [asyncio.create_task(run(books.effects, each.handle, attempt(1))) for each in (first, second)]
    for each in (first, second):
        await asyncio.wait_for(each.begun.wait(), 10)
    first.go_on.set()
    second.go_on.set()
    ended = await asyncio.wait_for(asyncio.gather(*running, return_exceptions=True), 10)
    assert sorted(map(type, ended), key=str) == [type(None), Snooze]
    assert await books.booked() == [(7, 1)]


async def test_a_lease_that_ran_out_under_a_handler_at_the_real_queue(
    side: Side, books: Books, configure: Configure
) -> None:
    (job_id,) = await side.put(1)
    request = pb.LeaseJobsRequest(kinds=[side.kind], max_jobs=1, worker_id="zombie")
    request.lease_duration.FromSeconds(1)
    request.wait.FromSeconds(10)
    (leased,) = (await side.queue.call(side.queue.stub(QueueServiceStub).LeaseJobs, request)).jobs
    slow = Slow(books)
    # It believes in its lease for ever, as one does that is frozen.
    zombie = Job(
        leased.job.id, side.tenant, side.kind, {}, leased.lease_token, time.monotonic() + 3600,
        created_at=leased.job.created_at.ToDatetime(UTC),
    )  # fmt: skip
    running = asyncio.create_task(run(books.effects, slow.handle, zombie))
    await asyncio.wait_for(slow.begun.wait(), 10)
    worker, stopped = Worker(side.queue, configure(), [once(books.effects)]), asyncio.Event()
    working = asyncio.create_task(worker.run({side.kind: Kind(books.book)}, stopped))
    await until(side.completed)
    slow.go_on.set()
    with pytest.raises(NotDone, match="overtaken"):
        await running
    stopped.set()
    await asyncio.wait_for(working, 20)
    ((booked_id, token),) = await books.booked()
    (job,) = await side.jobs()
    assert (booked_id, job.lost_leases, job.result) == (job_id, 1, f"bookings/{token}")
    assert token != leased.lease_token
