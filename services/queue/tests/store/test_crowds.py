"""Workers, tenants and the clock at the same jobs at once: each job ends once, and none is lost."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from datetime import timedelta
from uuid import uuid4

from services.queue.tests.leases import Leases
from services.queue.tests.store.test_interleavings import LEASE_S, START, Model

from penguin_chassis.barrier import Step
from penguin_chassis.pool import Database
from penguin_queue.domain.jobs import LeaseRef
from penguin_queue.store.jobs import LAST
from penguin_queue.store.leases import Asked


async def test_crashing_workers_at_once_complete_each_job_once(own_db: Database) -> None:
    model = Model(own_db)
    await model.enqueue(200)
    chance = random.Random(7)
    won: Counter[int] = Counter()
    buried = 0
    clock = START

    async def worker() -> None:
        nonlocal buried, clock
        store = Leases(own_db)
        while sum(won.values()) + buried < 200:
            leased = await store.lease_ready(Asked((), chance.randint(1, 20), clock + timedelta(seconds=1), "w"))
            refs = [LeaseRef(j.id, j.lease_token) for j in leased if j.lease_token]
            await asyncio.sleep(chance.random() / 200)
            if not refs or chance.random() < 0.2:  # died with its jobs in hand, or has nothing: time goes on
                clock += timedelta(seconds=1)
                swept = await store.sweep(clock)
                buried += swept.buried
                refs = [ref for ref in refs if chance.random() < 0.3]  # and some of it comes back from the dead
            if refs:
                ids = [ref.job_id for ref in refs]
                lost = await store.complete(ids, [ref.token for ref in refs], clock)
                won.update(job_id for job_id in ids if job_id not in lost)

    async with asyncio.timeout(60):
        await asyncio.gather(*(worker() for _ in range(6)))
    finished = await model.reader.list_page(model.tenant, before=LAST, state="", kind="", limit=1000)
    assert len(finished) == 200
    assert set(won.values()) == {1}
    assert Counter(job.state for job in finished) == Counter(completed=len(won), dead=buried)


async def test_cancellations_and_workers_at_once_end_each_job_once(own_db: Database) -> None:
    model = Model(own_db)
    await model.enqueue(300)
    chance = random.Random(11)
    ids, left = list(model.jobs), set(model.jobs)
    cancelled: Counter[int] = Counter()
    done: Counter[int] = Counter()

    async def tenant() -> None:
        while left:
            step = Step(model.tenant, f"req:{uuid4()}", b"d", START)
            reply = await model.control.cancel(step, chance.sample(ids, 20))
            cancelled.update(reply.ended)
            left.difference_update(reply.ended)
            await asyncio.sleep(chance.random() / 50)

    async def worker() -> None:
        store = Leases(own_db)
        while left:
            leased = await store.lease_ready(Asked((), chance.randint(1, 20), START + timedelta(seconds=LEASE_S), "w"))
            await asyncio.sleep(chance.random() / 100)
            refs = [LeaseRef(j.id, j.lease_token) for j in leased if j.lease_token]
            columns = [ref.job_id for ref in refs], [ref.token for ref in refs]
            if not refs:
                continue
            if chance.random() < 0.5:
                assert await store.complete(*columns, START) == []
                done.update(columns[0])
                left.difference_update(columns[0])
            else:
                back, _, ended = await store.release(*columns, START)
                assert back | ended == set(refs)
                cancelled.update(ref.job_id for ref in ended)
                left.difference_update(ref.job_id for ref in ended)

    async with asyncio.timeout(60):
        await asyncio.gather(*(worker() for _ in range(4)), *(tenant() for _ in range(2)))
    assert len(cancelled + done) == 300
    assert set((cancelled + done).values()) == {1}
    found = await model.reader.list_page(model.tenant, before=LAST, state="", kind="", limit=1000)
    assert Counter(job.state for job in found) == Counter(cancelled=len(cancelled), completed=len(done))
