"""Small leases in groups: what is done for many is bound by nobody's deadline but its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast

from penguin_chassis import calls
from penguin_queue.domain.jobs import Job
from penguin_queue.operations.desk import PARALLEL, Desk
from penguin_queue.store.leases import Asked

ASKED = Asked(("k",), 1, datetime(2026, 1, 1, tzinfo=UTC), "w")


async def test_those_who_ask_meanwhile_are_served_together_and_nobodys_deadline_is_theirs() -> None:
    go = asyncio.Event()
    served: list[tuple[int, float]] = []

    async def lease(asked: Sequence[Asked]) -> list[list[Job]]:
        served.append((len(asked), calls.remaining()))
        await go.wait()
        return [[] for _ in asked]

    desk = Desk(lease, lambda jobs: None)
    call: Any = calls.Call("/x/Y", cast("Any", None), asyncio.get_running_loop().time() + 0.01)
    token = calls.enter(call)
    first = [asyncio.create_task(desk.ask(ASKED)) for _ in range(PARALLEL)]
    calls.leave(token)
    await asyncio.sleep(0.02)
    later = [asyncio.create_task(desk.ask(ASKED)) for _ in range(20)]
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(*first, *later)
    assert max(count for count, _ in served) == 20
    assert sum(count for count, _ in served) == PARALLEL + 20
    assert all(left > 1 for _, left in served)


async def test_what_is_answered_in_the_very_turn_in_which_its_caller_is_cancelled_is_given_back() -> None:
    jobs, back = cast("list[Job]", [object()]), list[Job]()

    async def lease(asked: Sequence[Asked]) -> list[list[Job]]:
        asyncio.get_running_loop().call_soon(asking.cancel)
        return [jobs]

    desk = Desk(lease, back.extend)
    asking = asyncio.create_task(desk.ask(ASKED))
    await asyncio.wait([asking])
    assert (asking.cancelled(), back) == (True, jobs)
