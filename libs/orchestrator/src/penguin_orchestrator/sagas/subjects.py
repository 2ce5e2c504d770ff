"""The saga that erases a person. What is to be erased stands in the ledger, not in the journal: the saga's input names the
record. Once the address is barred there is no way back, only on."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any
from uuid import UUID

import orjson

from penguin.oltp.v1 import saga_service_pb2 as saga_pb
from penguin.oltp.v1 import subject_service_pb2 as pb
from penguin.oltp.v1.saga_service_pb2_grpc import SagaServiceStub
from penguin.oltp.v1.subject_service_pb2_grpc import SubjectServiceStub
from penguin.tier.v1 import erasure_pb2 as tier_pb
from penguin.tier.v1 import key_service_pb2 as key_pb
from penguin.tier.v1 import tier_service_pb2 as status_pb
from penguin.tier.v1.key_service_pb2_grpc import KeyServiceStub
from penguin.tier.v1.tier_service_pb2_grpc import TierServiceStub
from penguin_orchestrator.erasure_ledger import (
    KNOWN,
    WITHDRAWN,
    Entry,
    ErasureLedger,
    LedgerAwayError,
    LedgerError,
    ended,
    numbered,
)
from penguin_orchestrator.erasure_receipts import digest
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.ledger_marks import check, telling
from penguin_orchestrator.sagas.deeds import Deed, RefusedError
from penguin_orchestrator.sagas.definition import Act, Definition, Step
from penguin_orchestrator.sagas.exports import EXPORT
from penguin_orchestrator.sagas.leads import IMPORT

KIND = "subject.erase"
TIERS = ("oltp", "content", "olap", "queue", "notifications")
# Kinds of sagas whose files may name people, and where their input names the first.
FILES = {IMPORT.kind: "key", EXPORT.kind: "order"}
# Items in a page and keys in a call.
PAGE = 500
# What is kept of a tier's mentions with its receipt (bytes, roughly): the others are counted.
MENTIONED_BYTES = 40_000


class Erasing:
    """The saga's steps over one ledger."""

    def __init__(self, ledger: ErasureLedger) -> None:
        self._ledger = ledger

    def definition(self) -> Definition:
        """Held? No way back from `suppress`. Content and the others before OLTP: it knows what is whose until then."""
        others = tuple(tier for tier in TIERS if tier != "oltp")
        return Definition(
            KIND, 1,
            (
                Step("order", "oltp", self.order, self.withdraw),
                Step("holds", "oltp", self.holds, pure=True),
                Step("suppress", "oltp", self.suppress, self.suppress, pivot=True),
                Step("collect", "oltp", self.collect),
                *(Step(tier, tier, self.erase(tier), after=("collect",)) for tier in others),
                Step("oltp", "oltp", self.erase("oltp"), after=others),
                Step("receipts", "oltp", self.receipts, after=("oltp",)),
            ),
        )  # fmt: skip

    async def _ordered(self, deed: Deed) -> tuple[Entry, list[str]]:
        return await asyncio.to_thread(self._ledger.order, UUID(deed.input["erasure_id"]))

    async def order(self, deed: Deed) -> Mapping[str, Any]:
        """The order was written before the saga began; read it again, as whoever goes on must be able to. OLTP is told of it;
        refused where the ledger lacks what OLTP was told before."""
        try:
            order, _ = await self._ordered(deed)
        except LedgerAwayError:
            raise
        except LedgerError as error:
            raise RefusedError("the ledger has no such erasure") from error
        try:
            await self._tell(deed, order, ("oltp",))
        except LedgerAwayError:
            raise
        except LedgerError as error:
            raise RefusedError("the ledger lacks records") from error
        return {"chain_head": order.digest}

    async def _tell(self, deed: Deed, entry: Entry, tiers: Sequence[str] = TIERS) -> None:
        """Tell tiers of a record of the ledger, once more or not. Raises LedgerError, TierError."""
        for tier in tiers:
            request = await asyncio.to_thread(telling, self._ledger, entry)
            reply = await deed.call(tier, TierServiceStub, "NoteLedger", request, as_platform=True)
            await asyncio.to_thread(check, self._ledger, tier, reply.ledger)

    async def withdraw(self, deed: Deed) -> None:
        """It was refused: a replay must not carry it out. Nothing is withdrawn that was carried out before."""
        if deed.input.get("replay"):
            return
        try:
            order, _ = await self._ordered(deed)
        except LedgerAwayError:
            raise
        except LedgerError:
            return
        await asyncio.to_thread(self._ledger.append, ended(order, WITHDRAWN))

    async def holds(self, deed: Deed) -> None:
        """Refused where any tier keeps the subject, or Content one of the keys, by a legal hold."""
        order, known = await self._ordered(deed)
        tenant_id = str(deed.tenant_id)
        for tier in TIERS:
            request = tier_pb.CheckErasureRequest(tenant_id=tenant_id, subject=order.subject)
            await deed.call(tier, TierServiceStub, "CheckErasure", request)
        async for keys in _pages(self._keys(deed, order, known)):
            for tier in ("content", "oltp"):
                request = tier_pb.CheckErasureRequest(tenant_id=tenant_id, subject=order.subject, storage_keys=keys)
                await deed.call(tier, TierServiceStub, "CheckErasure", request)

    async def _items(self, deed: Deed, order: Entry) -> AsyncIterator[pb.SubjectItem]:
        request = pb.ListSubjectItemsRequest(tenant_id=str(deed.tenant_id), address=order.address, page_size=PAGE)
        while True:
            page = await deed.call("oltp", SubjectServiceStub, "ListSubjectItems", request)
            for item in page.items:
                yield item
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def _keys(self, deed: Deed, order: Entry, known: Sequence[str]) -> AsyncIterator[str]:
        for key in known:
            yield key
        async for item in self._items(deed, order):
            yield item.storage_key

    async def suppress(self, deed: Deed) -> Mapping[str, Any]:
        """Nobody writes to them from here on."""
        order, _ = await self._ordered(deed)
        request = pb.SuppressSubjectRequest(
            tenant_id=str(deed.tenant_id), erasure_id=str(order.erasure_id), subject=order.subject,
            subject_key=self._ledger.subject_key(deed.tenant_id), address=order.address,
        )  # fmt: skip
        reply = await deed.ask("oltp", SubjectServiceStub, "SuppressSubject", request)
        return {"cancelled": reply.cancelled, "own": [[m.table, m.key, m.place] for m in reply.own]}

    async def collect(self, deed: Deed) -> Mapping[str, Any]:
        """Write the keys that are theirs to the ledger, while OLTP still knows."""
        order, known = await self._ordered(deed)
        seen, cancelled = set(known), 0
        new: list[str] = []
        async for item in self._items(deed, order):
            cancelled += item.cancelled
            if item.storage_key not in seen:
                seen.add(item.storage_key)
                new.append(item.storage_key)
            if len(new) == PAGE:
                await self._write_down(deed, new)
                new = []
        await self._write_down(deed, new)
        return {"contents": len(seen), "cancelled": cancelled}

    async def _write_down(self, deed: Deed, keys: list[str]) -> None:
        """Add those that are not in the ledger. Parts are numbered by how many keys come before them: where a replay of the same
        order had the number first, what it wrote is read, and the rest follows it."""
        while True:
            order, known = await self._ordered(deed)
            keys = [key for key in keys if key not in set(known)]
            if not keys:
                return
            await asyncio.to_thread(self._ledger.append, numbered(order, len(known), tuple(keys)))

    def erase(self, tier: str) -> Act:
        """One tier's part: first what is known by key, then what is to be looked for."""

        async def act(deed: Deed) -> Mapping[str, Any]:
            order, keys = await self._ordered(deed)
            told = _Told()
            if tier == "content":
                for n in range(0, len(keys), PAGE):
                    await self._erase(deed, tier, order, told, storage_keys=keys[n : n + PAGE])
                # What sagas began with goes first: one that stores a file after it was looked for finds that gone, and the file
                # is its own to remove.
                for minted in (False, True):
                    lists = [key async for key in _files(deed, minted=minted)]
                    for n in range(0, len(lists), PAGE):
                        await self._erase(deed, tier, order, told, list_keys=lists[n : n + PAGE])
            if tier == "queue":
                ids = [i.email_id async for i in self._items(deed, order) if i.cancelled and i.email_id]
                for n in range(0, len(ids), PAGE):
                    await self._erase(deed, tier, order, told, email_ids=ids[n : n + PAGE])
            await self._erase(deed, tier, order, told)
            if tier == "content" and deed.input.get("replay"):
                await self._erase_deleted(deed, order, told)
            return told.result()

        return act

    async def _erase_deleted(self, deed: Deed, order: Entry, told: _Told) -> None:
        """Contents that name the person and that nobody refers to: deleted since the backup that brought them back, as a letter
        of theirs may have been before the erasure, so that the ledger has no key of it. Where Content serves nobody, nobody
        can have put them just now; and where OLTP waits for its own replay, what it says of references is no evidence."""
        status = await deed.call("content", TierServiceStub, "GetStatus", status_pb.GetStatusRequest())
        if not status.restoring:
            return
        named = sorted(told.contents)
        for keys in (named[n : n + PAGE] for n in range(0, len(named), PAGE)):
            request = key_pb.FindKeysRequest(tenant_id=str(deed.tenant_id), keys=keys)
            try:
                reply = await deed.call("oltp", KeyServiceStub, "FindKeys", request)
            except TierError as error:
                if error.reason != "RESTORE_NOT_REPLAYED":
                    raise
                return
            for key in sorted(set(keys).difference(each.key for each in reply.found)):
                try:
                    await self._erase(deed, "content", order, told, storage_keys=[key])
                except TierError as error:
                    if error.reason != "LEGAL_HOLD":
                        raise
                else:
                    told.forget(key)

    async def _erase(self, deed: Deed, tier: str, order: Entry, told: _Told, **known: Sequence[str]) -> None:
        cursor = ""
        while True:
            request = tier_pb.EraseSubjectRequest(
                tenant_id=str(deed.tenant_id), erasure_id=str(order.erasure_id), subject=order.subject,
                address=order.address, chain_head=order.digest, cursor=cursor,
                storage_keys=known.get("storage_keys", ()), email_ids=known.get("email_ids", ()),
                list_keys=known.get("list_keys", ()),
            )  # fmt: skip
            parts = [cursor, *(each for name in known for each in known[name]), *known.keys() & {"list_keys"}]
            reply = await deed.call(tier, TierServiceStub, "EraseSubject", request, tier, *parts)
            told.add(reply)
            cursor = reply.cursor
            if not cursor:
                return

    async def receipts(self, deed: Deed) -> Mapping[str, Any]:
        """Keep what the tiers said, and of whose part was skipped who said so in its place; and that each has done it, in the
        ledger, of which each is told: one that is put back to before this is known by it. The ledger has the digest of the receipts
        before OLTP has them, whoever dies between."""
        order, _ = await self._ordered(deed)
        request = pb.RecordErasureRequest(
            tenant_id=str(deed.tenant_id), erasure_id=str(order.erasure_id), subject=order.subject
        )
        for tier in TIERS:
            # Of a tier whose part was skipped nothing is known but who answers for it.
            told: dict[str, Any] = {"counts": {}, "mentions": [], "mentioned": 0, **deed.results[tier]}
            receipt = request.receipts.add(
                tier=tier, erasure_id=str(order.erasure_id), subject=order.subject, chain_head=order.digest,
                counts=told["counts"], skipped_by=_answering(deed, tier)[:200],
            )  # fmt: skip
            if "erased_at" in told:
                receipt.erased_at.FromJsonString(told["erased_at"])
            mentions = [tier_pb.Mention(table=t, key=k, place=p) for t, k, p in told["mentions"]]
            request.mentions.add(tier=tier, mentions=mentions, total=told["mentioned"])
        erased = await asyncio.to_thread(self._ledger.carried_out, order, digest(request))
        await deed.call("oltp", SubjectServiceStub, "RecordErasure", request)
        await self._tell(deed, erased)
        await asyncio.to_thread(self._ledger.append, ended(order, KNOWN))
        return {"recorded": True}


