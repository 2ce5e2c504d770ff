"""Queues, their kinds, and what rests. They are the platform's: every method runs as the maintenance role."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from penguin_chassis import barrier
from penguin_chassis.barrier import Step
from penguin_chassis.faults import NotFound, ResourceExhausted
from penguin_chassis.pool import Connection, Database
from penguin_chassis.queries import load
from penguin_queue.domain.queues import RATES, Limit, Pause, Queue, Terms
from penguin_queue.store.kinds import Kinds

sql = load("penguin_queue.store", "queues.sql")

# Queues are made by people, and each lease looks at those that are limited.
QUEUES_MAX = 1000
# Every process that leases has them at hand.
WEIGHTS_MAX = 10_000
# Leases pass resting tenants over one by one.
PAUSES_MAX = 1000


def _limit(row: Any, rate: str) -> Limit | None:
    parts = [row[f"{rate}_{part}"] for part in ("jobs", "ms", "burst")]
    return None if parts[0] is None else Limit(*parts)


def _parts(limit: Limit | None) -> tuple[int | None, int | None, int | None]:
    return (None, None, None) if limit is None else (limit.jobs, limit.ms, limit.burst)


def _queue(row: Any) -> Queue:
    terms: dict[str, Any] = {
        name: _limit(row, name) if name in RATES else row[name] for name in Terms.__dataclass_fields__
    }
    return Queue(Terms(**terms), row["paused"], list(row["kinds"]), row["created_at"], row["updated_at"])


class QueueStore:
    """Queues of one database."""

    def __init__(self, db: Database, kinds: Kinds) -> None:
        self._db = db
        self._kinds = kinds

    async def put(self, step: Step, terms: Terms) -> Queue:
        """Make a queue, or make it so. Raises ResourceExhausted (BACKLOG_FULL) for one too many."""
        async with self._db.maintenance() as connection:
            if (done := await barrier.claim(connection, step, Queue)) is not None:
                return done.reply
            await connection.execute(
                sql.put, terms.name, terms.priority, terms.max_attempts, terms.backoff_base, terms.backoff_cap,
                terms.lost_lease_limit, terms.max_in_flight, step.at, terms.completed_retention, terms.dead_retention,
                terms.dead_letters, *_parts(terms.rate), *_parts(terms.tenant_rate), *_parts(terms.key_rate),
            )  # fmt: skip
            if await connection.fetchval(sql.count) > QUEUES_MAX:
                raise ResourceExhausted("There are too many queues.", reason="BACKLOG_FULL", field="queue.name")
            return await barrier.record(connection, step, await self._get(connection, terms.name, "queue.name"), Queue)

    async def get(self, name: str) -> Queue:
        """One queue; raises NotFound."""
        async with self._db.maintenance() as connection:
            return await self._get(connection, name, "name")

    async def list_page(self, after: str, limit: int) -> list[Queue]:
        """Up to `limit` queues after a name."""
        async with self._db.maintenance() as connection:
            return [_queue(row) for row in await connection.fetch(sql.list_page, after, limit)]

    async def move_kinds(self, step: Step, queue: str, kinds: Sequence[str]) -> Queue:
        """Put kinds into a queue; new ones are added. Raises NotFound for the queue, ResourceExhausted as `numbers`."""
        async with self._db.maintenance() as connection:
            if (done := await barrier.claim(connection, step, Queue)) is not None:
                return done.reply
            await self._kinds.numbers(connection, kinds, None)
            await connection.execute(sql.move_kinds, queue, kinds)
            await connection.execute(sql.comb_anew, queue)
            return await barrier.record(connection, step, await self._get(connection, queue, "queue"), Queue)

    async def rest(self, step: Step, pause: Pause, *, paused: bool) -> None:
        """Let jobs rest, or end it. Raises NotFound for a queue or kind, ResourceExhausted for one pause too many."""
        async with self._db.maintenance() as connection:
            if await barrier.claim(connection, step, str) is not None:
                return
            if pause.tenant_id is not None:
                await self._rest_tenant(connection, step, pause, pause.tenant_id, paused=paused)
            elif pause.kind:
                if await connection.fetchval(sql.rest_kind, pause.kind, paused) is None:
                    raise NotFound("kind", pause.kind, field="target.kind")
            elif await connection.fetchval(sql.rest_queue, pause.queue, paused) is None:
                raise NotFound("queue", pause.queue, field="target.queue")
            await barrier.record(connection, step, "", str)

    async def leasing(self) -> set[str]:
        """The transactions under way that lease jobs, or may store them leased."""
        async with self._db.maintenance() as connection:
            return {row["transaction"] for row in await connection.fetch(sql.leasing)}

    async def _rest_tenant(
        self, connection: Connection, step: Step, pause: Pause, tenant_id: UUID, *, paused: bool
    ) -> None:
        kind_id = await connection.fetchval(sql.kind_id, pause.kind) if pause.kind else 0
        if kind_id is None:
            raise NotFound("kind", pause.kind, field="target.tenant.kind")
        if not paused:
            await connection.execute(sql.wake_tenant, tenant_id, kind_id)
            return
        await connection.execute(sql.rest_tenant, tenant_id, kind_id, step.at)
        if await connection.fetchval(sql.count_tenants) > PAUSES_MAX:
            raise ResourceExhausted("Too many tenants rest.", reason="BACKLOG_FULL", field="target.tenant")

    async def set_weight(self, step: Step, tenant_id: UUID, weight: int) -> None:
        """Give a tenant a weight, or (0) make it an ordinary one. Raises ResourceExhausted for one too many."""
        async with self._db.maintenance() as connection:
            if await barrier.claim(connection, step, str) is not None:
                return
            if weight:
                await connection.execute(sql.set_weight, tenant_id, weight, step.at)
                if await connection.fetchval(sql.count_weights) > WEIGHTS_MAX:
                    raise ResourceExhausted("Too many tenants have a weight.", reason="BACKLOG_FULL", field="weight")
            else:
                await connection.execute(sql.drop_weight, tenant_id)
            await barrier.record(connection, step, "", str)

    async def list_weights(self, after: UUID, limit: int) -> list[tuple[UUID, int]]:
        """Up to `limit` tenants after one that have a weight of their own."""
        async with self._db.maintenance() as connection:
            return [(row["tenant_id"], row["weight"]) for row in await connection.fetch(sql.list_weights, after, limit)]

    async def list_pauses(self, after: tuple[int, str, str], limit: int) -> list[Pause]:
        """Up to `limit` of what rests after a place: queues, then kinds, then tenants."""
        async with self._db.maintenance() as connection:
            rows = await connection.fetch(sql.list_pauses, *after, limit)
        return [_pause(*row) for row in rows]

    async def _get(self, connection: Connection, name: str, field: str) -> Queue:
        row = await connection.fetchrow(sql.get, name)
        if row is None:
            raise NotFound("queue", name, field=field)
        return _queue(row)


def _pause(rank: int, name: str, kind: str) -> Pause:
    if rank == 1:
        return Pause(queue=name)
    return Pause(kind=name) if rank == 2 else Pause(kind=kind, tenant_id=UUID(name))
