"""Duties that come round: partitions made ahead, old rows removed. Each runs at its interval, bounded, and a failed one
is tried again next time; none is ever on a call's way."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from penguin_chassis import outbox
from penguin_chassis.defects import places
from penguin_chassis.pool import Connection, Database

log = logging.getLogger(__name__)

# How long a request_id is remembered: longer than any caller, relay or saga retries.
BARRIER_RETENTION = timedelta(days=14)
# Rows forgotten in one transaction, and transactions in one turn: short locks, and yet more an hour than can come in.
PRUNE_LIMIT = 10_000
PRUNE_ROUNDS = 500
# Steps of sagas are remembered for longer than a saga may be retried (150 days) and its actions be late (`not_after`).
SAGA_RETENTION = timedelta(days=180)
PRUNE_BARRIER = """
DELETE FROM step_barrier WHERE (tenant_id, key, operation) IN (
    SELECT tenant_id, key, operation FROM step_barrier
    WHERE created_at < $1 AND (operation = 'request' OR created_at < $3) LIMIT $2)"""


@dataclass(frozen=True)
class Duty:
    """One duty: its name in logs, its interval (seconds), and what it does with the database and the time."""

    name: str
    every_s: float
    run: Callable[[Database, datetime], Awaitable[None]]


async def prune_barrier(db: Database, at: datetime) -> None:
    """Forget replies past their retention, a bounded number each time."""
    for _ in range(PRUNE_ROUNDS):
        async with db.maintenance() as connection:
            gone = await connection.execute(PRUNE_BARRIER, at - BARRIER_RETENTION, PRUNE_LIMIT, at - SAGA_RETENTION)
        if gone != f"DELETE {PRUNE_LIMIT}":
            return


# Making or dropping a partition waits for all who read its parent, and meanwhile all who come wait for it, writers too.
LOCKED_SHORTLY = "SET LOCAL lock_timeout = '200ms'"


@contextlib.asynccontextmanager
async def locking_shortly(db: Database) -> AsyncIterator[Connection]:
    """The maintenance role's transaction for making and dropping partitions: what cannot be locked at once is left to the next
    round, for which asyncpg.LockNotAvailableError is raised. One table in each, or the first stays locked meanwhile."""
    async with db.maintenance() as connection:
        await connection.execute(LOCKED_SHORTLY)
        yield connection


PRUNE = Duty("prune_barrier", 600.0, prune_barrier)
MEASURE = Duty("measure_outbox", 2.0, outbox.measure)


async def _keep(duty: Duty, db: Database) -> None:
    while True:
        delay = duty.every_s
        try:
            await duty.run(db, db.now())
        except Exception as error:  # noqa: BLE001 - a duty that fails comes round again
            log.warning("duty %s failed: %s", duty.name, type(error).__name__, extra={"places": places(error)})
            delay = min(delay, 5.0)
        await asyncio.sleep(delay * random.uniform(0.8, 1.2))


@contextlib.asynccontextmanager
async def housekeeping(db: Database, duties: Sequence[Duty] = (PRUNE,)) -> AsyncIterator[None]:
    """Do these duties beside the block."""
    tasks = [asyncio.create_task(_keep(duty, db), name=f"duty-{duty.name}") for duty in duties]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
