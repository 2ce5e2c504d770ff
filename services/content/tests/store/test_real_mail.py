"""Real mail, the malformed among it: every message is stored, and comes back byte for byte with each of its parts."""

from __future__ import annotations

import hashlib
import tarfile
from email import message_from_bytes
from email.message import Message
from itertools import islice
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from services.content.tests.store.test_blobs import AT, SOON, step

from penguin_chassis.barrier import Step
from penguin_chassis.pool import Database
from penguin_content.domain.contents import METADATA, Metadata, receive
from penguin_content.domain.reading import Wanted, opened
from penguin_content.store.contents import Asked, ContentStore, Terms
from penguin_content.store.reading import ReadingStore

CORPUS = Path(__file__).parents[5] / "shared" / "data" / "emails-dev.tar.gz"
BATCH = 100


def messages() -> list[bytes]:
    if not CORPUS.exists():
        pytest.skip("../shared/data/emails-dev.tar.gz is not there: real mail is not part of this repository")
    with tarfile.open(CORPUS) as archive:
        return [archived.read() for member in archive if (archived := archive.extractfile(member)) is not None]


def decoded_parts(raw: bytes) -> set[bytes]:
    """The decoded bytes of every part without parts, as Python's own package reads them."""
    return {
        payload
        for part in message_from_bytes(raw).walk()
        if isinstance(part, Message) and isinstance(payload := part.get_payload(decode=True), bytes)
    }


async def test_every_message_comes_back_whole(own_db: Database, tenant: UUID) -> None:
    raws = messages()
    assert len(raws) > 3_000
    store, reading = ContentStore(own_db), ReadingStore(own_db)
    everything = Wanted(raw=True)
    counted = 0
    waiting = iter(raws)
    while batch := list(islice(waiting, BATCH)):
        items: list[tuple[Step, Asked]] = [(step(tenant), receive(f"k/{uuid4()}", None, raw)) for raw in batch]
        answers = await store.put_batch(tenant, items, {}, Terms(SOON, 1, AT), None)
        for raw, answer in zip(batch, answers, strict=True):
            assert isinstance(answer, Metadata), answer
            stored = await reading.get(tenant, answer.storage_key, everything)
            read = opened(stored, everything)
            assert read.raw == raw
            assert read.metadata == answer
            assert answer.content_hash == hashlib.sha256(raw).hexdigest()
            for attachment in answer.attachments:
                assert hashlib.sha256(read.data[attachment.position]).hexdigest() == attachment.sha256
                if not attachment.mime_type.startswith("message/"):
                    assert read.data[attachment.position] in decoded_parts(raw)
            read.text.encode()
            read.html.encode()
            counted += 1
    assert counted == len(raws)
    head = await reading.list_page(tenant, after=None, limit=10_000, state="")
    assert len(head) == len(raws)
    assert (await reading.get(tenant, head[0].storage_key, Wanted(METADATA))).body is None
