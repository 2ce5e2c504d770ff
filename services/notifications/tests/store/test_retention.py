"""What is removed for good, and what is kept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from penguin_chassis import subjects
from penguin_chassis.barrier import Step
from penguin_chassis.pool import Database
from penguin_notifications.domain.admin_events import PLATFORM, EventFilter, NewAdminEvent
from penguin_notifications.domain.notifications import NewNotification
from penguin_notifications.store import retention
from penguin_notifications.store.admin_events import AdminEventStore
from penguin_notifications.store.notifications import NotificationStore

NOW = datetime.now(UTC)


def step(tenant: UUID, at: datetime) -> Step:
    return Step(tenant, f"req:{uuid4()}", b"", at)


async def create(db: Database, tenant: UUID, expires_at: datetime | None) -> UUID:
    new = NewNotification(uuid4(), None, "a.b", "title", "", "in_app", "", expires_at)
    await NotificationStore(db).create_batch(tenant, [(step(tenant, NOW), new)], gate=None, at=NOW)
    return new.id


async def left(db: Database, tenant: UUID) -> set[UUID]:
    async with db.tenant(tenant) as connection:
        rows = await connection.fetch("SELECT id FROM notifications WHERE tenant_id = $1", tenant)
    return {row["id"] for row in rows}


async def test_expired_and_long_deleted_ones_go(db: Database, tenant: UUID, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "LIMIT", 2)
    for _ in range(5):
        await create(db, tenant, NOW - timedelta(seconds=1))
    lasting, endless = await create(db, tenant, NOW + timedelta(hours=1)), await create(db, tenant, None)
    recent, ancient = await create(db, tenant, None), await create(db, tenant, None)
    store = NotificationStore(db)
    await store.delete(step(tenant, NOW - timedelta(days=29)), recent)
    await store.delete(step(tenant, NOW - timedelta(days=31)), ancient)
    await retention.remove_notifications(db, NOW)
    assert await left(db, tenant) == {lasting, endless, recent}


async def test_nothing_goes_while_a_person_is_held(db: Database, tenant: UUID) -> None:
    expired, deleted = await create(db, tenant, NOW - timedelta(seconds=1)), await create(db, tenant, None)
    await NotificationStore(db).delete(step(tenant, NOW - timedelta(days=31)), deleted)
    hold = (tenant, uuid4(), "a" * 64, "", "Case 7", "test", NOW, b"")
    async with db.tenant(tenant) as connection:
        await connection.execute(subjects.sql.put_hold, *hold)
    await retention.remove_notifications(db, NOW)
    assert await left(db, tenant) == {expired, deleted}
    async with db.tenant(tenant) as connection:
        await connection.execute(subjects.sql.release_hold, tenant, hold[1])
    await retention.remove_notifications(db, NOW)
    assert await left(db, tenant) == set()


async def raised(db: Database, tenant: UUID, severity: str, days: int, *, resolved: bool) -> UUID:
    at = NOW - timedelta(days=days)
    new = NewAdminEvent(uuid4(), tenant, "a.b", severity, "text", {"n": 1}, None, "")
    store = AdminEventStore(db)
    await store.raise_event(step(PLATFORM, at), new)
    if resolved:
        await store.resolve(step(PLATFORM, at), new.id, "somebody", "")
    return new.id


async def test_admin_events_go_by_their_severity(db: Database, tenant: UUID) -> None:
    kept = [
        await raised(db, tenant, "info", 89, resolved=True),
        await raised(db, tenant, "critical", 364, resolved=True),
        await raised(db, tenant, "info", 364, resolved=False),
    ]
    for severity, days, resolved in (("info", 91, True), ("critical", 366, True), ("critical", 366, False)):
        await raised(db, tenant, severity, days, resolved=resolved)
    await retention.remove_admin_events(db, NOW)
    last = (NOW + timedelta(days=1), PLATFORM)
    found = await AdminEventStore(db).list_newest(EventFilter(False, "", tenant), last, 100)
    assert {event.id for event in found} == set(kept)


async def test_no_admin_event_goes_while_a_person_of_its_tenant_is_held(db: Database, tenant: UUID) -> None:
    async def found(*tenants: UUID) -> set[UUID]:
        store, last = AdminEventStore(db), (NOW + timedelta(days=1), PLATFORM)
        pages = [await store.list_newest(EventFilter(False, "", each), last, 100) for each in tenants]
        return {event.id for page in pages for event in page}

    other = uuid4()
    kinds = (("info", 91, True), ("critical", 366, False))
    held = {await raised(db, tenant, severity, days, resolved=resolved) for severity, days, resolved in kinds}
    for severity, days, resolved in kinds:
        await raised(db, other, severity, days, resolved=resolved)
    hold = (tenant, uuid4(), "a" * 64, "", "Case 7", "test", NOW, b"")
    async with db.tenant(tenant) as connection:
        await connection.execute(subjects.sql.put_hold, *hold)
    await retention.remove_admin_events(db, NOW)
    assert await found(tenant, other) == held
    async with db.tenant(tenant) as connection:
        await connection.execute(subjects.sql.release_hold, tenant, hold[1])
    await retention.remove_admin_events(db, NOW)
    assert await found(tenant) == set()


async def test_the_application_role_sees_no_other_tenants_events(db: Database, tenant: UUID) -> None:
    await raised(db, tenant, "info", 0, resolved=False)
    async with db.tenant(uuid4()) as connection:
        assert await connection.fetchval("SELECT count(*) FROM admin_system_events") == 0
        assert await connection.fetchval("SELECT count(*) FROM notifications") == 0
