"""Imports mail into an inbox: the raw source into Content, a reference into OLTP. Run again, it imports what is missing.

Content keeps the raw source as it came and derives the parts; here only what the inbox lists is read from the headers.
"""

from __future__ import annotations

import asyncio
import email.utils
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.errors import MessageError
from email.header import decode_header, make_header
from email.message import Message
from email.parser import BytesHeaderParser
from uuid import UUID

from penguin.content.v1 import content_service_pb2 as content_pb
from penguin.content.v1.content_service_pb2_grpc import ContentServiceStub
from penguin.oltp.v1 import inbox_service_pb2 as inbox_pb
from penguin.oltp.v1.inbox_service_pb2_grpc import InboxServiceStub
from penguin_chassis.parting import parted
from penguin_orchestrator import keys
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import first_failure
from penguin_orchestrator.mailsources import Source

BATCH_ITEMS = 100
BATCH_BYTES = 2_500_000
# Batches on their way at once.
PARALLEL = 3
CLAIM_WITHIN = timedelta(hours=6)
DEADLINE_S = 60.0
HEADER_LIMIT = 990
# A header is cut to this before it is decoded: decoding takes time that grows with the square of the length.
RAW_HEADER_LIMIT = 8 * HEADER_LIMIT
PROBLEMS_KEPT = 1000
DEFECTS_KEPT, DEFECT_LENGTH = 20, 200
_MESSAGE_ID = re.compile(r"<[^<>\s]{1,900}>")
# The address in a From, as OLTP reads it (address_of): what stands in the last angle brackets, or else the first that looks like one.
_BRACKETED = re.compile(r"<([^<>]+)>[^<>]*$")
_BARE = re.compile(r'[^\s<>(),;:"]+@[^\s<>(),;:"]+')
_parser = BytesHeaderParser()


@dataclass
class Imported:
    """What an import did so far. `problems` names the messages left out, and why; `odd` those imported in spite of their
    defects, and which (the first 1,000 of each)."""

    seen: int = 0
    imported: int = 0
    existed: int = 0
    malformed: int = 0
    refused: int = 0
    bytes: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)
    odd: list[tuple[str, str]] = field(default_factory=list)

    def keep(self, name: str, size: int, defects: Sequence[str]) -> None:
        """Count a message that was imported (size in bytes)."""
        self.imported += 1
        self.bytes += size
        if defects:
            self.malformed += 1
            if len(self.odd) < PROBLEMS_KEPT:
                self.odd.append((name, ", ".join(defects)))

    def refuse(self, name: str, problem: str) -> None:
        """Count a message that was left out."""
        self.refused += 1
        if len(self.problems) < PROBLEMS_KEPT:
            self.problems.append((name, problem))


@dataclass(frozen=True)
class _Item:
    source: Source
    fingerprint: str
    key: str
    id: UUID
    # What Content could not parse of it.
    defects: tuple[str, ...] = ()


class Importer:
    """Imports mail for any tenant."""

    def __init__(self, content: Tier, oltp: Tier) -> None:
        self._content = content
        self._oltp = oltp

    async def run(
        self,
        tenant_id: UUID,
        mailbox: str,
        sources: Iterable[Source],
        *,
        progress: Callable[[Imported], None] | None = None,
    ) -> Imported:
        """Import messages as received in `mailbox`. Malformed mail is imported as far as it can be read.

        Raises TierError when a tier stays away for a minute; what was imported until then stands, and a second run
        takes up from there.
        """
        done = Imported()
        places = asyncio.Semaphore(PARALLEL)

        async def carry(batch: list[Source]) -> None:
            try:
                await self._batch(tenant_id, mailbox, batch, done)
            finally:
                places.release()
            if progress is not None:
                progress(done)

        async with first_failure(), asyncio.TaskGroup() as group:
            batches = _batches(sources, done)
            # Reading waits for the disk and unpacks: off the loop.
            while (batch := await asyncio.to_thread(next, batches, None)) is not None:
                await places.acquire()
                group.create_task(carry(batch))
        return done

    async def _batch(self, tenant_id: UUID, mailbox: str, batch: list[Source], done: Imported) -> None:
        by_fingerprint = {hashlib.sha256(source.raw).hexdigest(): source for source in batch}
        find = inbox_pb.FindFingerprintsRequest(
            tenant_id=str(tenant_id), mailbox=mailbox, fingerprints=list(by_fingerprint)
        )
        service = self._oltp.stub(InboxServiceStub)
        found = set((await self._oltp.insist(service.FindFingerprints, find, deadline_s=DEADLINE_S)).found)
        done.existed += len(found) + len(batch) - len(by_fingerprint)
        items = [
            _Item(source, fingerprint, keys.storage_key(), keys.new_id())
            for fingerprint, source in by_fingerprint.items()
            if fingerprint not in found
        ]
        if items:
            # Both sides file a letter under one generation, though an hour may end in between.
            generation = keys.generation()
            stored = await self._put(tenant_id, generation, items, done)
            await self._refer(tenant_id, mailbox, generation, stored, done)

    async def _put(self, tenant_id: UUID, generation: int, items: list[_Item], done: Imported) -> list[_Item]:
        request = content_pb.BatchPutContentsRequest(
            tenant_id=str(tenant_id),
            generation=generation,
            contents=[
                content_pb.NewContent(request_id=str(keys.new_id()), storage_key=item.key, raw=item.source.raw)
                for item in items
            ],
        )
        request.claim_by.FromDatetime(datetime.now(UTC) + CLAIM_WITHIN)
        method = self._content.stub(ContentServiceStub).BatchPutContents
        reply = await self._content.insist(method, request, deadline_s=DEADLINE_S)
        stored: list[_Item] = []
        for item, result in zip(items, reply.results, strict=True):
            if result.WhichOneof("outcome") == "error":
                done.refuse(item.source.name, result.error.message)
            else:
                stored.append(replace(item, defects=tuple(result.content.defects)))
        return stored

    async def _refer(self, tenant_id: UUID, mailbox: str, generation: int, items: list[_Item], done: Imported) -> None:
        if not items:
            return
        at = datetime.now(UTC)
        request = inbox_pb.BatchCreateInboxMessagesRequest(
            tenant_id=str(tenant_id),
            content_generation=generation,
            messages=[
                reference(item.source.raw, item.fingerprint, item.key, item.id, mailbox, at, item.defects)
                for item in items
            ],
        )
        request.content_claim_by.FromDatetime(at + CLAIM_WITHIN)
        method = self._oltp.stub(InboxServiceStub).BatchCreateInboxMessages
        reply = await self._oltp.insist(method, request, deadline_s=DEADLINE_S)
        unused: list[str] = []
        for item, message, result in zip(items, request.messages, reply.results, strict=True):
            if result.WhichOneof("outcome") == "error":
                done.refuse(item.source.name, f"{result.error.field}: {result.error.message}")
                unused.append(item.key)
            elif result.message.existed:
                done.existed += 1
                unused.append(item.key)
            else:
                done.keep(item.source.name, len(item.source.raw), message.defects)
        if unused:
            undo = content_pb.DeleteContentsRequest(
                tenant_id=str(tenant_id), request_id=str(keys.new_id()), storage_keys=unused, unclaimed_only=True
            )
            await self._content.insist(
                self._content.stub(ContentServiceStub).DeleteContents, undo, deadline_s=DEADLINE_S
            )


