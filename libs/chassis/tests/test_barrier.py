"""A mutation is carried out once, whoever repeats it and whatever comes first."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from penguin_chassis import barrier, faults, housekeeping, outbox
from penguin_chassis.barrier import ACTION, COMPENSATION, Replay, Step, once_each
from penguin_chassis.mutations import NOT_AFTER_MAX
from penguin_chassis.pool import Database
from penguin_oltp.domain.sagas import RETRIED_WITHIN

COUNT = "SELECT count(*) FROM outbox WHERE tenant_id = $1"


def step(tenant: UUID, key: str = "", *, body: bytes = b"body", **more: Any) -> Step:
    at = more.pop("at", None) or datetime.now(UTC)
    return Step(tenant, key or f"req:{uuid4()}", hashlib.sha256(body).digest(), at, **more)


async def carry_out(db: Database, one: Step, *, pause: float = 0.0) -> str:
    """A mutation whose effect is one row."""
    async with db.tenant(one.tenant_id) as connection:
        if (done := await barrier.claim(connection, one, str)) is not None:
            return f"replayed {done.reply}"
        await asyncio.sleep(pause)
        await outbox.append(connection, one.tenant_id, [outbox.Owed(uuid4(), "d", "k", {})], one.at)
        return await barrier.record(connection, one, "the reply", str)


async def effects(db: Database, tenant: UUID) -> int:
    async with db.tenant(tenant) as connection:
        count: int = await connection.fetchval(COUNT, tenant)
        return count


async def test_a_repeat_gets_the_first_answer(db: Database, tenant: UUID) -> None:
    one = step(tenant)
    assert await carry_out(db, one) == "the reply"
    assert await carry_out(db, one) == "replayed the reply"
    assert await effects(db, tenant) == 1


async def test_another_body_under_the_same_id_is_refused(db: Database, tenant: UUID) -> None:
    one = step(tenant)
    await carry_out(db, one)
    with pytest.raises(faults.RequestIdReused):
        await carry_out(db, step(tenant, one.key, body=b"another"))
    # Another tenant's id is another id.
    assert await carry_out(db, step(uuid4(), one.key, body=b"another")) == "the reply"


async def test_what_failed_may_be_tried_again(db: Database, tenant: UUID) -> None:
    one = step(tenant)

    async def fail() -> None:
        async with db.tenant(tenant) as connection:
            assert await barrier.claim(connection, one, str) is None
            raise faults.FailedPrecondition("not now")

    with pytest.raises(faults.FailedPrecondition):
        await fail()
    assert await carry_out(db, one) == "the reply"


@pytest.mark.parametrize("attempt", range(3))
async def test_two_at_once_have_one_effect(db: Database, tenant: UUID, attempt: int) -> None:
    one = step(tenant)
    answers = await asyncio.gather(*(carry_out(db, one, pause=0.1) for _ in range(3)))
    assert sorted(answers) == ["replayed the reply", "replayed the reply", "the reply"]
    assert await effects(db, tenant) == 1


async def test_who_waited_for_one_that_failed_carries_it_out(db: Database, tenant: UUID) -> None:
    one = step(tenant)
    claimed = asyncio.Event()

    async def fail_late() -> None:
        async with db.tenant(tenant) as connection:
            await barrier.claim(connection, one, str)
            claimed.set()
            await asyncio.sleep(0.2)
            raise faults.Fault("broken")

    first = asyncio.create_task(fail_late())
    await claimed.wait()
    assert await carry_out(db, one) == "the reply"
    with pytest.raises(faults.Fault):
        await first
    assert await effects(db, tenant) == 1


def saga(tenant: UUID, saga_id: UUID, operation: str, **more: Any) -> Step:
    return step(tenant, f"saga:{saga_id}:charge", operation=operation, **more)


async def test_a_compensation_that_comes_first_bars_the_action(db: Database, tenant: UUID) -> None:
    journey = uuid4()
    assert await carry_out(db, saga(tenant, journey, COMPENSATION)) == "the reply"
    with pytest.raises(faults.Aborted) as caught:
        await carry_out(db, saga(tenant, journey, ACTION, body=b"of the action"))
    assert caught.value.reason == "SAGA_COMPENSATED"
    assert await effects(db, tenant) == 1  # the compensation's own


async def test_after_its_compensation_an_action_replays_no_more(db: Database, tenant: UUID) -> None:
    journey = uuid4()
    action = saga(tenant, journey, ACTION)
    assert await carry_out(db, action) == "the reply"
    assert await carry_out(db, saga(tenant, journey, COMPENSATION)) == "the reply"
    assert await carry_out(db, saga(tenant, journey, COMPENSATION)) == "replayed the reply"
    with pytest.raises(faults.Aborted):
        await carry_out(db, action)


async def test_action_and_compensation_at_once_end_compensated(db: Database, tenant: UUID) -> None:
    journey = uuid4()
    answers = await asyncio.gather(
        carry_out(db, saga(tenant, journey, ACTION), pause=0.05),
        carry_out(db, saga(tenant, journey, COMPENSATION), pause=0.05),
        return_exceptions=True,
    )
    assert answers[1] == "the reply"
    assert answers[0] == "the reply" or isinstance(answers[0], faults.Aborted)
    with pytest.raises(faults.Aborted):
        await carry_out(db, saga(tenant, journey, ACTION))


async def test_an_action_past_its_time_is_refused_and_a_compensation_never(db: Database, tenant: UUID) -> None:
    late = datetime.now(UTC) - timedelta(seconds=1)
    with pytest.raises(faults.FailedPrecondition) as caught:
        await carry_out(db, saga(tenant, uuid4(), ACTION, not_after=late))
    assert caught.value.reason == "STEP_EXPIRED"
    assert await carry_out(db, saga(tenant, uuid4(), COMPENSATION, not_after=late)) == "the reply"
    assert await effects(db, tenant) == 1


async def test_a_late_duplicate_of_what_was_done_in_time_is_a_replay(db: Database, tenant: UUID) -> None:
    journey, now = uuid4(), datetime.now(UTC)
    in_time = now + timedelta(seconds=5)
    await carry_out(db, saga(tenant, journey, ACTION, at=now, not_after=in_time))
    again = saga(tenant, journey, ACTION, at=in_time + timedelta(seconds=1), not_after=in_time)
    assert await carry_out(db, again) == "replayed the reply"


async def batch(
    db: Database, items: Sequence[tuple[Step, str]], faulty: frozenset[str] = frozenset()
) -> list[str | faults.Fault]:
    """A batch whose items are written, but for those that are faulty."""
    tenant = items[0][0].tenant_id

    async def act(fresh: list[tuple[Step, str]]) -> list[str | faults.Fault]:
        written = [name for _, name in fresh if name not in faulty]
        owed = [outbox.Owed(uuid4(), name, "k", {}) for name in written]
        await outbox.append(connection, tenant, owed, datetime.now(UTC))
        return [faults.NotFound("thing", name) if name in faulty else f"made {name}" for _, name in fresh]

    async with db.tenant(tenant) as connection:
        return await once_each(connection, items, str, act)


async def test_a_batch_answers_each_item_in_order(db: Database, tenant: UUID) -> None:
    items = [(step(tenant, body=name.encode()), name) for name in "abcde"]
    first = await batch(db, items[1:3])
    assert first == ["made b", "made c"]
    answers = await batch(db, items, frozenset("d"))
    assert [a for a in answers if isinstance(a, str)] == ["made a", "made b", "made c", "made e"]
    assert isinstance(answers[3], faults.NotFound)
    assert await effects(db, tenant) == 4
    # What was faulty was released.
    assert await batch(db, items) == [f"made {name}" for name in "abcde"]
    assert await effects(db, tenant) == 5


async def test_a_key_twice_in_a_batch_counts_once(db: Database, tenant: UUID) -> None:
    one = step(tenant)
    other = step(tenant, one.key, body=b"another")
    answers = await batch(db, [(one, "a"), (other, "b"), (one, "a")])
    assert answers[0] == "made a"
    assert isinstance(answers[1], faults.RequestIdReused)
    assert isinstance(answers[2], faults.RequestIdReused)
    assert await effects(db, tenant) == 1


async def test_batches_that_cross_each_have_each_effect_once(db: Database, tenant: UUID) -> None:
    items = [(step(tenant, body=str(n).encode()), str(n)) for n in range(50)]
    backwards = list(reversed(items))
    one, two = await asyncio.gather(batch(db, items), batch(db, backwards))
    assert one == [f"made {n}" for n in range(50)]
    assert two == list(reversed(one))
    assert await effects(db, tenant) == 50


async def test_replies_keep_their_types(db: Database, tenant: UUID) -> None:
    one, reply = step(tenant), [uuid4(), uuid4()]
    async with db.tenant(tenant) as connection:
        assert await barrier.claim(connection, one, list[UUID]) is None
        await barrier.record(connection, one, reply, list[UUID])
    async with db.tenant(tenant) as connection:
        assert await barrier.claim(connection, one, list[UUID]) == Replay(reply)


async def test_old_replies_are_forgotten_and_young_ones_kept(
    db: Database, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "PRUNE_LIMIT", 2)
    now = datetime.now(UTC)
    old = [step(tenant, at=now - housekeeping.BARRIER_RETENTION - timedelta(hours=1)) for _ in range(5)]
    young = step(tenant, at=now)
    for each in (*old, young):
        await carry_out(db, each)
    await housekeeping.prune_barrier(db, now)
    async with db.tenant(tenant) as connection:
        rows = await connection.fetch("SELECT key FROM step_barrier WHERE tenant_id = $1", tenant)
    assert [row["key"] for row in rows] == [young.key]


async def compensate(db: Database, action: Step, at: datetime) -> None:
    """Undo the action, whether it has come or not."""
    undoing = step(action.tenant_id, action.key, operation=COMPENSATION, at=at)
    async with db.tenant(action.tenant_id) as connection:
        if await barrier.claim(connection, undoing, bool) is None:
            await barrier.record(connection, undoing, True, bool)


async def test_a_steps_bar_outlasts_every_action_that_was_sent_before_it(db: Database, tenant: UUID) -> None:
    """The edge of the retention: an action undone long after it was done, and one that may still be on its way then."""
    begun = datetime.now(UTC)
    action = step(tenant, f"saga:{uuid4()}:first", operation=ACTION, at=begun, not_after=begun + NOT_AFTER_MAX)
    assert await carry_out(db, action) == "the reply"
    undone = begun + housekeeping.SAGA_RETENTION - timedelta(minutes=1)
    await compensate(db, action, undone)
    # The last that was sent before, as late as a tier lets it be.
    late = replace(action, at=undone + NOT_AFTER_MAX, not_after=undone + NOT_AFTER_MAX)
    await housekeeping.prune_barrier(db, late.at)
    with pytest.raises(faults.Aborted) as refused:
        await carry_out(db, late)
    assert refused.value.reason == "SAGA_COMPENSATED"
    # A moment later it is refused for being late, bar or no bar.
    after = undone + housekeeping.SAGA_RETENTION + timedelta(seconds=1)
    await housekeeping.prune_barrier(db, after)
    with pytest.raises(faults.FailedPrecondition) as expired:
        await carry_out(db, replace(late, at=after))
    assert expired.value.reason == "STEP_EXPIRED"
    assert await effects(db, tenant) == 1


async def test_a_step_is_remembered_while_its_saga_may_be_retried(db: Database, tenant: UUID) -> None:
    begun = datetime.now(UTC)
    action = step(tenant, f"saga:{uuid4()}:first", operation=ACTION, at=begun)
    request = step(tenant, at=begun)
    assert [await carry_out(db, each) for each in (action, request)] == ["the reply"] * 2
    later = begun + housekeeping.BARRIER_RETENTION + timedelta(seconds=1)
    await housekeeping.prune_barrier(db, later)
    assert await carry_out(db, replace(action, at=later)) == "replayed the reply"
    assert await carry_out(db, replace(request, at=later)) == "the reply", "a request is forgotten earlier"
    # A journal refuses to retry what is older than this; the step outlives it by as long as an action may be late.
    assert RETRIED_WITHIN + NOT_AFTER_MAX < housekeeping.SAGA_RETENTION
    last = begun + housekeeping.SAGA_RETENTION
    await housekeeping.prune_barrier(db, last)
    assert await carry_out(db, replace(action, at=last)) == "replayed the reply"
