"""Jobs that fall due: however many of one tenant's do at one moment, another's wait for a round of the sweep."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from penguin_chassis.barrier import Step
from penguin_chassis.pool import Database
from penguin_queue.domain.jobs import NewBatch
from penguin_queue.store import due, leases
from penguin_queue.store.jobs import JobStore
from penguin_queue.store.kinds import Kinds
from penguin_queue.store.leases import LeaseStore, Swept

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
DUE = AT + timedelta(seconds=5)
LIMIT = 20


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds that a test can fill."""
    monkeypatch.setattr(leases, "SWEEP_LIMIT", LIMIT)
    monkeypatch.setattr(due, "TENANTS_MAX", 4)
    monkeypatch.setattr(due, "SEEN_MAX", 4 * LIMIT)


async def schedule(db: Database, tenant: UUID, count: int, run_at: datetime) -> list[int]:
    step = Step(tenant, f"req:{uuid4()}", b"d", AT)
    batch = NewBatch("k", [b"{}"] * count, 2, 0, run_at, 3, ())
    return list((await JobStore(db, Kinds()).enqueue_batch(step, batch)).ids)


async def rounds(store: LeaseStore, at: datetime) -> list[Swept]:
    """To the last."""
    found = [await store.sweep(at)]
    while found[-1].more:
        found.append(await store.sweep(at))
        assert len(found) < 100, "it never ends"
    return found


async def test_one_of_another_tenant_falls_due_beside_very_many(own_db: Database) -> None:
    many = await schedule(own_db, uuid4(), 10 * LIMIT, DUE)
    (one,) = await schedule(own_db, uuid4(), 1, DUE + timedelta(seconds=0.1))
    # Whoever has nothing due takes nothing from those who have.
    for _ in range(2):
        await schedule(own_db, uuid4(), 1, DUE + timedelta(hours=1))
    swept = await rounds(LeaseStore(own_db, Kinds()), DUE + timedelta(seconds=1))
    ready = [[job.id for job in each.ready] for each in swept]
    assert one in ready[0]
    assert sorted(n for ids in ready for n in ids) == sorted([*many, one])
    assert all(len(ids) <= 2 * LIMIT for ids in ready)
    # Those of one tenant go by their own time.
    assert len(ready[0]) == LIMIT + LIMIT // 2 + 1


async def test_tenants_that_one_round_does_not_come_to_have_the_next(own_db: Database) -> None:
    await schedule(own_db, UUID(int=1), 10 * LIMIT, DUE)
    ones = [(await schedule(own_db, UUID(int=n), 1, DUE + timedelta(seconds=1)))[0] for n in range(2, 8)]
    store = LeaseStore(own_db, Kinds())
    found = [{job.id for job in (await store.sweep(DUE + timedelta(seconds=1))).ready} & set(ones) for _ in range(2)]
    assert found == [set(ones[:3]), set(ones[3:])]


async def lost(db: Database, tenant: UUID, count: int, until: datetime) -> list[int]:
    """Jobs whose worker is gone: leases that run out then."""
    step = Step(tenant, f"req:{uuid4()}", b"d", AT)
    ids = (await JobStore(db, Kinds()).enqueue_batch(step, NewBatch("k", [b"{}"] * count, 2, 0, None, 3, ()))).ids
    async with db.maintenance() as connection:
        await connection.execute(
            "UPDATE jobs SET state = 2, lease_token = 1, leased_until = $2 WHERE id = ANY ($1)", ids, until
        )
    return list(ids)


async def test_one_lease_of_another_tenant_is_lost_beside_very_many(own_db: Database) -> None:
    big = uuid4()
    many = [n for k in range(10) for n in await lost(own_db, big, LIMIT, DUE + timedelta(milliseconds=k))]
    (near,) = await lost(own_db, uuid4(), 1, DUE + timedelta(milliseconds=2.5))
    (far,) = await lost(own_db, uuid4(), 1, DUE + timedelta(milliseconds=6.5))
    swept = await rounds(LeaseStore(own_db, Kinds()), DUE + timedelta(seconds=1))
    ready = [[job.id for job in each.ready] for each in swept]
    assert near in ready[0]
    # So many are looked at in one round, and those behind them in the next.
    assert far in ready[1]
    assert sorted(n for ids in ready for n in ids) == sorted([*many, near, far])
    assert all(len(ids) <= 2 * LIMIT for ids in ready)
