"""Ordering keys in any interleaving: one job of a key in hand at a time, in the order of arrival, and none forgotten; whatever
waits for whatever beside, and is redriven."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from services.queue.tests.leases import Leases

from penguin_chassis.barrier import Step
from penguin_chassis.faults import FailedPrecondition, NotFound
from penguin_chassis.pool import Database, database
from penguin_chassis.settings import PoolSettings
from penguin_queue.domain.jobs import Failure, Job, LeaseRef, Members, NewBatch, NewJob, PurgeFilter, Snooze
from penguin_queue.domain.ties import Ties
from penguin_queue.store.control import ControlStore
from penguin_queue.store.jobs import LAST, JobStore
from penguin_queue.store.kinds import Kinds
from penguin_queue.store.leases import Asked
from penguin_testkit.databases import Databases

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
LEASE_S = 10
MAX_ATTEMPTS = 2
# What the first queue says.
LOST_LEASE_LIMIT = 5
KEYS = ("a", "b")
# What a worker, or a rate, can say of a lease; any may be stale.
WORDS = ("complete", "retry", "kill", "snooze", "release", "put_in_line", "extend")
OVER = frozenset({"completed", "dead", "cancelled"})

which = st.integers(min_value=0, max_value=30)
step = st.one_of(
    st.tuples(st.sampled_from(["enqueue", "batch", "later", "after", "after", "grow"]), which),
    st.tuples(st.just("lease"), st.integers(min_value=1, max_value=4)),
    st.tuples(st.just("wait"), st.sampled_from([1, LEASE_S, 4 * LEASE_S])),
    st.tuples(st.just("sweep"), st.just(0)),
    st.tuples(st.sampled_from(["die", "redrive", "cancel", "after", "grow"]), which),
    st.tuples(st.sampled_from([*WORDS, *WORDS, "cancel", "redrive", "purge"]), which),
)


@dataclass
class Line:
    """A tenant's keys as they should be, and the queue beside them. A job stands in its key's line until it is over; jobs
    without a key have lines of their own."""

    db: Database
    tenant: UUID = field(default_factory=uuid4)
    at: datetime = START
    key: dict[int, str] = field(default_factory=dict)
    lines: dict[str, list[int]] = field(default_factory=lambda: {key: [] for key in KEYS})
    # Whose lease stands; every lease ever given.
    hands: dict[int, int] = field(default_factory=dict)
    given: list[LeaseRef] = field(default_factory=list)
    done: list[int] = field(default_factory=list)
    # When each came; whom each waits for; and the batch that grows.
    came: dict[int, int] = field(default_factory=dict)
    waits_for: dict[int, frozenset[int]] = field(default_factory=dict)
    callback: int = 0
    members: set[int] = field(default_factory=set)
    open: bool = True

    def __post_init__(self) -> None:
        self.leases = Leases(self.db)
        self.jobs = JobStore(self.db, Kinds())
        self.control = ControlStore(self.db, Kinds())

    def _step(self) -> Step:
        return Step(self.tenant, f"req:{uuid4()}", b"d", self.at)

    def _came(self, key: str, ids: Iterable[int]) -> None:
        for job_id in ids:
            self.key[job_id] = key or f"alone {job_id}"
            self.came[job_id] = len(self.came)
            self.lines.setdefault(self.key[job_id], []).append(job_id)

    def _left(self, job_id: int) -> None:
        self.hands.pop(job_id, None)
        self.lines[self.key[job_id]].remove(job_id)

    def _back(self, job_id: int) -> None:
        """Out of hand, but not over: whoever was redriven meanwhile goes before it."""
        del self.hands[job_id]
        self.lines[self.key[job_id]].sort(key=self.came.__getitem__)

    def _awaits(self, job_id: int, standing: dict[int, Job]) -> bool:
        """Whether it waits for one that has not been done."""
        awaited = self.waits_for.get(job_id, ())
        return any(each not in standing or standing[each].state != "completed" for each in awaited)

    async def enqueue(self, number: int, run_at: datetime | None = None) -> None:
        """One of each key, in one call; the keys' order in it differs."""
        keys = KEYS if number % 2 else KEYS[::-1]
        items = [
            (
                self._step(),
                NewJob("k", b"{}", number % 3 + 1, number, run_at, MAX_ATTEMPTS, "", ties=Ties(ordering_key=key)),
            )
            for key in keys
        ]
        answers, _, _ = await self.jobs.enqueue(self.tenant, items, gate=None, at=self.at)
        for key, answer in zip(keys, answers, strict=True):
            assert isinstance(answer, int)
            self._came(key, [answer])

    async def later(self, number: int) -> None:
        """Such as are not due yet keep their places all the same."""
        await self.enqueue(number, self.at + timedelta(seconds=number))

    async def batch(self, number: int) -> None:
        key = KEYS[number % 2]
        batch = NewBatch("k", [b"{}"] * (number % 4 + 1), 2, 0, None, MAX_ATTEMPTS, (), ordering_key=key)
        self._came(key, (await self.jobs.enqueue_batch(self._step(), batch)).ids)

    async def after(self, number: int) -> None:
        """One that waits for another; each may have a key or none."""
        known = sorted(self.key)
        awaited = known[number % len(known)] if known else 0
        if number % 4 == 0 and self.callback in self.key:
            awaited = self.callback
        keys = ("", *KEYS)
        key = keys[number % 3]
        ties = Ties(ordering_key=key, waits_for=(awaited,) if awaited else ())
        job = NewJob("k", b"{}", number % 3 + 1, 0, None, MAX_ATTEMPTS, "", ties=ties)
        answers, _, _ = await self.jobs.enqueue(self.tenant, [(self._step(), job)], gate=None, at=self.at)
        if isinstance(answers[0], int):
            self._came(key, [answers[0]])
            self.waits_for[answers[0]] = frozenset(ties.waits_for)

    async def grow(self, number: int) -> None:
        """A batch with a callback, then more and more members of it: those that would wait for themselves are refused."""
        members = Members(None, self.callback, more=True)
        if not self.callback:
            members = Members(NewJob("k", b"{}", 1, 0, None, MAX_ATTEMPTS, ""), 0, more=True)
        key = KEYS[number % 2]
        batch = NewBatch(
            "k", [b"{}"] * (number % 2 + 1), 2, 0, None, MAX_ATTEMPTS, (), ordering_key=key, members=members
        )
        try:
            done = await self.jobs.enqueue_batch(self._step(), batch)
        except (FailedPrecondition, NotFound):
            return
        self._came(key, done.ids)
        self.members.update(done.ids)
        if not self.callback:
            self.callback = done.callback
            self._came("", [done.callback])

    async def lease(self, count: int) -> None:
        leased = await self.leases.lease_ready(Asked((), count, self.at + timedelta(seconds=LEASE_S), "w"))
        for job in leased:
            assert job.lease_token is not None
            assert job.id not in self.hands
            # The first of its line; and so one at a time, for it stands there until it is over.
            assert self.lines[self.key[job.id]][0] == job.id
            self.hands[job.id] = job.lease_token
            self.given.append(LeaseRef(job.id, job.lease_token))

    async def wait(self, seconds: int) -> None:
        self.at += timedelta(seconds=seconds)

    async def sweep(self, _: int = 0) -> None:
        """Leases run out; and whose turn it is comes free."""
        await self.leases.sweep(self.at)
        more = True
        while more:
            more = (await self.leases.sweep(self.at)).more
        standing = await self.standing()
        for job_id in list(self.hands):
            if job_id not in standing or standing[job_id].state != "leased":
                self._back(job_id)
        await self.forget_over(standing)
        for key, line in self.lines.items():
            # Whoever stands first waits for nothing but its time and those it is to wait for; everybody else for it.
            states = [standing[job_id].state for job_id in line]
            assert all(state == "held" for state in states[1:]), (key, states)
            assert not states or (states[0] == "held") == self._held(line[0], standing), (key, states)

    def _held(self, job_id: int, standing: dict[int, Job]) -> bool:
        if job_id == self.callback:
            return self.open or any(each in standing and standing[each].state not in OVER for each in self.members)
        return self._awaits(job_id, standing)

    async def forget_over(self, standing: dict[int, Job]) -> None:
        """What a sweep has ended (leases lost once too often, or of jobs to be cancelled) is not in line any more."""
        for job_id in [each for line in self.lines.values() for each in line]:
            if job_id not in standing or standing[job_id].state in OVER:
                self._left(job_id)

    async def standing(self) -> dict[int, Job]:
        found = await self.jobs.list_page(self.tenant, before=LAST, state="", kind="", limit=1000)
        return {job.id: job for job in found}

    async def speak(self, word: str, number: int) -> None:
        if not self.given:
            return
        ref = self.given[number % len(self.given)]
        await getattr(self, word)(ref)
        # A word of a lease that has run out counts, too, as long as nobody else has the job.
        state = (await self.jobs.get(self.tenant, ref.job_id)).state
        if word != "extend" and self.hands.get(ref.job_id) == ref.token:
            assert state != "leased"
            self._back(ref.job_id)
        if state in OVER and ref.job_id in self.lines[self.key[ref.job_id]]:
            self._left(ref.job_id)

    async def complete(self, ref: LeaseRef) -> None:
        lost = await self.leases.complete([ref.job_id], [ref.token], self.at)
        if not lost and self.hands.get(ref.job_id) == ref.token:
            self.done.append(ref.job_id)

    async def retry(self, ref: LeaseRef) -> None:
        await self.leases.fail([Failure(ref, "x", True, timedelta(seconds=5), 0.5)], self.at)

    async def kill(self, ref: LeaseRef) -> None:
        await self.leases.fail([Failure(ref, "x", False, None, 0.5)], self.at)

    async def snooze(self, ref: LeaseRef) -> None:
        await self.leases.snooze([Snooze(ref, timedelta(seconds=20), "away")], self.at)

    async def release(self, ref: LeaseRef) -> None:
        await self.leases.release([ref.job_id], [ref.token], self.at)

    async def put_in_line(self, ref: LeaseRef) -> None:
        await self.leases.put_in_line({ref: (timedelta(seconds=5), True)}, self.at)

    async def extend(self, ref: LeaseRef) -> None:
        """Whose lease has run out may have it again, but for jobs that another of their key has gone before meanwhile."""
        kept, _ = await self.leases.extend([ref], self.at + timedelta(seconds=LEASE_S))
        if kept:
            assert self.hands.get(ref.job_id, ref.token) == ref.token
            assert self.lines[self.key[ref.job_id]][0] == ref.job_id
            self.hands[ref.job_id] = ref.token

    async def cancel(self, number: int) -> None:
        if not self.key:
            return
        job_id = list(self.key)[number % len(self.key)]
        for ended in (await self.control.cancel(self._step(), [job_id])).ended:
            self._left(ended)

    async def die(self, number: int) -> None:
        """The next jobs fail for good."""
        await self.lease(number % 2 + 1)
        for job_id, token in list(self.hands.items()):
            await self.kill(LeaseRef(job_id, token))
            self._left(job_id)
        await self.sweep()

    async def redrive(self, number: int) -> None:
        """Dead letters have their places again, but for whoever is in hand."""
        standing = await self.standing()
        dead = sorted(job_id for job_id, job in standing.items() if job.state == "dead")
        ids = dead[: number % 3 + 1]
        if ids:
            redriven, _ = await self.control.redrive(self._step(), ids)
            assert redriven == ids
            for key in {self.key[job_id] for job_id in ids}:
                line = self.lines[key]
                first = [job_id for job_id in line[:1] if standing[job_id].state == "leased"]
                back = [job_id for job_id in ids if self.key[job_id] == key]
                self.lines[key] = first + sorted([*line[len(first) :], *back], key=self.came.__getitem__)

    async def purge(self, number: int) -> None:
        state = ("held", "ready", "dead")[number % 3]
        await self.control.purge(self._step(), PurgeFilter(state, "", None), number % 4 + 1)
        standing = await self.standing()
        for job_id in [each for each in self.key if each not in standing]:
            if job_id in self.lines[self.key[job_id]]:
                self._left(job_id)
            del self.key[job_id]
        self.given = [ref for ref in self.given if ref.job_id in standing]

    async def finish(self) -> None:
        """Whatever has been, all that stand in line are done, in their order, once the dead are redriven and the batch is
        closed."""
        self.at += timedelta(hours=1)
        await self.sweep()
        if self.callback in self.key and (await self.jobs.get(self.tenant, self.callback)).state == "held":
            await self._close()
        while any(job.state == "dead" for job in (await self.standing()).values()):
            await self.redrive(2)
        await self.sweep()
        waiting = {key: list(line) for key, line in self.lines.items()}
        self.done.clear()
        for _ in range(sum(map(len, waiting.values()))):
            await self.lease(len(waiting))
            for job_id, token in list(self.hands.items()):
                await self.complete(LeaseRef(job_id, token))
                self._left(job_id)
            await self.sweep()
        for key, line in waiting.items():
            assert [job_id for job_id in self.done if self.key[job_id] == key] == line
        assert all(job.state in OVER for job in (await self.standing()).values())

    async def _close(self) -> None:
        members = Members(None, self.callback, more=False)
        batch = NewBatch("k", [b"{}"], 2, 0, None, MAX_ATTEMPTS, (), members=members)
        last = (await self.jobs.enqueue_batch(self._step(), batch)).ids
        self._came("", last)
        self.members.update(last)
        self.open = False


