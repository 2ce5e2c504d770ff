"""A layer for idempotent effects: what a handler does in a store of its own is done once for each job, whoever else has the job.

A job comes at least once: a worker may die after its work and before its word, or lose its lease and not know. Who calls others
that take request_ids passes `Job.effect_key`; who writes to a database of its own puts `once` around its handlers:

```python
effects = AsyncpgEffects(pool)  # the table stands in effects.sql: put it into a migration of yours

@kinds.on("invoice.book", Invoice, limit=10)  # no more than the pool has connections
async def book(job: Job, invoice: Invoice) -> str:
    await effects.connection.execute("INSERT INTO bookings …", invoice.id)
    return f"bookings/{invoice.id}"

worker = Worker(queue, config, middleware=(tracing, once(effects, {"invoice.book"})))
```

The handler runs in one transaction, and the last thing in it is a note that its job's effect is applied. A later attempt finds the
note, does not call the handler, and completes the job with the result that stands there. An attempt that others have overtaken finds at
its note that the effect is theirs, and all that it did is rolled back.

The fence is the token of the lease. Tokens have no order, and neither counts nor times of a job give one (a redriven job counts from
nothing again): who begins last has the effect. A zombie that begins after its successor costs an attempt more, never a second effect.
Nobody holds a lock while a handler runs, so a worker that is frozen keeps its successor waiting at most where it froze in its very
commit, and there for CLAIM_S; set idle_in_transaction_session_timeout, or its row stays locked until PostgreSQL misses it.

A handler under `once` ends by returning or raising, never by `Job.settle`: that would be said before anything is durable. What it does
elsewhere (a call, an email) is not undone with the transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol
from uuid import UUID

import asyncpg

from penguin_chassis.queries import load
from penguin_worker.jobs import Away, Job, NotDone, Release, Retry, Snooze
from penguin_worker.kinds import One
from penguin_worker.middleware import Middleware

sql = load("penguin_worker", "effects.sql")

# How long a store may take for a claim or a note (seconds): neither waits for more than another's commit.
CLAIM_S = 10.0
# When an attempt that was overtaken looks again, about (seconds): by then whoever overtook it has mostly come to its end.
AGAIN_S = 1.0
# Says that the database went while a handler was at work. A handler that is idle in its transaction for longer than its database
# lets it be, or has it fall over, finds the same each time: a job that was put off so often before pays an attempt for it.
LOST = "effects.lost"
LOST_MAX = 20
# How many notes are forgotten in one statement.
FORGET_LIMIT = 10_000
_NOT_THERE = (OSError, TimeoutError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError)


@dataclass(frozen=True)
class Effect:
    """What a job does, once: its key is the same at every attempt, the fence is this attempt's own."""

    key: UUID
    tenant_id: UUID
    job_id: int
    fence: int


class EffectStore(Protocol):
    """Where handlers write, and notes are kept beside what they wrote."""

    async def claim(self, effect: Effect) -> str | None:
        """Let this attempt have the effect, whoever had it, and be durable; or, where it is applied, its result."""

    def transaction(self) -> AbstractAsyncContextManager[None]:
        """What is written inside, by the handler and by `note`, is kept at the end, or where anything raises none of it."""

    async def note(self, effect: Effect, result: str) -> bool:
        """Inside the transaction: note the effect as applied. False where another attempt has it, or has applied it."""


