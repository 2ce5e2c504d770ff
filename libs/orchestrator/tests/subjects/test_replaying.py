"""Restores and what goes wrong around them: erasures half done, refused, stuck. Nobody comes back with a backup, and nobody's
case keeps a tier shut for all others."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import grpc
import pytest
from libs.orchestrator.tests.subjects.conftest import Town
from libs.orchestrator.tests.subjects.lives import MAILBOX

from penguin.tier.v1 import erasure_pb2
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.messages import OutgoingEmail
from penguin_orchestrator.replaying import Replayed
from penguin_orchestrator.sagas.carrying import SagaStuckError, SagaUnfinishedError

pytestmark = pytest.mark.timeout(120)

ADA = "ada@example.com"
BOB = "bob@example.com"


class KilledError(Exception):
    """The process that replays was ended."""


async def written_to(town: Town, *addresses: str) -> UUID:
    """A tenant who has written to these people."""
    tenant = await town.penguin.tenants.onboard("Acme")
    emails = [OutgoingEmail(each, MAILBOX, "Hi", text=f"Dear {each}") for each in addresses]
    await town.penguin.send_emails(tenant, emails)
    return tenant


async def contents(town: Town) -> int:
    connection = await town.superuser("content")
    try:
        return int(await connection.fetchval("SELECT count(*) FROM content_objects"))
    finally:
        await connection.close()


def failing(town: Town, monkeypatch: pytest.MonkeyPatch, tier: str, code: grpc.StatusCode, reason: str) -> None:
    """Have a tier erase nobody."""
    here = town.tiers[tier]
    inner = here.call

    async def call(method: Any, request: Any, **more: Any) -> Any:
        if isinstance(request, erasure_pb2.EraseSubjectRequest):
            raise TierError(tier, code, reason, "")
        return await inner(method, request, **more)

    monkeypatch.setattr(here, "call", call)


async def test_what_an_unfinished_erasure_did_before_the_restore_is_done_again(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = await written_to(town, ADA)
    backup, penguin = town.back_up("content"), town.penguin
    with monkeypatch.context() as away:
        failing(town, away, "notifications", grpc.StatusCode.UNAVAILABLE, "TIER_DB_DOWN")
        away.setitem(penguin.sagas.carry_out.__func__.__kwdefaults__, "patience_s", 0.5)  # type: ignore[attr-defined]
        with pytest.raises(SagaUnfinishedError):
            await penguin.subjects.erase(tenant, ADA)
    assert await contents(town) == 0
    await town.restore("content", backup)
    assert await contents(town) == 1
    await town.penguin.subjects.mark_restored("content")
    replayed = await town.penguin.subjects.replay()
    assert (replayed.erased, replayed.ready) == (1, ["content"])
    assert await contents(town) == 0


async def test_a_replay_is_called_again_after_a_hold_refused_one_of_it(town: Town) -> None:
    tenant = await written_to(town, ADA)
    subjects = town.penguin.subjects
    erasure = await subjects.erase(tenant, ADA)
    hold = await subjects.hold(tenant, "Case 7", address=ADA)
    await subjects.mark_restored("olap")

    def killed(_: Replayed) -> None:
        raise KilledError

    for _ in range(2):
        with pytest.raises(KilledError):
            await town.penguin.subjects.replay(progress=killed)
    again = await town.penguin.subjects.replay()
    assert (again.kept, again.ready) == ({erasure.id: "LEGAL_HOLD"}, ["olap"])
    await subjects.release(tenant, hold)
    await subjects.mark_restored("olap")
    released = await town.penguin.subjects.replay()
    assert (released.erased, released.kept, released.ready) == (1, {}, ["olap"])


async def test_a_stuck_erasure_keeps_no_tier_shut(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    tenant, other = await written_to(town, ADA), await written_to(town, BOB)
    with monkeypatch.context() as refusing:
        failing(town, refusing, "notifications", grpc.StatusCode.FAILED_PRECONDITION, "LEGAL_HOLD")
        with pytest.raises(SagaStuckError):
            await town.penguin.subjects.erase(tenant, ADA)
    await town.penguin.subjects.erase(other, BOB)
    await town.penguin.subjects.mark_restored("olap")
    replayed = await town.penguin.subjects.replay()
    assert (replayed.erased, replayed.kept, replayed.ready) == (2, {}, ["olap"])


async def test_what_was_refused_is_not_ordered_whoever_asked_beside(town: Town) -> None:
    tenant = await written_to(town, ADA)
    await town.penguin.subjects.hold(tenant, "Case 7", address=ADA)
    asked = [town.penguin.subjects.erase(tenant, ADA) for _ in range(6)]
    ended = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(each, Exception) for each in ended)
    assert town.penguin.subjects.ledger.orders() == []


async def test_who_joins_an_erasure_that_is_stuck_orders_no_other(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    tenant = await written_to(town, ADA)
    failing(town, monkeypatch, "notifications", grpc.StatusCode.FAILED_PRECONDITION, "LEGAL_HOLD")
    for _ in range(2):
        with pytest.raises(SagaStuckError):
            await town.penguin.subjects.erase(tenant, ADA)
    assert len(town.penguin.subjects.ledger.orders()) == 1
