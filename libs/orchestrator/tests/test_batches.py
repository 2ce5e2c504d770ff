"""Batches keep within the tiers' limits, and what many emails share travels once."""

from __future__ import annotations

import random
from typing import Any
from uuid import UUID, uuid4

import pytest
from libs.orchestrator.tests.stored import blobs, outgoing

from penguin_chassis.pool import Database
from penguin_orchestrator import batches
from penguin_orchestrator.blobs import download_attachment
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.messages import Attachment, Sent
from penguin_orchestrator.sending import Sender
from penguin_testkit.faults import Faults

PUT = "BatchPutContents"


@pytest.fixture
def sender(tiers: dict[str, Tier]) -> Sender:
    return Sender(tiers["content"], tiers["oltp"])


def bytes_of(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


async def test_batches_keep_within_the_tiers_limits(
    sender: Sender, tenant: UUID, faults: dict[str, Faults], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH_ITEMS", 50)
    large = outgoing(html="x" * 1_000_000)
    results = await sender.send_emails(tenant, [*(outgoing() for _ in range(120)), large, large, large, large])
    assert all(isinstance(each, Sent) for each in results)
    puts = faults["content"].requests[PUT]
    assert [len(put.contents) for put in puts] == [50, 50, 23, 1]
    assert all(put.ByteSize() < 4 * 1024 * 1024 for put in puts)


def test_the_limits_are_those_of_the_contract() -> None:
    assert (batches.BATCH_ITEMS, batches.BATCH_BYTES) == (500, 3 * 1024 * 1024)
    preparation = batches.Preparation()
    prepared = [preparation.prepare(outgoing(), uuid4()) for _ in range(1001)]
    cut = list(batches.batches([each for each in prepared if isinstance(each, batches.Prepared)]))
    assert [len(batch) for batch in cut] == [500, 500, 1]


async def test_an_attachment_that_many_share_travels_once(
    sender: Sender, tenant: UUID, faults: dict[str, Faults], content_db: Database
) -> None:
    small = Attachment("small.bin", "application/octet-stream", bytes_of(300_000))
    results = await sender.send_emails(tenant, [outgoing(attachments=(small,)) for _ in range(60)])
    assert all(isinstance(each, Sent) for each in results)
    (put,) = faults["content"].requests[PUT]
    assert len(put.blobs) == 1
    assert put.ByteSize() < 400_000
    assert await blobs(content_db, tenant) == [300_000]


async def test_a_large_attachment_goes_ahead_by_stream_and_once(
    sender: Sender, tiers: dict[str, Tier], tenant: UUID, content_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH_ITEMS", 2)
    uploads: list[str] = []
    upload = tiers["content"].send_stream

    async def counted(method: Any, *arguments: Any, **named: Any) -> Any:
        uploads.append(method._method.decode())
        return await upload(method, *arguments, **named)

    monkeypatch.setattr(tiers["content"], "send_stream", counted)
    data = bytes_of(5_000_000)
    large = Attachment("large.bin", "application/octet-stream", data)
    results = await sender.send_emails(tenant, [outgoing(attachments=(large,)) for _ in range(5)])
    assert len(uploads) == 1
    assert await blobs(content_db, tenant) == [5_000_000]
    assert isinstance(results[4], Sent)
    assert await download_attachment(tiers["content"], tenant, results[4].storage_key, 0) == data


async def test_one_email_with_more_than_a_message_holds_is_sent_all_the_same(
    sender: Sender, tenant: UUID, faults: dict[str, Faults], content_db: Database
) -> None:
    files = tuple(Attachment(f"{n}.bin", "application/octet-stream", bytes_of(400_000, seed=n)) for n in range(12))
    (sent,) = await sender.send_emails(tenant, [outgoing(attachments=files)])
    assert isinstance(sent, Sent)
    assert faults["content"].requests[PUT][0].ByteSize() < 4 * 1024 * 1024
    assert await blobs(content_db, tenant) == [400_000] * 12
