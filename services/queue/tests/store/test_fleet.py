"""What each process knows of the workers as a whole while others tell of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from penguin_chassis.pool import Database
from penguin_queue.domain.fleet import GRACE, SPARED
from penguin_queue.domain.lanes import Lanes
from penguin_queue.operations.announcing import Announcer
from penguin_queue.operations.hearing import Hearing
from penguin_queue.operations.news import News
from penguin_queue.operations.work import Work
from penguin_queue.store.fleet import FleetStore
from penguin_queue.store.jobs import JobStore
from penguin_queue.store.kinds import Kinds
from penguin_queue.store.leases import LeaseStore

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


async def test_a_process_that_meets_another_telling_knows_that_the_queue_was_away(own_db: Database) -> None:
    ours, begins = Hearing(FleetStore(own_db)), Hearing(FleetStore(own_db))
    assert (await ours.fleet(AT)).excused == (None, None)
    back = AT + 60 * SECOND
    ours.heard(3)
    async with own_db.maintenance() as other:
        await other.execute("SELECT FROM fleet FOR UPDATE")
        for each in (ours, begins):
            assert (await each.fleet(back)).excused == (AT, back + GRACE)
    later = back + 2 * SECOND
    assert (await ours.fleet(later)).heard == 3, "what was not told is told the next time, and once"
    assert (await begins.fleet(later)).heard == 3


async def test_a_process_that_cannot_tell_for_long_takes_nothing_for_an_absence_and_hears_a_silence(
    own_db: Database,
) -> None:
    hearing, lease = Hearing(FleetStore(own_db)), 30 * SECOND
    hearing.leased(lease)
    await hearing.fleet(AT)
    hearing.heard(50)
    async with own_db.maintenance() as frozen:
        await frozen.execute("SELECT FROM fleet FOR UPDATE")
        for n in range(1, 31):
            at = AT + n * SECOND
            fleet = await hearing.fleet(at)
            assert fleet.excused == (None, None)
            assert fleet.heard_at == AT + SECOND
        assert fleet.spares(1, at) == SPARED
        hearing.heard(1)
        assert (await hearing.fleet(at)).spares(1, at) == 0


async def test_who_extends_leases_says_how_long_they_are(own_db: Database) -> None:
    lanes, hearing, leases = Lanes(), Hearing(FleetStore(own_db)), LeaseStore(own_db, Kinds())
    leasing: Any = None
    work = Work(leases, leasing, JobStore(own_db, Kinds()), Announcer(News(None), lanes), hearing, own_db.now)
    await work.extend([], 5 * SECOND)
    assert (await hearing.fleet(AT)).lease == 5 * SECOND