def once(store: EffectStore, kinds: Collection[str] | None = None) -> Middleware:
    """A layer that has handlers of these kinds (None: all) act once for each job. It raises Snooze where another attempt has
    overtaken this one, Release where the lease is lost, and Away where the store goes in between, but for a job that it has
    put off LOST_MAX times: Retry."""

    async def layer(job: Job, go_on: One) -> None:
        if kinds is not None and job.kind not in kinds:
            await go_on(job)
            return
        if not job.held:
            raise Release("lease_lost")
        effect = effect_of(job)
        if (result := await store.claim(effect)) is not None:
            job.result = result
            return
        try:
            async with store.transaction():
                await go_on(job)
                # The queue gives it to another as soon as it may; what is known here is known before that.
                if not job.held:
                    raise Release("lease_lost")
                if not await store.note(effect, job.result):
                    raise Snooze("overtaken", AGAIN_S * random.uniform(0.75, 1.25))
        except Away as away:
            if away.error == LOST and job.snoozes >= LOST_MAX:
                raise Retry(LOST) from None
            raise

    return layer


def effect_of(job: Job) -> Effect:
    """A job's effect and this attempt's claim to it. A queue that was restored may give a number twice, but not of one time."""
    key = job.effect_key("once", job.created_at.isoformat())
    return Effect(key, job.tenant_id, job.id, job.lease_token)


class AsyncpgEffects:
    """Effects in a PostgreSQL database, through an asyncpg pool; the table is `effects.sql`'s `job_effects`."""

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        self._pool = pool
        self._open: ContextVar[asyncpg.pool.PoolConnectionProxy[Any]] = ContextVar("connection")

    @property
    def connection(self) -> asyncpg.pool.PoolConnectionProxy[Any]:
        """The handler's transaction. Raises RuntimeError outside of one."""
        try:
            return self._open.get()
        except LookupError:
            raise RuntimeError("no handler under `once` is running here") from None

    async def claim(self, effect: Effect) -> str | None:
        """See EffectStore. Raises Away where the database is."""
        try:
            async with asyncio.timeout(CLAIM_S), self._pool.acquire() as connection:
                mine = await connection.fetchval(sql.claim, effect.key, effect.tenant_id, effect.job_id, effect.fence)
                return None if mine is not None else str(await connection.fetchval(sql.applied, effect.key))
        except _NOT_THERE:
            raise Away("effects.unreachable") from None

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """See EffectStore. Raises Away where the database is, or goes before all is kept: whatever else the handler makes of
        that, but for a verdict of its own."""
        try:
            connection = await self._pool.acquire()
        except _NOT_THERE:
            raise Away("effects.unreachable") from None
        said: BaseException | None = None
        try:
            async with connection.transaction():
                token = self._open.set(connection)
                try:
                    yield
                except BaseException as raised:
                    said = raised
                    raise
                finally:
                    self._open.reset(token)
        except Exception:
            if not _gone(connection):
                raise
            if said is not None and (isinstance(said, NotDone) or not isinstance(said, Exception)):
                # And not what its undoing failed with.
                raise said from None
            raise Away(LOST) from None
        finally:
            # What is kept is kept, whatever becomes of the connection.
            with contextlib.suppress(*_NOT_THERE, asyncpg.InterfaceError):
                await self._pool.release(connection)

    async def note(self, effect: Effect, result: str) -> bool:
        """See EffectStore. Raises Away where the database is, or the note is kept waiting for too long."""
        connection = self.connection
        try:
            found = await connection.fetchval(sql.note, effect.key, effect.fence, result, timeout=CLAIM_S)
        except _NOT_THERE:
            if _gone(connection):
                # What that means is said where the transaction ends.
                raise
            raise Away("effects.unreachable") from None
        return found is not None

    async def forget(self, older_than: timedelta, limit: int = FORGET_LIMIT) -> int:
        """Forget so many notes at most that are older; how many were. Keep them for longer than a job may wait, fail and be
        redriven: a job whose note is gone acts again."""
        async with self._pool.acquire() as connection:
            gone: str = await connection.execute(sql.forget, older_than, limit)
        return int(gone.removeprefix("DELETE "))


def _gone(connection: asyncpg.pool.PoolConnectionProxy[Any]) -> bool:
    """Whether a connection has been lost: then its transaction is, too, unless it was lost in its very commit."""
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:
        # The pool has taken it back for that.
        return True