def _batches(sources: Iterable[Source], done: Imported) -> Iterator[list[Source]]:
    return parted(_sound(sources, done), lambda source: len(source.raw), BATCH_BYTES, BATCH_ITEMS)


def _sound(sources: Iterable[Source], done: Imported) -> Iterator[Source]:
    for source in sources:
        done.seen += 1
        if source.problem:
            done.refuse(source.name, source.problem)
        else:
            yield source


def reference(
    raw: bytes,
    fingerprint: str,
    key: str,
    identifier: UUID,
    mailbox: str,
    at: datetime,
    of_body: Sequence[str] = (),
) -> inbox_pb.NewInboxMessage:
    """What the inbox lists of a message: read from its headers, whatever state they are in, with the defects of its body."""
    message = _parser.parsebytes(raw)
    defects = [type(defect).__name__ for defect in message.defects]
    message_id = _first_id(_header(message, "Message-ID", defects))
    in_reply_to = _first_id(_header(message, "In-Reply-To", defects))
    references = _MESSAGE_ID.findall(_header(message, "References", defects))
    sender, subject = _header(message, "From", defects), _header(message, "Subject", defects)
    sent_at = _date(message, defects)
    thread = (references[0] if references else "") or in_reply_to or message_id or f"sha256:{fingerprint}"
    wire = inbox_pb.NewInboxMessage(
        request_id=str(keys.new_id()),
        id=str(identifier),
        mailbox=mailbox,
        direction=_direction(sender, mailbox),
        message_id=message_id,
        in_reply_to=in_reply_to,
        thread_id=thread,
        sender=sender,
        subject=subject,
        content_storage_key=key,
        fingerprint=fingerprint,
        defects=sorted({*defects, *(words[:DEFECT_LENGTH] for words in of_body)})[:DEFECTS_KEPT],
    )
    wire.received_at.FromDatetime(at)
    if sent_at is not None:
        wire.sent_at.FromDatetime(sent_at)
    return wire


def _direction(sender: str, mailbox: str) -> inbox_pb.MessageDirection.ValueType:
    """Outbound is what the mailbox itself has sent: a copy from its folder of sent mail."""
    bracketed, bare = _BRACKETED.search(sender), _BARE.search(sender)
    address = bracketed[1] if bracketed else bare[0] if bare else sender
    own = address.strip().lower() == mailbox.strip().lower()
    return inbox_pb.MESSAGE_DIRECTION_OUTBOUND if own else inbox_pb.MESSAGE_DIRECTION_INBOUND


def _header(message: Message, name: str, defects: list[str]) -> str:
    """A header as text, decoded where that is possible, without line breaks, NULs or lone surrogates, cut to length."""
    value = message.get(name)
    if value is None:
        return ""
    raw = str(value)[:RAW_HEADER_LIMIT]
    try:
        decoded = str(make_header(decode_header(raw)))
    except (LookupError, ValueError, MessageError):
        defects.append(f"Undecodable{name}")
        decoded = raw
    clean = decoded.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return " ".join(clean.replace("\x00", "").split())[:HEADER_LIMIT]


def _first_id(value: str) -> str:
    found = _MESSAGE_ID.search(value)
    return found[0] if found else value.strip()


def _date(message: Message, defects: list[str]) -> datetime | None:
    value = message.get("Date")
    if value is None:
        return None
    try:
        parsed = email.utils.parsedate_to_datetime(str(value))
        parsed = (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).astimezone(UTC)
        # A Timestamp begins in year 1; mail before 1970 or in a far future has a broken clock.
        if not 1970 <= parsed.year <= 2200:
            raise ValueError
    except (ValueError, TypeError, OverflowError, IndexError):
        defects.append("UnreadableDate")
        return None
    return parsed
