"""Kinds: so many a tenant, and none for ever that nobody uses."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from services.queue.tests.leases import Leases

from penguin_chassis.barrier import Step
from penguin_chassis.faults import Fault, ResourceExhausted
from penguin_chassis.pool import Database
from penguin_queue.domain.jobs import Failure, LeaseRef, NewBatch, NewJob
from penguin_queue.domain.queues import Pause
from penguin_queue.domain.ties import Ties
from penguin_queue.store import kinds
from penguin_queue.store.jobs import JobStore
from penguin_queue.store.kinds import UNUSED, Kinds, forget_kinds
from penguin_queue.store.leases import Asked
from penguin_queue.store.queues import QueueStore

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def step(tenant: UUID) -> Step:
    return Step(tenant, f"req:{uuid4()}", b"d", AT)


async def enqueue(
    db: Database, tenant: UUID, *names: str, known: Kinds | None = None, ties: Sequence[Ties | None] | None = None
) -> list[int | Fault]:
    tied = zip(names, ties or [None] * len(names), strict=True)
    items = [(step(tenant), NewJob(name, b"{}", 2, 0, None, 1, "", ties=each)) for name, each in tied]
    answers, _, _ = await JobStore(db, known or Kinds()).enqueue(tenant, items, gate=None, at=AT)
    return answers


async def lease(db: Database, name: str) -> LeaseRef:
    (job,) = await Leases(db).lease_ready(Asked((name,), 1, AT + timedelta(minutes=1), "w"))
    return LeaseRef(job.id, job.lease_token or 0)


async def done(db: Database, tenant: UUID, *names: str) -> None:
    """Jobs of these kinds come and go, and so does what is kept of them."""
    for name in names:
        await enqueue(db, tenant, name)
        ref = await lease(db, name)
        assert await Leases(db).complete([ref.job_id], [ref.token], AT) == []
    await clean(db)


async def clean(db: Database) -> None:
    async with db.maintenance() as connection:
        await connection.execute("DELETE FROM completed_jobs")


async def there(db: Database) -> set[str]:
    async with db.maintenance() as connection:
        return {row["name"] for row in await connection.fetch("SELECT name FROM kinds")}


async def test_a_tenant_names_so_many_new_kinds_and_others_name_theirs(
    own_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinds, "TENANT_LIMIT", 3)
    greedy, other = uuid4(), uuid4()
    await enqueue(own_db, other, "shared")
    await enqueue(own_db, greedy, "a", "b", "c", "shared")
    # Each job has its own answer, tied ones too.
    first, refused, last = await enqueue(own_db, greedy, "a", "d", "shared")
    assert (type(first), type(last)) == (int, int)
    assert isinstance(refused, ResourceExhausted)
    assert refused.reason == "BACKLOG_FULL"
    right, refused, lacking = await enqueue(own_db, greedy, "a", "d", "b", ties=[None, None, Ties(after_items=(1,))])
    assert isinstance(right, int)
    assert isinstance(refused, ResourceExhausted)
    assert isinstance(lacking, Fault)
    batch = NewBatch("d", [b"{}"], 2, 0, None, 1, ())
    with pytest.raises(ResourceExhausted):
        await JobStore(own_db, Kinds()).enqueue_batch(step(greedy), batch)
    # What there is it may use, whoever named it; and others are not concerned.
    await enqueue(own_db, other, "d", "e")
    assert all(isinstance(each, int) for each in await enqueue(own_db, greedy, "a", "shared", "d", "e"))


async def test_those_who_run_the_platform_have_room_where_tenants_have_none(
    own_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant, admin = uuid4(), QueueStore(own_db, Kinds())
    await enqueue(own_db, tenant, "a")
    monkeypatch.setattr(kinds, "LIMIT", len(await there(own_db)))
    monkeypatch.setattr(kinds, "RESERVED", 1)
    (refused,) = await enqueue(own_db, tenant, "b")
    assert isinstance(refused, ResourceExhausted)
    await admin.move_kinds(step(UUID(int=0)), "default", ["b"])
    with pytest.raises(ResourceExhausted):
        await admin.move_kinds(step(UUID(int=0)), "default", ["c"])
    await enqueue(own_db, tenant, "b")


async def test_a_kind_goes_when_it_has_been_unused_for_long_and_its_tenant_may_name_another(
    own_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinds, "TENANT_LIMIT", 2)
    tenant = uuid4()
    await done(own_db, tenant, "gone", "asked")
    await forget_kinds(own_db, AT)
    await forget_kinds(own_db, AT + UNUSED)
    assert await there(own_db) >= {"gone", "asked"}
    # Asking for its jobs uses it, and so does a worker that waits for it; not one who knew it before.
    async with own_db.tenant(tenant) as connection:
        assert len(await Kinds().known(connection, ["asked"])) == 1
    await forget_kinds(own_db, AT + UNUSED + DAY)
    await forget_kinds(own_db, AT + UNUSED + 2 * DAY)
    assert "gone" not in await there(own_db)
    assert "asked" in await there(own_db)
    assert all(isinstance(each, int) for each in await enqueue(own_db, tenant, "another"))
    (refused,) = await enqueue(own_db, tenant, "gone")
    assert isinstance(refused, ResourceExhausted)


async def test_what_a_call_used_that_was_rolled_back_is_not_remembered(own_db: Database) -> None:
    tenant, here = uuid4(), Kinds()
    await done(own_db, tenant, "rare")
    await forget_kinds(own_db, AT)
    with contextlib.suppress(LookupError):
        async with own_db.tenant(tenant) as connection:
            assert "rare" in await here.numbers(connection, ["rare"], tenant)
            raise LookupError
    await forget_kinds(own_db, AT + UNUSED + DAY)
    assert "rare" not in await there(own_db)
    batch = NewBatch("rare", [b"{}"], 2, 0, None, 1, ())
    assert (await JobStore(own_db, here).enqueue_batch(step(tenant), batch)).new


async def test_a_number_that_was_looked_up_long_ago_is_looked_up_again(own_db: Database) -> None:
    tenant, forgetful = uuid4(), Kinds(known_s=0.0)
    await enqueue(own_db, tenant, "k", known=forgetful)
    ref = await lease(own_db, "k")
    await Leases(own_db).complete([ref.job_id], [ref.token], AT)
    await clean(own_db)
    await forget_kinds(own_db, AT)
    await forget_kinds(own_db, AT + UNUSED + DAY)
    assert "k" not in await there(own_db)
    (job_id,) = await enqueue(own_db, tenant, "k", known=forgetful)
    assert isinstance(job_id, int)
    assert (await JobStore(own_db, forgetful).get(tenant, job_id)).kind == "k"
    batch = NewBatch("k", [b"{}"], 2, 0, None, 1, ())
    (again,) = (await JobStore(own_db, forgetful).enqueue_batch(step(tenant), batch)).ids
    assert (await JobStore(own_db, Kinds()).get(tenant, again)).kind == "k"


async def test_what_anything_is_left_of_stays(own_db: Database) -> None:
    tenant, admin = uuid4(), QueueStore(own_db, Kinds())
    await done(own_db, tenant, "moved", "paused", "rests", "nothing")
    await enqueue(own_db, tenant, "dead")
    await Leases(own_db).fail([Failure(await lease(own_db, "dead"), "x", False, None, 0.5)], AT)
    await enqueue(own_db, tenant, "waits", "kept")
    async with own_db.maintenance() as connection:
        await connection.execute("INSERT INTO queues (name) VALUES ('own')")
    await admin.move_kinds(step(UUID(int=0)), "own", ["moved"])
    await admin.rest(step(UUID(int=0)), Pause(kind="paused"), paused=True)
    await admin.rest(step(UUID(int=0)), Pause(kind="rests", tenant_id=tenant), paused=True)
    ref = await lease(own_db, "kept")
    await Leases(own_db).complete([ref.job_id], [ref.token], AT)
    await forget_kinds(own_db, AT)
    await forget_kinds(own_db, AT + UNUSED + DAY)
    left = await there(own_db)
    assert left >= {"moved", "paused", "rests", "dead", "waits", "kept"}
    assert "nothing" not in left


async def test_what_one_call_has_looked_up_another_does_not_forget_for_it(own_db: Database) -> None:
    tenant, forgetful = uuid4(), Kinds(known_s=0.0)
    await enqueue(own_db, tenant, "a", "b")
    async with own_db.tenant(tenant) as connection:
        numbers = await forgetful.numbers(connection, ["a", "b"], tenant)
        await forgetful.numbers_of(connection, ["b"])
        assert set(numbers) == {"a", "b"}
