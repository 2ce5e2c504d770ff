"""Erased people between wire and domain."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

from penguin.oltp.v1 import subject_service_pb2 as pb
from penguin.tier.v1 import erasure_pb2 as tier_pb
from penguin_chassis.tier_subjects import mention
from penguin_chassis.wire import stamp, text, when
from penguin_oltp.domain.subjects import Erasure, Export, Item, Receipt

__all__ = ["erasure", "export", "fitting", "item", "mention", "new_erasure", "new_export", "place"]


# What of erasures goes into one reply (bytes): below a message's limit.
REPLY_LIMIT = 3 * 1024 * 1024


def place(key: list[Any]) -> tuple[str, UUID]:
    """Where a page of items begins; raises ValueError."""
    kind, after = key
    if kind not in {"emails", "messages"}:
        raise ValueError(kind)
    return kind, UUID(after)


def item(found: Item) -> pb.SubjectItem:
    """An email or a message."""
    wire = pb.SubjectItem(storage_key=found.storage_key, cancelled=found.cancelled)
    if found.email_id is not None:
        wire.email_id = text(found.email_id)
    else:
        wire.inbox_message_id = text(found.message_id)
    return wire


def new_erasure(request: pb.RecordErasureRequest, at: datetime) -> Erasure:
    """What is to be recorded; each tier once."""
    mentions = {each.tier: each for each in request.mentions}
    receipts = {r.tier: _receipt(r, mentions.get(r.tier), at) for r in request.receipts}
    return Erasure(UUID(request.tenant_id), UUID(request.erasure_id), request.subject, at, tuple(receipts.values()))


def _receipt(receipt: tier_pb.ErasureReceipt, found: pb.TierMentions | None, at: datetime) -> Receipt:
    places = [(m.table, m.key, m.place) for m in found.mentions] if found is not None else []
    return Receipt(
        receipt.tier, dict(receipt.counts), receipt.chain_head, when(receipt, "erased_at") or at, places,
        found.total if found is not None else 0, receipt.skipped_by,
    )  # fmt: skip


def erasure(found: Erasure) -> pb.Erasure:
    """An erasure with its receipts."""
    wire = pb.Erasure(
        id=str(found.id), tenant_id=str(found.tenant_id), subject=found.subject, recorded_at=stamp(found.recorded_at)
    )
    for receipt in found.receipts:
        wire.receipts.add(
            tier=receipt.tier, erasure_id=wire.id, subject=found.subject, counts=receipt.counts,
            chain_head=receipt.chain_head, erased_at=stamp(receipt.erased_at), skipped_by=receipt.skipped_by,
        )  # fmt: skip
        if receipt.mentioned:
            places = [tier_pb.Mention(table=t, key=k, place=p) for t, k, p in receipt.mentions]
            wire.mentions.add(tier=receipt.tier, mentions=places, total=receipt.mentioned)
    return wire


def new_export(request: pb.RecordExportRequest, actor: str, at: datetime) -> Export:
    """What is to be put on record."""
    return Export(UUID(request.tenant_id), UUID(request.export_id), request.subject, actor, at)


def export(found: Export) -> pb.SubjectExport:
    """Who had whose data exported."""
    return pb.SubjectExport(
        id=str(found.id), tenant_id=str(found.tenant_id), subject=found.subject, actor=found.actor,
        asked_at=stamp(found.asked_at),
    )  # fmt: skip


def fitting(found: Iterable[Erasure]) -> list[pb.Erasure]:
    """Erasures as far as they go into one reply; the first in any case."""
    shown: list[pb.Erasure] = []
    size = 0
    for each in found:
        wire = erasure(each)
        size += wire.ByteSize()
        if shown and size > REPLY_LIMIT:
            break
        shown.append(wire)
    return shown
