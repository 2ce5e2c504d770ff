"""Quarantine has a beginning and two ends: a claim takes contents out, and only what was long enough in it is deleted."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from penguin_chassis import subjects
from penguin_chassis.barrier import Step
from penguin_chassis.pool import Database
from penguin_content.domain.composed import Composed
from penguin_content.domain.contents import CLAIMED, QUARANTINED, UNCLAIMED, compose
from penguin_content.store.contents import ContentStore, Sparing, Terms
from penguin_content.store.duties import quarantine_overdue, remove_overdue_lists
from penguin_content.store.reading import ReadingStore

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def step(tenant: UUID, at: datetime = NOW) -> Step:
    return Step(tenant, f"req:{uuid4()}", b"d", at)


async def put(db: Database, tenant: UUID, *, claim_by: datetime = NOW + HOUR, lists_people: bool = False) -> str:
    key = f"k/{uuid4()}"
    content = replace(compose(key, None, Composed("a", ""), ()), lists_people=lists_people)
    await ContentStore(db).put_batch(tenant, [(step(tenant), content)], {}, Terms(claim_by, 7, NOW), None)
    return key


async def state(db: Database, tenant: UUID, key: str) -> tuple[str, datetime | None]:
    async with db.tenant(tenant) as connection:
        row = await connection.fetchrow(
            "SELECT state, quarantined_at FROM content_objects WHERE tenant_id = $1 AND storage_key = $2", tenant, key
        )
    assert row is not None
    return row["state"], row["quarantined_at"]


async def test_claimed_contents_go_there_and_those_that_may_yet_be_claimed_do_not(own_db: Database) -> None:
    tenant, store = uuid4(), ContentStore(own_db)
    claimed, early = await put(own_db, tenant), await put(own_db, tenant)
    await store.claim(step(tenant), [claimed])
    done = await store.quarantine(step(tenant), [claimed, early, "k/nobody"])
    assert (done.quarantined, done.early) == (1, [early])
    assert await state(own_db, tenant, claimed) == (QUARANTINED, NOW)
    assert await state(own_db, tenant, early) == (UNCLAIMED, None)


async def test_a_list_of_people_goes_when_its_time_is_over_but_for_what_is_held(own_db: Database) -> None:
    tenant = uuid4()
    late, early, held, mail = [
        await put(own_db, tenant, claim_by=NOW + hours * HOUR, lists_people=listed)
        for hours, listed in ((1, True), (3, True), (1, True), (1, False))
    ]
    async with own_db.tenant(tenant) as connection:
        await connection.execute(subjects.sql.put_hold, tenant, uuid4(), "", held, "Case 7", "x", NOW, b"")
    await remove_overdue_lists(own_db, NOW)
    await quarantine_overdue(own_db, NOW + 2 * HOUR)
    await remove_overdue_lists(own_db, NOW + 2 * HOUR)
    async with own_db.tenant(tenant) as connection:
        left = await connection.fetch("SELECT storage_key FROM content_objects WHERE tenant_id = $1", tenant)
    assert {row["storage_key"] for row in left} == {early, held, mail}
    assert late


async def test_going_there_twice_does_not_begin_the_grace_anew(own_db: Database) -> None:
    tenant, store = uuid4(), ContentStore(own_db)
    key = await put(own_db, tenant)
    late = NOW + 2 * HOUR
    assert (await store.quarantine(step(tenant, late), [key])).quarantined == 1
    assert (await store.quarantine(step(tenant, late + HOUR), [key])).quarantined == 0
    assert await state(own_db, tenant, key) == (QUARANTINED, late)


async def test_a_claim_takes_them_out(own_db: Database) -> None:
    tenant, store = uuid4(), ContentStore(own_db)
    key = await put(own_db, tenant)
    await store.quarantine(step(tenant, NOW + 2 * HOUR), [key])
    await store.claim(step(tenant), [key])
    assert await state(own_db, tenant, key) == (CLAIMED, None)
    left = await store.delete(step(tenant), [key], Sparing(quarantined_before=NOW + 9 * HOUR))
    assert (left.deleted, left.spared) == (0, [key])


async def test_the_duty_and_time_alone_let_one_be_deleted(own_db: Database) -> None:
    tenant, store = uuid4(), ContentStore(own_db)
    key = await put(own_db, tenant, claim_by=NOW)
    since = NOW + HOUR
    await quarantine_overdue(own_db, since)
    assert await state(own_db, tenant, key) == (QUARANTINED, since)
    assert (await store.delete(step(tenant), [key], Sparing(quarantined_before=since))).spared == [key]
    just = since + timedelta(microseconds=1)
    assert (await store.delete(step(tenant), [key], Sparing(quarantined_before=just))).deleted == 1


async def test_one_that_an_older_server_put_there_counts_as_kept_and_begins_its_grace_when_it_is_put_there_again(
    own_db: Database,
) -> None:
    tenant, store = uuid4(), ContentStore(own_db)
    key = await put(own_db, tenant, claim_by=NOW)
    async with own_db.tenant(tenant) as connection:
        await connection.execute("UPDATE content_objects SET state = 'quarantined' WHERE tenant_id = $1", tenant)
        source = "SELECT source FROM storage_keys WHERE tenant_id = $1 AND storage_key = $2"
        assert await connection.fetchval(source, tenant, key) == "contents"
    far = Sparing(quarantined_before=NOW + 1000 * HOUR)
    assert (await store.delete(step(tenant), [key], far)).spared == [key]
    assert (await store.quarantine(step(tenant, NOW + HOUR), [key])).quarantined == 1
    assert await state(own_db, tenant, key) == (QUARANTINED, NOW + HOUR)


async def test_they_are_listed_first_come_first_up_to_a_moment(own_db: Database) -> None:
    tenant, store = uuid4(), ContentStore(own_db)
    keys = [await put(own_db, tenant, claim_by=NOW) for _ in range(3)]
    for n, key in enumerate(keys):
        await store.quarantine(step(tenant, NOW + n * HOUR), [key])
    reading = ReadingStore(own_db)
    listed = await reading.list_quarantined(tenant, after=None, limit=9, before=NOW + 2 * HOUR)
    assert [key for _, key in listed] == keys[:2]
    after = await reading.list_quarantined(tenant, after=listed[0], limit=9, before=None)
    assert [key for _, key in after] == keys[1:]
