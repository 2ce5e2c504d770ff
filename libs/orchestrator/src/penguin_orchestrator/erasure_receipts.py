"""What the ledger of erasures keeps of receipts: a digest of all that the tiers' receipts of one erasure say. OLTP, which has the
receipts themselves, cannot change one unseen then."""

from __future__ import annotations

import hashlib
from datetime import UTC
from typing import Any

import orjson

from penguin.oltp.v1 import subject_service_pb2 as pb
from penguin.tier.v1 import erasure_pb2 as tier_pb


def digest(told: pb.RecordErasureRequest | pb.Erasure) -> str:
    """SHA-256 (hex) of the receipts with their mentions: the same for what is to be recorded and for what is read of it."""
    mentions = {each.tier: each for each in told.mentions if each.total}
    receipts = sorted((_plain(each, mentions.get(each.tier)) for each in told.receipts), key=lambda each: each["tier"])
    return hashlib.sha256(orjson.dumps(receipts, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _plain(receipt: tier_pb.ErasureReceipt, found: pb.TierMentions | None) -> dict[str, Any]:
    # A tier that was skipped has not said when: OLTP puts the time at which it was told.
    at = "" if receipt.skipped_by else receipt.erased_at.ToDatetime(UTC).isoformat(timespec="microseconds")
    return {
        "tier": receipt.tier, "erasure_id": receipt.erasure_id, "subject": receipt.subject,
        "chain_head": receipt.chain_head, "counts": dict(receipt.counts), "erased_at": at,
        "skipped_by": receipt.skipped_by, "mentioned": 0 if found is None else found.total,
        "mentions": [] if found is None else [[each.table, each.key, each.place] for each in found.mentions],
    }  # fmt: skip
