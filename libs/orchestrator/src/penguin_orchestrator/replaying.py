"""Erasures done again after a restore: a tier whose database was put back serves nobody until every order of the ledger was
carried out in it once more."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from penguin.tier.v1 import erasure_pb2 as tier_pb
from penguin.tier.v1 import tier_service_pb2 as status_pb
from penguin.tier.v1.tier_service_pb2_grpc import TierServiceStub
from penguin_orchestrator import keys
from penguin_orchestrator.clients import DEADLINE_S, Tier
from penguin_orchestrator.erasure_ledger import Entry, ErasureLedger, LedgerError
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.sagas.carrying import SagaError, Sagas, SagaUnfinishedError
from penguin_orchestrator.sagas.subjects import KIND, TIERS

LEGAL_HOLD = "LEGAL_HOLD"


@dataclass
class Replayed:
    """What became of a replay: erasures carried out again, those that a hold or something else kept and why, and tiers let
    in."""

    erased: int = 0
    kept: dict[str, str] = field(default_factory=dict)
    ready: list[str] = field(default_factory=list)


class Replay:
    """One replay of a ledger into the tiers that wait for it."""

    def __init__(self, tiers: Mapping[str, Tier], sagas: Sagas, ledger: ErasureLedger) -> None:
        self._tiers = tiers
        self._sagas = sagas
        self._ledger = ledger

    async def run(self, *, progress: Callable[[Replayed], Any] | None = None) -> Replayed:
        """Carry every order out again, and let the tiers in. Raises LedgerError (no tier is let in), TierError, SagaError: to be
        called again."""
        waiting = await restoring(self._tiers)
        await asyncio.to_thread(self._ledger.verify)
        # What was carried out in another life of a tier says nothing of this one.
        lives = [f"{tier} {life}" for tier, life in sorted(waiting.items())] or [str(keys.new_id())]
        done = Replayed()
        for order, _ in await asyncio.to_thread(self._ledger.orders):
            kept = await self._again(order, lives)
            if kept:
                done.kept[str(order.erasure_id)] = kept
            else:
                done.erased += 1
            if progress is not None:
                progress(done)
        for tier, incarnation in waiting.items():
            here = self._tiers[tier]
            request = tier_pb.MarkReplayedRequest(incarnation=incarnation)
            await here.insist(here.stub(TierServiceStub).MarkReplayed, request, deadline_s=DEADLINE_S)
            done.ready.append(tier)
        return done

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


async def restoring(tiers: Mapping[str, Tier]) -> dict[str, str]:
    """Tiers that wait for a replay, with their incarnations. Raises TierError where one does not answer."""
    found: dict[str, str] = {}
    for tier in TIERS:
        here = tiers[tier]
        status = await here.call(here.stub(TierServiceStub).GetStatus, status_pb.GetStatusRequest())
        if status.restoring:
            found[tier] = status.incarnation
    return found
