"""How many jobs of a limited queue are in flight, as a lease counts them, and what it tells of the room that is left."""

from __future__ import annotations

from uuid import UUID, uuid4

from services.queue.tests.leases import Leases
from services.queue.tests.store.test_store import AT, LEASE, asked, enqueue

from penguin_chassis.barrier import Step
from penguin_chassis.pool import Database
from penguin_queue.domain.queues import Terms
from penguin_queue.store.kinds import Kinds
from penguin_queue.store.leases import Outcome
from penguin_queue.store.queues import QueueStore


async def limited(db: Database, *kinds: str, most: int) -> tuple[Leases, dict[str, int]]:
    """Leases of kinds that are each in a queue of its own with this limit; and the queues' numbers."""
    queues, leases = QueueStore(db, Kinds()), Leases(db)
    for kind in kinds:
        await queues.put(Step(UUID(int=0), f"req:{uuid4()}", b"d", AT), Terms(kind, 2, 10, 1000, 1000, 5, most))
        await queues.move_kinds(Step(UUID(int=0), f"req:{uuid4()}", b"d", AT), kind, [kind])
    _, queue_of = await leases.bounds()
    leases.lanes.limits.read(queue_of)
    return leases, queue_of


async def lease(leases: Leases, *kinds: str) -> tuple[int, Outcome]:
    """How many of ten jobs are to be had, and what is left."""
    await leases.look()
    (found,), left = await leases.lease([asked(10)], leases.lanes.choose(kinds, 10, AT), AT)
    return len(found), left


async def test_a_lease_that_has_run_out_holds_no_place(own_db: Database) -> None:
    leases, _ = await limited(own_db, "k", most=2)
    await enqueue(own_db, uuid4(), 3)
    assert len(await leases.lease_ready(asked(5))) == 2
    assert await leases.lease_ready(asked(5, at=AT + LEASE / 2)) == []
    assert len(await leases.lease_ready(asked(5, at=AT + LEASE))) == 1


async def test_a_lease_tells_what_room_it_left_in_the_queues_of_its_turns(own_db: Database) -> None:
    leases, queues = await limited(own_db, "k", "other", most=4)
    await enqueue(own_db, uuid4(), 3)
    await enqueue(own_db, uuid4(), 9, kind="other")
    assert await lease(leases, "k") == (3, Outcome({queues["k"]: 1}, spent=False))
    assert await lease(leases, "other") == (4, Outcome({queues["other"]: 0}, spent=False))


async def test_who_meets_another_at_a_limited_queue_is_told_so_and_takes_nothing(own_db: Database) -> None:
    leases, queues = await limited(own_db, "k", most=4)
    await enqueue(own_db, uuid4(), 3)
    async with own_db.maintenance() as other:
        await other.fetch("SELECT id FROM queues WHERE name = 'k' FOR NO KEY UPDATE")
        assert await lease(leases, "k") == (0, Outcome({queues["k"]: None}, spent=False))
    assert (await lease(leases, "k"))[0] == 3
