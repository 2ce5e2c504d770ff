"""LedgerService: every method, by its contract: what the analytics tier reads of the ledger."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from services.oltp.tests.rows import create_request, new_email, send
from tests.contract.cases import Case, Within, equal
from tests.contract.harness import ServiceContract
from tests.contract.wire import World

from penguin.oltp.v1 import ledger_service_pb2 as pb

SERVICE = "penguin.oltp.v1.LedgerService"
TRIES = 100


async def one_sent(world: World) -> None:
    """An email that has gone out."""
    reply = await world.call(
        "penguin.oltp.v1.EmailService/BatchCreateEmails", create_request(world.tenant, new_email())
    )
    await send(world.tier, world.tenant, reply.results[0].email.id)


async def changes(world: World) -> Any:
    """From the beginning, once the cursor stands above the change: it waits below every transaction still open."""
    await one_sent(world)
    request = pb.ListChangedDaysRequest(tenant_id=str(world.tenant))
    for _ in range(TRIES):
        if (await world.call(f"{SERVICE}/ListChangedDays", request)).days:
            return request
        await asyncio.sleep(0.05)
    raise AssertionError("the day never showed")


async def today(world: World) -> Any:
    await one_sent(world)
    return pb.CountDayRequest(tenant_id=str(world.tenant), day=datetime.now(UTC).date().isoformat())


def check_changes(request: Any, reply: Any) -> None:
    assert len(reply.days) == 1
    assert reply.next_cursor


class TestLedgerService(ServiceContract):
    service = SERVICE
    tiers = ("oltp",)
    cases = (
        Case(
            "ListChangedDays",
            changes,
            check_changes,
            ("cursor", lambda r: setattr(r, "cursor", "x" * 201)),
            "a tenant without emails has no days that changed",
            stranger=lambda reply: equal(list(reply.days), []),
        ),
        Case(
            "CountDay",
            today,
            lambda request, reply: equal([cell.sent for cell in reply.cells], [1]),
            ("day", lambda r: setattr(r, "day", "May")),
            Within(lambda r: setattr(r, "day", "2001-01-01"), lambda reply: equal(list(reply.cells), [])),
            stranger=lambda reply: equal(list(reply.cells), []),
        ),
    )
