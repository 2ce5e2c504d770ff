"""Erasures done again after a restore: a tier whose database was put back serves nobody until every order of the ledger was
carried out in it once more."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from typing import Any
from uuid import UUID

import grpc

from penguin.oltp.v1 import subject_service_pb2 as pb
from penguin.oltp.v1 import tenant_service_pb2 as tenant_pb
from penguin.oltp.v1.subject_service_pb2_grpc import SubjectServiceStub
from penguin.oltp.v1.tenant_service_pb2_grpc import TenantServiceStub
from penguin.tier.v1 import erasure_pb2 as tier_pb
from penguin.tier.v1 import tier_service_pb2 as status_pb
from penguin.tier.v1.tier_service_pb2_grpc import TierServiceStub
from penguin_orchestrator import keys
from penguin_orchestrator.clients import DEADLINE_S, Tier
from penguin_orchestrator.erasure_ledger import ERASE, ERASED, Entry, ErasureLedger, LedgerError
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.ledger_marks import look, mark
from penguin_orchestrator.sagas.carrying import SagaError, Sagas, SagaUnfinishedError
from penguin_orchestrator.sagas.subjects import KIND, TIERS

LEGAL_HOLD = "LEGAL_HOLD"
# Erasures, with their receipts and mentions, or holds in a page.
PAGE = 100


@dataclass
class Replayed:
    """What became of a replay: erasures carried out again, those that a hold or something else kept and why, tiers let in, and
    tenants that these refuse still: of theirs something else than a hold was kept."""

    erased: int = 0
    kept: dict[str, str] = field(default_factory=dict)
    ready: list[str] = field(default_factory=list)
    refused: set[UUID] = field(default_factory=set)


class Replay:
    """One replay of a ledger into the tiers that wait for it."""

    def __init__(self, tiers: Mapping[str, Tier], sagas: Sagas, ledger: ErasureLedger) -> None:
        self._tiers = tiers
        self._sagas = sagas
        self._ledger = ledger

    async def run(self, *, progress: Callable[[Replayed], Any] | None = None) -> Replayed:
        """Carry every order out again, and let the tiers in. Raises LedgerError (no tier is let in), TierError, SagaError: to be
        called again."""
        ledger = self._ledger
        await asyncio.to_thread(ledger.verify)
        waiting = await restoring(self._tiers, ledger)
        await self._hold_against_receipts()
        # What was carried out in another life of a tier says nothing of this one.
        lives = [f"{tier} {life}" for tier, life in sorted(waiting.items())] or [str(keys.new_id())]
        done = Replayed()
        carried_out = {each.erasure_id for each in await asyncio.to_thread(ledger.entries) if each.kind == ERASED}
        for order, known in await asyncio.to_thread(ledger.orders):
            if order.erasure_id in carried_out:
                await self._end_released(order, known, waiting)
            kept = await self._again(order, lives)
            if kept:
                done.kept[str(order.erasure_id)] = kept
                done.refused |= set() if kept == LEGAL_HOLD else {order.tenant_id}
            else:
                done.erased += 1
            if progress is not None:
                progress(done)
        # What was ordered since was carried out in this life in the first place.
        newest = (await asyncio.to_thread(ledger.entries))[-1:]
        for tier, incarnation in waiting.items():
            here = self._tiers[tier]
            request = tier_pb.MarkReplayedRequest(
                incarnation=incarnation, ledger=mark(newest[0] if newest else None),
                unreplayed_tenant_ids=sorted(map(str, done.refused)),
            )  # fmt: skip
            await here.insist(here.stub(TierServiceStub).MarkReplayed, request, deadline_s=DEADLINE_S)
            done.ready.append(tier)
        return done

    async def _hold_against_receipts(self) -> None:
        """Raise LedgerError where OLTP has receipts of what the ledger lacks. Older ones were given before tiers kept how far the
        ledger had come."""
        ordered = {e.erasure_id: e.digest for e in await asyncio.to_thread(self._ledger.entries) if e.kind == ERASE}
        async for tenant_id in _tenants(self._tiers["oltp"]):
            async for erasure in erasures(self._tiers["oltp"], tenant_id):
                head = ordered.get(UUID(erasure.id))
                if head is None or any(receipt.chain_head != head for receipt in erasure.receipts):
                    raise LedgerError(f"there are receipts of {erasure.id}, which the ledger lacks")

    async def _end_released(self, order: Entry, storage_keys: Sequence[str], waiting: Iterable[str]) -> None:
        """End holds on the person, or their contents, from before an order that was carried out: released by then, as the order
        would have been refused, they are back with an older backup."""
        for tier in waiting:
            here = self._tiers[tier]
            ids = [
                hold.id async for hold in holds(here, order.tenant_id)
                if (hold.subject == order.subject or hold.storage_key in storage_keys)
                and hold.created_at.ToDatetime(UTC) < order.at
            ]  # fmt: skip
            for each in ids:
                request = tier_pb.ReleaseLegalHoldRequest(
                    tenant_id=str(order.tenant_id), request_id=str(keys.new_id()), hold_id=each
                )
                try:
                    await here.insist(here.stub(TierServiceStub).ReleaseLegalHold, request, deadline_s=DEADLINE_S)
                except TierError as error:
                    if error.reason != "NOT_FOUND":  # another replay's
                        raise

    async def _again(self, order: Entry, lives: Sequence[str]) -> str:
        """Carry one order out in these lives of the tiers; why it was kept, or nothing.

        By a saga of its own: what an erasure from before the restore has done already is not in a restored database, whoever
        goes on with it. One that an earlier replay had refused is tried anew: the hold may have been released.
        """
        for number in itertools.count():
            subject = hashlib.sha256(" ".join((order.subject, *lives)).encode()).hexdigest()
            kept = await self._tried(order, keys.request_id("replay", order.erasure_id, *lives, number), subject)
            if kept is not None:
                return kept
        raise AssertionError

    async def _tried(self, order: Entry, saga_id: UUID, subject: str) -> str | None:
        """Carry one order out by this saga; why it was kept, or nothing. None where the saga was refused before."""
        found: list[str] = []
        try:
            await self._sagas.carry_out(
                KIND, order.tenant_id, {"erasure_id": str(order.erasure_id), "replay": True}, saga_id=saga_id,
                subject=subject, begun=lambda held: found.append(held.state),
            )  # fmt: skip
        except SagaError as error:
            if isinstance(error, SagaUnfinishedError):
                raise
            return None if found == ["compensated"] else _why(error)
        except TierError as error:
            if error.retryable or error.outcome_unknown:
                raise
            return error.reason
        except LedgerError:
            # Withdrawn since: whoever gave the order was told that nothing was done.
            if any(each.erasure_id == order.erasure_id for each, _ in self._ledger.orders()):
                raise
        return ""


def _why(error: SagaError) -> str:
    """What kept the person, in a word where it is a hold: of a saga that another process carried, or that is past its pivot,
    the steps tell."""
    held = error.held
    told = (held.last_error, *(record.last_error for record in held.records.values() if record.state != "done"))
    return LEGAL_HOLD if any(each.endswith(LEGAL_HOLD) for each in told) else str(error)


async def restoring(tiers: Mapping[str, Tier], ledger: ErasureLedger | None) -> dict[str, str]:
    """Tiers that wait for a replay, or with a tenant that does, with their incarnations; each is held against the ledger first,
    if there is one here. Raises TierError where one does not answer, LedgerError."""
    found: dict[str, str] = {}
    for tier in TIERS:
        here = tiers[tier]
        if ledger is not None:
            await look(here, ledger)
        status = await here.call(here.stub(TierServiceStub).GetStatus, status_pb.GetStatusRequest())
        if status.database != status_pb.DATABASE_STATE_UP:
            raise TierError(tier, grpc.StatusCode.UNAVAILABLE, "TIER_DB_DOWN", "The database does not answer.")
        if status.restoring or status.unreplayed_tenants:
            found[tier] = status.incarnation
    return found


async def holds(tier: Tier, tenant_id: UUID) -> AsyncIterator[tier_pb.LegalHold]:
    """A tier's holds of a tenant; raises TierError."""
    request = tier_pb.ListLegalHoldsRequest(tenant_id=str(tenant_id), page_size=PAGE)
    async for hold in _listed(tier, tier.stub(TierServiceStub).ListLegalHolds, request, "holds"):
        yield hold


async def erasures(oltp: Tier, tenant_id: UUID) -> AsyncIterator[pb.Erasure]:
    """What was erased of a tenant's people, with the tiers' receipts; raises TierError."""
    request = pb.ListErasuresRequest(tenant_id=str(tenant_id), page_size=PAGE)
    async for erasure in _listed(oltp, oltp.stub(SubjectServiceStub).ListErasures, request, "erasures"):
        yield erasure


async def _tenants(oltp: Tier) -> AsyncIterator[UUID]:
    request = tenant_pb.ListTenantsRequest(page_size=1000)
    async for tenant in _listed(oltp, oltp.stub(TenantServiceStub).ListTenants, request, "tenants"):
        yield UUID(tenant.id)


async def _listed(tier: Tier, method: Any, request: Any, items: str) -> AsyncIterator[Any]:
    """What a method tells page by page."""
    while True:
        page = await tier.call(method, request)
        for item in getattr(page, items):
            yield item
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token