async def keeps_its_lines(db: Database, steps: Iterable[tuple[str, int]]) -> None:
    """Do these steps, and then all that is left."""
    async with db.maintenance() as connection:
        for table in ("jobs", "wakes", "dead_jobs", "completed_jobs", "dependencies", "batches"):
            await connection.execute(f"DELETE FROM {table}")
    line = Line(db)
    await line.batch(3)
    await line.grow(0)
    for word, number in steps:
        if word in WORDS:
            await line.speak(word, number)
        else:
            await getattr(line, word)(number)
    await line.finish()


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(step, min_size=5, max_size=40))
async def test_any_interleaving_keeps_the_lines_in_order(own_db: Database, steps: list[tuple[str, int]]) -> None:
    await keeps_its_lines(own_db, steps)


# The first of a key dies, and the one behind it is in hand.
BEFORE = [("lease", 4), ("kill", 0), ("kill", 1), ("sweep", 0), ("lease", 4)]
ONE_GOES_BEFORE = {
    f"who is let go of by {word}": [*BEFORE, ("redrive", 2), (word, 2), (word, 3), ("sweep", 0), ("lease", 4)]
    for word in ("retry", "snooze", "release", "put_in_line")
} | {
    "who loses its lease": [*BEFORE, ("redrive", 2), ("wait", LEASE_S), ("sweep", 0), ("extend", 2), ("lease", 4)],
    "who lost its lease and is extended late": [
        *BEFORE, ("wait", LEASE_S), ("sweep", 0), ("redrive", 2), ("lease", 4), *(("extend", n) for n in range(6)),
    ],
}  # fmt: skip


@pytest.mark.parametrize("steps", ONE_GOES_BEFORE.values(), ids=ONE_GOES_BEFORE)
async def test_who_is_redriven_goes_before(own_db: Database, steps: list[tuple[str, int]]) -> None:
    """Histories that chance finds too seldom."""
    await keeps_its_lines(own_db, steps)


@pytest.mark.parametrize("trigger", ["jobs_take_position", "jobs_leave_wake"])
async def test_what_lets_jobs_pass_each_other_or_forgets_them_is_found_out(databases: Databases, trigger: str) -> None:
    """The teeth of the test above: without what holds jobs back, or without what tells of their ends."""
    urls, chance = await databases.clone("queue"), random.Random(5)
    owner = await asyncpg.connect(urls.owner_url)
    try:
        await owner.execute(f"ALTER TABLE jobs DISABLE TRIGGER {trigger}")
    finally:
        await owner.close()
    steps = [(word, chance.randint(1, 12)) for word in chance.choices(["lease", "sweep", *WORDS], k=30)]
    async with database(PoolSettings(urls.app_url, urls.maintenance_url, max_size=4)) as db:
        with pytest.raises((AssertionError, IndexError)):
            await keeps_its_lines(db, steps)
