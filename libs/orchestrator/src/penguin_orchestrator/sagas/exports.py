"""The saga that exports a person: each tier's records into a file of its own in Content, where whoever asked for it fetches
them. Whom it is about stands in a file as well, the order, and not in the journal."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import grpc
import orjson

from penguin.oltp.v1 import subject_service_pb2 as pb
from penguin.oltp.v1.subject_service_pb2_grpc import SubjectServiceStub
from penguin.tier.v1 import erasure_pb2 as tier_pb
from penguin.tier.v1.tier_service_pb2_grpc import TierServiceStub
from penguin_orchestrator import blobs, keys
from penguin_orchestrator.blobs import File
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.sagas import files
from penguin_orchestrator.sagas.deeds import Deed
from penguin_orchestrator.sagas.definition import Act, Definition, Step

KIND = "subject.export"
TIERS = ("oltp", "content", "olap", "queue", "notifications")
# Items in a page and keys in a call.
PAGE = 500
EXPORT_S = 300.0
# How long an order waits for its export to end, and its files to be fetched; then reconcile removes them.
KEPT = timedelta(days=7)
# A tier's records in one file, at most (bytes): below what an attachment may have.
FILE_BYTES = 60 * 1024 * 1024
LINES = "application/jsonl"
# Why a tier's file is not there: the person, or who asked for it, was erased meanwhile; or it would be too large.
GONE, TOO_LARGE = "ORDER_GONE", "TOO_LARGE"


@dataclass(frozen=True)
class Exported:
    """One record of an export, or, without a record, why a tier told nothing (any more)."""

    tier: str
    table: str
    key: str
    record: bytes
    missing: str = ""

    def line(self) -> bytes:
        """One line of JSON."""
        if self.missing:
            return orjson.dumps({"tier": self.tier, "missing": self.missing}) + b"\n"
        told = {"tier": self.tier, "table": self.table, "key": self.key, "record": orjson.Fragment(self.record)}
        return orjson.dumps(told) + b"\n"


async def items(oltp: Tier, tenant_id: UUID, address: str) -> AsyncIterator[pb.SubjectItem]:
    """The person's emails and messages, with the keys of their contents; raises TierError."""
    request = pb.ListSubjectItemsRequest(tenant_id=str(tenant_id), address=address, page_size=PAGE)
    method = oltp.stub(SubjectServiceStub).ListSubjectItems
    while True:
        page = await oltp.call(method, request)
        for item in page.items:
            yield item
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


async def records(
    tiers: Mapping[str, Tier], tier: str, tenant_id: UUID, address: str, storage_keys: Sequence[str]
) -> AsyncIterator[Exported]:
    """All that a tier holds of the person, the contents of these keys included; raises TierError (CUT_SHORT: there is more)."""
    here = tiers[tier]
    keyed = storage_keys if tier == "content" else ()
    for part in [keyed[n : n + PAGE] for n in range(0, len(keyed), PAGE)] or [()]:
        request = tier_pb.ExportSubjectRequest(tenant_id=str(tenant_id), address=address, storage_keys=part)
        complete = False
        async for told in here.stream(here.stub(TierServiceStub).ExportSubject, request, timeout=EXPORT_S):
            complete = told.complete
            if not complete:
                yield Exported(tier, told.table, told.key, told.record)
        if not complete:
            raise TierError(tier, grpc.StatusCode.DATA_LOSS, "CUT_SHORT", "the stream ended before all was told")


async def _ordered(deed: Deed) -> str:
    """Whom it is about; nothing where the order is gone."""
    try:
        data = await blobs.download_attachment(deed.tiers["content"], deed.tenant_id, deed.input["order"], 0)
    except TierError as error:
        if error.reason != "NOT_FOUND":
            raise
        return ""
    return data.decode()


async def _check(deed: Deed) -> None:
    """Whether it is about an address at all."""
    if address := await _ordered(deed):
        request = pb.ListSubjectItemsRequest(tenant_id=str(deed.tenant_id), address=address, page_size=1)
        await deed.call("oltp", SubjectServiceStub, "ListSubjectItems", request)


async def _drop_order(deed: Deed) -> None:
    """It holds the address, and has been read."""
    await files.drop(deed, deed.input["order"])


def _export(tier: str) -> Act:
    async def act(deed: Deed) -> Mapping[str, Any]:
        """The tier's records into a file. Who stored it first has stored it: it is whole."""
        content, key = deed.tiers["content"], deed.keys["file"]
        address = await _ordered(deed)
        if address:
            data = await _lines(deed, tier, address)
            if data is None:
                return {"missing": TOO_LARGE}
            if not data:
                return {}  # it holds nothing of theirs
            file = File(f"{tier}.jsonl", LINES, data)
            try:
                await blobs.put_file(content, deed.tenant_id, key, str(keys.new_id()), file, KEPT, as_platform=True)
            except TierError as error:
                if error.reason != "ALREADY_EXISTS":
                    raise
            # An erasure takes the order before it looks for files: one that came by meanwhile has missed this one.
            if await _ordered(deed):
                return {"key": key}
        await files.drop(deed, key)
        return {"missing": GONE}

    return act


async def _lines(deed: Deed, tier: str, address: str) -> bytes | None:
    """The tier's records, a line of JSON each, after one that names the person: an erasure finds files by it, whatever they
    tell. None where they are too many for a file."""
    theirs: list[str] = []
    if tier == "content":
        theirs = [item.storage_key async for item in items(deed.tiers["oltp"], deed.tenant_id, address)]
    lines, size = [orjson.dumps({"of": address}) + b"\n"], 0
    async for record in records(deed.tiers, tier, deed.tenant_id, address, theirs):
        lines.append(record.line())
        size += len(lines[-1])
        if size > FILE_BYTES:
            return None
    return b"".join(lines) if len(lines) > 1 else b""


async def stored(content: Tier, tenant_id: UUID, key: str) -> AsyncIterator[Exported]:
    """The records of a tier's file; raises TierError (NOT_FOUND: it was fetched, erased, or has had its time)."""
    rest, named = b"", False
    async for chunk in blobs.attachment_chunks(content, tenant_id, key, 0):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            told = orjson.loads(line)
            if named:
                yield Exported(told["tier"], told["table"], told["key"], orjson.dumps(told["record"]))
            named = True


EXPORT = Definition(
    KIND,
    1,
    (
        # Nothing is done before it but the order stored.
        Step("check", "content", _check, _drop_order, pivot=True),
        *(Step(tier, tier, _export(tier), after=("check",), mints={"file": keys.storage_key}) for tier in TIERS),
        Step("clear", "content", _drop_order, after=TIERS, tidies=True),
    ),
)
