"""The journal of sagas. Who writes it must be its owner: each write names an epoch, and a stale one moves nothing."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from penguin_chassis import outbox
from penguin_chassis.barrier import Step
from penguin_chassis.faults import AlreadyExists, Unavailable
from penguin_chassis.pool import Connection, Database
from penguin_chassis.queries import load
from penguin_oltp.domain import sagas
from penguin_oltp.domain.sagas import Advance, Change, Journaled, Saga, SagaStep
from penguin_oltp.store import rows

sql = load("penguin_oltp.store", "sagas.sql")

# Finished sagas are kept for this long.
RETENTION = timedelta(days=90)
FORGET_LIMIT = 1000


class SagaStore:
    """Sagas of one database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def create(self, step: Step, saga: Saga) -> Journaled:
        """Add one; where it stands, or an unfinished one of its kind and subject does, that one.

        Raises AlreadyExists where its id is that of another saga.
        """

        async def insert(connection: Connection) -> Journaled:
            if await connection.fetchval(sql.insert, *rows.columns(saga)) is not None:
                return Journaled(saga, ())
            record = await connection.fetchrow(sql.get, saga.tenant_id, saga.id)
            if record is not None and (record["kind"], record["input"]) != (saga.kind, saga.input):
                raise AlreadyExists(
                    "Another saga has this id.", field="saga_id", metadata={"resource": "saga", "field": "id"}
                )
            if record is None:
                record = await connection.fetchrow(sql.unfinished, saga.tenant_id, saga.kind, saga.subject)
            if record is None:  # it was finished between our two looks
                raise Unavailable("Two writes crossed; try again.", retry_after_s=0.05)
            return await _with_steps(connection, rows.read(Saga, record))

        return await rows.once(self._db.tenant(step.tenant_id), step, Journaled, insert)

    async def advance(self, step: Step, saga_id: UUID, told: Advance) -> Saga:
        """Journal what the owner says, and owe the admin event of a saga that becomes stuck.

        Raises NotFound, FailedPrecondition (SAGA_OWNER_LOST, STATE_CONFLICT).
        """

        async def act(connection: Connection) -> Saga:
            held = await _hold(connection, step.tenant_id, saga_id)
            standing = await _standing(connection, held) if told.changes else ()
            moved = sagas.advance(sagas.forgiven(held, standing, told.changes), told, step.at)
            await _journal(
                connection, held, standing, told.changes,
                lambda records, change: sagas.journal(records.get((change.step, change.operation)), change, step.at),
            )  # fmt: skip
            if moved.state == sagas.STUCK:
                await _stop(connection, moved, step.at)
            else:
                await _move(connection, moved)
            return moved

        return await rows.once(self._db.tenant(step.tenant_id), step, Saga, act)

    async def retry(self, step: Step, saga_id: UUID, actor: str, reason: str) -> Journaled:
        """Let it go on now; raises NotFound, FailedPrecondition (STATE_CONFLICT)."""

        async def act(connection: Connection) -> Journaled:
            held = await _hold(connection, step.tenant_id, saga_id)
            moved = sagas.retry(held, actor, reason, step.at)
            await _move(connection, moved)
            return await _with_steps(connection, moved)

        return await rows.once(self._db.tenant(step.tenant_id), step, Journaled, act)

    async def skip(self, step: Step, saga_id: UUID, change: Change, actor: str, reason: str) -> Journaled:
        """Take a step of it for done; raises NotFound, FailedPrecondition (STATE_CONFLICT), InvalidArgument."""

        async def act(connection: Connection) -> Journaled:
            held = await _hold(connection, step.tenant_id, saga_id)
            moved = sagas.skip(held, change.operation, actor, reason, step.at)
            standing = await _standing(connection, held)
            await _journal(
                connection, held, standing, [change],
                lambda records, told: sagas.skipped(records, told, actor, reason, step.at),
            )  # fmt: skip
            await _move(connection, moved)
            return await _with_steps(connection, moved)

        return await rows.once(self._db.tenant(step.tenant_id), step, Journaled, act)

    async def get(self, tenant_id: UUID, saga_id: UUID) -> Journaled:
        """One with its steps; raises NotFound."""
        async with self._db.tenant(tenant_id) as connection:
            record = rows.found(await connection.fetchrow(sql.get, tenant_id, saga_id), "saga", saga_id)
            return await _with_steps(connection, rows.read(Saga, record))

    async def list_page(self, after: UUID, limit: int, *, tenant_id: UUID | None, state: str, kind: str) -> list[Saga]:
        """Up to `limit` of them after an id; of one tenant, state or kind, where given."""
        side = self._db.tenant(tenant_id) if tenant_id else self._db.maintenance()
        async with side as connection:
            return [
                rows.read(Saga, record)
                for record in await connection.fetch(sql.list, after, limit, tenant_id, state, kind)
            ]

    async def claim(
        self, owner: str, lease: timedelta, limit: int, definitions: Sequence[str], at: datetime, *, a_tenant: int = 0
    ) -> tuple[list[Journaled], list[str]]:
        """Take over up to `limit` due sagas of these definitions (none given: of any), tenants in turn from a random one, so
        that the owner has no more than `a_tenant` of any (0: as many as there are). One that too many owners have left
        without a word becomes stuck instead.

        Answers also some definitions of due sagas that were not asked for.
        """
        found: list[Journaled] = []
        others: list[str] = []
        async with self._db.maintenance() as connection:
            tenants = await _due_tenants(connection, owner, list(definitions), at, limit, a_tenant)
            for n, (tenant, held) in enumerate(tenants):
                # What is left is shared evenly, so that one tenant's many take no other's place.
                share = -(-(limit - len(found)) // (len(tenants) - n))
                share = min(share, a_tenant - held) if a_tenant else share
                records = await connection.fetch(sql.claim, tenant, at, owner, at + lease, share, list(definitions))
                taken = {saga.id: saga for saga in await _sound(connection, records, at)}
                steps = await _steps(connection, tenant, list(taken))
                found += [Journaled(saga, tuple(steps.get(identifier, ()))) for identifier, saga in taken.items()]
            if definitions and len(found) < limit:
                others = [r["definition"] for r in await connection.fetch(sql.passed_over, at, list(definitions))]
        return found, others

    async def claim_one(
        self, tenant_id: UUID, saga_id: UUID, owner: str, lease: timedelta, at: datetime
    ) -> list[Journaled]:
        """Take over this one, if it is due; answers nothing where it is not, or is stuck from now on."""
        async with self._db.tenant(tenant_id) as connection:
            records = await connection.fetch(sql.claim_one, tenant_id, saga_id, at, owner, at + lease)
            return [await _with_steps(connection, saga) for saga in await _sound(connection, records, at)]


async def forget(db: Database, at: datetime) -> None:
    """Remove finished sagas past their retention, a bounded number each time."""
    async with db.maintenance() as connection:
        await connection.execute(sql.forget, at - RETENTION, FORGET_LIMIT)


async def _due_tenants(
    connection: Connection, owner: str, definitions: list[str], at: datetime, limit: int, a_tenant: int
) -> list[tuple[UUID, int]]:
    """Tenants with due sagas from a random one on, and how many of each the owner has in hand."""
    start = UUID(int=random.getrandbits(128))
    found = await connection.fetch(sql.due_tenants, start, at, definitions, limit, owner, a_tenant)
    if len(found) < limit:
        around = await connection.fetch(sql.due_tenants, UUID(int=0), at, definitions, limit, owner, a_tenant)
        found += [row for row in around if row["tenant_id"] <= start][: limit - len(found)]
    return [(row["tenant_id"], row["held"]) for row in found]


async def _sound(connection: Connection, claimed: Sequence[rows.Record], at: datetime) -> list[Saga]:
    """Of sagas just claimed, those worth being carried on. The others may be what ended their owners: they are stuck."""
    found = [rows.read(Saga, record) for record in claimed]
    for saga in found:
        if saga.takeovers > sagas.TAKEOVERS:
            await _stop(connection, sagas.lost(saga, at), at)
    return [saga for saga in found if saga.takeovers <= sagas.TAKEOVERS]


async def _stop(connection: Connection, stuck: Saga, at: datetime) -> None:
    """Leave it to the operators, and owe them the event."""
    await _move(connection, stuck)
    await outbox.append(connection, stuck.tenant_id, [_raised(stuck)], at)


async def _hold(connection: Connection, tenant_id: UUID, saga_id: UUID) -> Saga:
    record = await connection.fetchrow(sql.hold, tenant_id, saga_id)
    return rows.read(Saga, rows.found(record, "saga", saga_id))


async def _steps(connection: Connection, tenant_id: UUID, saga_ids: list[UUID]) -> dict[UUID, list[SagaStep]]:
    found: dict[UUID, list[SagaStep]] = {}
    for record in await connection.fetch(sql.steps, tenant_id, saga_ids):
        found.setdefault(record["saga_id"], []).append(rows.read(SagaStep, record))
    return found


async def _with_steps(connection: Connection, saga: Saga) -> Journaled:
    return Journaled(saga, tuple(await _standing(connection, saga)))


async def _standing(connection: Connection, saga: Saga) -> Sequence[SagaStep]:
    """The saga's steps as they were last journaled."""
    return (await _steps(connection, saga.tenant_id, [saga.id])).get(saga.id, ())


async def _journal(
    connection: Connection, saga: Saga, steps: Iterable[SagaStep], changes: Sequence[Change],
    write: Callable[[Mapping[tuple[str, str], SagaStep], Change], SagaStep],
) -> None:  # fmt: skip
    if not changes:
        return
    standing = {(record.step, record.operation): record for record in steps}
    # Of a step that is named twice the last word counts.
    for change in changes:
        key = (change.step, change.operation)
        standing[key] = write(standing, change)
    named = sorted({(change.step, change.operation) for change in changes})
    columns = zip(*(rows.columns(standing[key]) for key in named), strict=True)
    await connection.execute(sql.journal, saga.tenant_id, saga.id, *map(list, columns))


async def _move(connection: Connection, saga: Saga) -> None:
    await connection.execute(
        sql.move, saga.tenant_id, saga.id, saga.state, saga.undoing, saga.owner, saga.owner_epoch, saga.due_at,
        saga.attempts, saga.last_error, saga.reason, saga.actor, saga.updated_at, saga.finished_at,
        saga.takeovers,
    )  # fmt: skip


def _raised(saga: Saga) -> outbox.Owed:
    event = {
        "event_type": "saga.stuck",
        "severity": "error",
        "description": f"A saga {saga.kind} is stuck: see `penguin saga show`.",
        "details": {"saga_id": str(saga.id), "kind": saga.kind, "error": saga.last_error, "undoing": saga.undoing},
        "dedupe_key": f"saga:{saga.id}",
    }
    return outbox.Owed(uuid4(), "notifications", "create_admin_events", {"events": [event]})
