"""Ledger and tiers held against each other: each tier keeps how far the ledger of erasures had come when it was last told. A
ledger behind that has lost records; a tier behind what every tier was told was put back to an older state."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from penguin.tier.v1 import erasure_pb2 as pb
from penguin.tier.v1.tier_service_pb2_grpc import TierServiceStub
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.erasure_ledger import Entry, ErasureLedger, LedgerError
from penguin_orchestrator.errors import TierError

log = logging.getLogger(__name__)

# Between looks (seconds): how long a tier that was put back, of which nobody said so, may be served.
WATCH_S = 5.0


def mark(entry: Entry | None) -> pb.LedgerMark:
    """A record, or none, on the wire."""
    return pb.LedgerMark() if entry is None else pb.LedgerMark(sequence=entry.sequence, head=entry.digest)


def telling(ledger: ErasureLedger, newest: Entry | None) -> pb.NoteLedgerRequest:
    """What a tier is told: a record, and the one that every tier was told of. Blocks. Raises LedgerError."""
    known = ledger.known()
    return pb.NoteLedgerRequest(ledger=mark(newest or known), known_sequence=0 if known is None else known.sequence)


def check(ledger: ErasureLedger, tier: str, noted: pb.LedgerMark) -> None:
    """Raise LedgerError where the ledger lacks what a tier was told of. Blocks."""
    entries = ledger.entries()
    if noted.sequence and (len(entries) < noted.sequence or entries[noted.sequence - 1].digest != noted.head):
        raise LedgerError(
            f"the ledger lacks record {noted.sequence}, which {tier} was told of: it is another, or lost some"
        )


async def look(here: Tier, ledger: ErasureLedger) -> bool:
    """Hold one tier and the ledger against each other; whether the tier waits for a replay by now. Raises LedgerError, TierError."""
    request = await asyncio.to_thread(telling, ledger, None)
    reply = await here.call(here.stub(TierServiceStub).NoteLedger, request)
    await asyncio.to_thread(check, ledger, here.name, reply.ledger)
    return bool(reply.restoring)


async def keep_looking(tiers: Mapping[str, Tier], ledger: ErasureLedger, every_s: float = WATCH_S) -> None:
    """Look at every tier until cancelled."""
    told: dict[str, str] = {}
    while True:
        await look_at_all(tiers, ledger, told)
        await asyncio.sleep(every_s)


async def look_at_all(tiers: Mapping[str, Tier], ledger: ErasureLedger, told: dict[str, str]) -> None:
    """Look at every tier that answers. What is found is logged once: `told`, by tier, is what was."""
    for name, here in tiers.items():
        try:
            found = "waits for erasures to be replayed" if await look(here, ledger) else ""
        except LedgerError as error:
            found = str(error)
        except TierError:
            continue
        if found and told.get(name) != found:
            log.error("%s: %s", name, found)
        told[name] = found