def _answering(deed: Deed, tier: str) -> str:
    """Who answers for a tier's part; nobody where the tier does. Content is told its keys by what was collected."""
    by = deed.skipped.get(tier, "")
    return by or (deed.skipped.get("collect", "") if tier == "content" else "")


async def _files(deed: Deed, *, minted: bool) -> AsyncIterator[str]:
    """Keys of files in which people stand: those that sagas began with (imported leads, orders of exports), or those that were
    minted for what they made (reports of what was left out, exports)."""
    for kind, field in FILES.items():
        request = saga_pb.ListSagasRequest(tenant_id=str(deed.tenant_id), kind=kind, page_size=PAGE)
        while True:
            page = await deed.call("oltp", SagaServiceStub, "ListSagas", request)
            for saga in page.sagas:
                if not minted:
                    yield orjson.loads(saga.input)[field]
                    continue
                asked = saga_pb.GetSagaRequest(tenant_id=saga.tenant_id, saga_id=saga.id)
                found = await deed.call("oltp", SagaServiceStub, "GetSaga", asked)
                for step in found.saga.steps:
                    for key in orjson.loads(step.keys or b"{}").values():
                        yield key
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token


class _Told:
    """What a tier has said so far."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._mentions: list[list[str]] = []
        self._total = self._bytes = 0
        self._at = ""
        # Contents among the mentions, and how often each is.
        self.contents: Counter[str] = Counter()

    def add(self, reply: tier_pb.EraseSubjectResponse) -> None:
        for table, count in reply.receipt.counts.items():
            self._counts[table] = self._counts.get(table, 0) + count
        for mention in reply.mentions:
            self._bytes += mention.ByteSize() + 12
            if self._bytes <= MENTIONED_BYTES:
                self._mentions.append([mention.table, mention.key, mention.place])
        self.contents.update(each.key for each in reply.mentions if each.table == "content_objects")
        self._total += len(reply.mentions)
        self._at = reply.receipt.erased_at.ToJsonString()

    def forget(self, key: str) -> None:
        """This content is gone after all."""
        self._total -= self.contents.pop(key, 0)
        self._mentions = [each for each in self._mentions if each[:2] != ["content_objects", key]]

    def result(self) -> dict[str, Any]:
        return {"counts": self._counts, "mentions": self._mentions, "mentioned": self._total, "erased_at": self._at}


async def _pages(keys: AsyncIterator[str]) -> AsyncIterator[list[str]]:
    page: list[str] = []
    async for key in keys:
        page.append(key)
        if len(page) == PAGE:
            yield page
            page = []
    if page:
        yield page
