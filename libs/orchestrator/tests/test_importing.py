"""Mail as it comes: whatever its headers hold it is listed, imported once, and its bytes are kept as they were."""

from __future__ import annotations

import hashlib
import itertools
import time
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from libs.orchestrator.tests.stored import contents, owed

from penguin.oltp.v1 import inbox_service_pb2 as inbox_pb
from penguin_chassis.pool import Database
from penguin_chassis.validation import refuse_unstorable, validate
from penguin_orchestrator import importing, keys, mailsources
from penguin_orchestrator.blobs import download_raw
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.importing import Imported, Importer, reference
from penguin_orchestrator.mailsources import MailSourceError, Source
from penguin_orchestrator.reading import Reader
from penguin_testkit.faults import Break, Code, Faults

BOX = "in@box.example"
AT = datetime(2026, 1, 1, tzinfo=UTC)
REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "emails-dev.tar.gz"


def refer(raw: bytes) -> inbox_pb.NewInboxMessage:
    """The reference, held against the contract and against what PostgreSQL can store."""
    fingerprint = hashlib.sha256(raw).hexdigest()
    wire = reference(raw, fingerprint, "k", uuid4(), BOX, AT)
    validate(wire)
    refuse_unstorable(wire)
    return wire


def mail(**headers: str) -> bytes:
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", "Body."]).encode("utf-8", "surrogateescape")


def test_what_a_good_message_says_of_itself() -> None:
    wire = refer(
        mail(
            Message_ID="<1@a.example>", In_Reply_To="<0@a.example>", References="<root@a.example> <0@a.example>",
            From="=?utf-8?q?Ad=C3=A4?= <ada@a.example>", Subject="=?utf-8?b?R3LDvMOfZQ==?= aus\r\n Wien",
            Date="Mon, 05 Jan 2026 10:00:00 +0100",
        )
    )  # fmt: skip
    assert (wire.message_id, wire.in_reply_to, wire.thread_id) == ("<1@a.example>", "<0@a.example>", "<root@a.example>")
    assert (wire.sender, wire.subject) == ("Adä <ada@a.example>", "Grüße aus Wien")
    assert wire.sent_at.ToDatetime(UTC) == datetime(2026, 1, 5, 9, tzinfo=UTC)
    assert wire.received_at.ToDatetime(UTC) == AT
    assert list(wire.defects) == []


@pytest.mark.parametrize(
    ("sender", "own"),
    [
        (BOX, True), (f"The Box <{BOX.upper()}>", True), (f"{BOX} (the box)", True), (f'"<x@y.example>" <{BOX}>', True),
        (f'"{BOX}" <x@y.example>', False), (f"x{BOX}", False), (f"{BOX}.au", False), ("", False),
    ],
)  # fmt: skip
def test_what_the_mailbox_itself_has_sent_went_out(sender: str, own: bool) -> None:
    outbound, inbound = inbox_pb.MESSAGE_DIRECTION_OUTBOUND, inbox_pb.MESSAGE_DIRECTION_INBOUND
    assert refer(mail(From=sender, To="a@a.example")).direction == (outbound if own else inbound)


def test_a_thread_is_known_by_what_there_is() -> None:
    assert refer(mail(In_Reply_To="<0@a>", Message_ID="<1@a>")).thread_id == "<0@a>"
    assert refer(mail(Message_ID="<1@a>")).thread_id == "<1@a>"
    nameless = b"Subject: x\r\n\r\n"
    assert refer(nameless).thread_id == f"sha256:{hashlib.sha256(nameless).hexdigest()}"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x00",
        b"no headers at all",
        b"\xff\xfe\x00binary" * 100,
        b"Subject: =?no-such-charset?b?R3LDvMOfZQ==?=\r\n\r\n",
        b"Subject: =?utf-8?b?!!!not-base64!!!?=\r\n\r\n",
        b"Subject: =?utf-8?b?R3L?=\r\n\r\n",
        b"Subject: =?utf-8?b?R?=\r\n\r\n",
        b"Subject: =?utf-8?q?=ZZ=?=\r\n\r\n",
        b"Subject: =?utf-16?b?2AA=?=\r\n\r\n",
        b"Subject: =?punycode?b?/////w==?=\r\n\r\n",
        b"Subject: =?idna?q?a.b..c?=\r\n\r\n",
        b"Subject: =?unknown-8bit?q?=FF?=\r\n\r\n",
        b"Subject: raw 8bit \xe4\xf6\xfc\r\n\r\n",
        b"Subject: nul \x00 inside\r\n\r\n",
        b"Subject: " + "ü".encode() * 5000 + b"\r\n\r\n",
        b"Subject: " + b"=?utf-8?q?=C3=BC?= " * 5000 + b"\r\n\r\n",
        b"Message-ID: " + b"<" * 2000 + b"\r\n\r\n",
        b"Message-ID: <" + b"x" * 5000 + b"@a>\r\n\r\n",
        b"References: " + b"<a@b> " * 20000 + b"\r\n\r\n",
        b"Date: yesterday\r\n\r\n",
        b"Date: Mon, 99 Foo 2026 99:99:99 +9999\r\n\r\n",
        b"Date: Mon, 01 Jan 0000 00:00:00 +0000\r\n\r\n",
        b"Date: Mon, 01 Jan 9999 23:59:59 -2359\r\n\r\n",
        b"Date: 1 Jan 1960 00:00:00 +0000\r\n\r\n",
        b"Date: Mon, 05 Jan 2026 10:00:00 +99999999999999999999\r\n\r\n",
        b"Date: \xff\xff\r\n\r\n",
        b"From: \r\n\r\n",
        b"From " + b"x" * 300 + b"\r\nSubject: mbox line\r\n\r\n",
        b"Subject\r\n: x\r\n\r\n",
        b" continued: from nowhere\r\n\r\n",
        b"Subject: a\r\nSubject: b\r\n\r\n",
        b"X: y\r\n" * 50000 + b"\r\n",
    ],
)
def test_nasty_headers_are_listed_all_the_same(raw: bytes) -> None:
    wire = refer(raw)
    assert len(wire.subject) <= 998


def test_what_was_wrong_is_said() -> None:
    assert list(refer(b"Subject: =?utf-8?b?R?=\r\nDate: soon\r\n\r\n").defects) == [
        "UndecodableSubject", "UnreadableDate",
    ]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"Subject", b"From", b"Message-ID", b"References", b"In-Reply-To", b"Date", b"X"]),
            st.one_of(
                st.binary(max_size=60),
                st.builds(
                    lambda charset, encoding, text: b"=?" + charset + b"?" + encoding + b"?" + text + b"?=",
                    st.sampled_from([b"utf-8", b"utf-7", b"utf-16", b"iso-2022-jp", b"hz", b"idna", b"x", b"", b"hex"]),
                    st.sampled_from([b"b", b"B", b"q", b"Q", b"z"]),
                    st.binary(max_size=30),
                ),
            ),
        ),
        max_size=6,
    )
)
def test_any_header_at_all_is_listed(headers: list[tuple[bytes, bytes]]) -> None:
    refer(b"".join(name + b": " + value + b"\r\n" for name, value in headers) + b"\r\nBody.")


def test_a_header_made_to_be_slow_is_cut_short() -> None:
    hostile = b"Subject: " + b"=?a?q?" * 400_000 + b"\r\n\r\n"
    started = time.perf_counter()
    refer(hostile)
    assert time.perf_counter() - started < 2


def test_every_real_mail_can_be_listed() -> None:
    if not REAL.is_file():
        pytest.skip(f"the real emails are not here: {REAL.name} belongs into shared/data beside the repository")
    seen = odd = 0
    for source in mailsources.read(REAL):
        assert not source.problem
        seen += 1
        odd += bool(refer(source.raw).defects)
    assert seen > 500
    assert odd < seen / 10


@pytest.fixture
def importer(tiers: dict[str, Tier]) -> Importer:
    return Importer(tiers["content"], tiers["oltp"])


def mails(count: int) -> list[Source]:
    return [
        Source(f"{n}.eml", mail(Message_ID=f"<{n}@{uuid4()}>", Subject=f"number {n}", From="a@b.example"))
        for n in range(count)
    ]


async def test_what_a_body_lacks_is_told_like_what_a_header_lacks(
    importer: Importer, tenant: UUID, oltp_db: Database
) -> None:
    head = b"From: a@b.example\r\nSubject: s\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed"
    sources = [
        Source("open.eml", head + b'; boundary="x"\r\n\r\n--x\r\n\r\nnever closed'),
        Source("bare.eml", head + b"\r\n\r\nno boundary"),
        *mails(1),
    ]
    done = await importer.run(tenant, BOX, iter(sources))
    assert (done.imported, done.malformed) == (3, 2)
    assert dict(done.odd)["open.eml"] == "close boundary not found"
    assert "no boundary in multipart" in dict(done.odd)["bare.eml"]
    async with oltp_db.tenant(tenant) as connection:
        kept = await connection.fetch("SELECT defects FROM inbox_message_refs WHERE tenant_id = $1", tenant)
    assert sum(bool(row["defects"]) for row in kept) == 2


async def test_an_import_keeps_every_byte_and_run_again_imports_nothing(
    importer: Importer, tiers: dict[str, Tier], tenant: UUID, oltp_db: Database, content_db: Database
) -> None:
    sources = [
        *mails(250),
        Source("odd.eml", b"Subject: =?utf-8?b?R?=\r\nDate: never\r\n\r\n\xff\x00body"),
        Source("broken.eml", problem="cannot be read"),
    ]
    steps: list[int] = []
    done = await importer.run(tenant, BOX, iter(sources), progress=lambda so_far: steps.append(so_far.imported))
    assert (done.seen, done.imported, done.existed, done.malformed, done.refused) == (252, 251, 0, 1, 1)
    assert done.bytes == sum(len(source.raw) for source in sources)
    assert done.problems == [("broken.eml", "cannot be read")]
    assert [name for name, _ in done.odd] == ["odd.eml"]
    assert steps[-1] == 251
    assert len(await contents(content_db, tenant)) == 251
    async with oltp_db.tenant(tenant) as connection:
        rows = await connection.fetch(
            "SELECT fingerprint, content_storage_key FROM inbox_message_refs WHERE tenant_id = $1", tenant
        )
    stored = {_hex(row["fingerprint"]): row["content_storage_key"] for row in rows}
    for source in (*sources[:5], sources[250]):
        key = stored[hashlib.sha256(source.raw).hexdigest()]
        assert await download_raw(tiers["content"], tenant, key) == source.raw
    assert {destination for destination, _, _ in await owed(oltp_db, tenant)} == {"content"}
    again = await importer.run(tenant, BOX, iter(sources))
    assert (again.imported, again.existed, again.refused) == (0, 251, 1)
    assert len(await contents(content_db, tenant)) == 251


def _hex(fingerprint: object) -> str:
    return fingerprint.hex() if isinstance(fingerprint, bytes) else str(fingerprint)


async def test_the_same_message_twice_in_one_import_is_one(
    importer: Importer, tenant: UUID, content_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "BATCH_ITEMS", 4)
    (one,) = mails(1)
    done = await importer.run(tenant, BOX, [one] * 10)
    assert (done.imported, done.existed) == (1, 9)
    assert len(await contents(content_db, tenant)) == 1


async def test_a_letter_that_comes_across_the_full_hour_is_of_one_generation(
    importer: Importer, tenant: UUID, oltp_db: Database, content_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    hours = itertools.count(500_000)
    monkeypatch.setattr(keys, "generation", lambda: next(hours))
    assert (await importer.run(tenant, BOX, mails(3))).imported == 3
    async with oltp_db.tenant(tenant) as oltp, content_db.tenant(tenant) as content:
        referred = await oltp.fetch(
            "SELECT content_storage_key, content_generation FROM inbox_message_refs WHERE tenant_id = $1", tenant
        )
        kept = await content.fetch("SELECT storage_key, generation FROM content_objects WHERE tenant_id = $1", tenant)
    assert sorted(map(tuple, referred)) == sorted(map(tuple, kept))


async def test_batches_keep_within_the_message_limit(
    importer: Importer, tenant: UUID, faults: dict[str, Faults]
) -> None:
    big = [Source(f"{n}", b"Subject: %d\r\n\r\n" % n + b"x" * 1_200_000) for n in range(5)]
    edge = Source("edge", b"Subject: edge\r\n\r\n" + b"y" * (mailsources.MESSAGE_LIMIT - 100))
    done = await importer.run(tenant, BOX, [*big, edge, *mails(150)])
    assert done.imported == 156
    puts = faults["content"].requests["BatchPutContents"]
    assert all(put.ByteSize() < 4 * 1024 * 1024 for put in puts)
    assert max(len(put.contents) for put in puts) <= 100


async def test_an_import_that_was_interrupted_takes_up_where_it_stood(
    importer: Importer,
    tenant: UUID,
    faults: dict[str, Faults],
    content_db: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importing, "BATCH_ITEMS", 10)
    monkeypatch.setattr(importing, "PARALLEL", 1)
    monkeypatch.setattr(importing, "DEADLINE_S", 0.5)
    sources = mails(40)
    create = "BatchCreateInboxMessages"
    faults["oltp"].breaks(create, *[Break(Code.UNAVAILABLE, acted=True)] * 30)
    with pytest.raises(TierError):
        await importer.run(tenant, BOX, sources)
    faults["oltp"].heal()
    done = await importer.run(tenant, BOX, sources)
    assert done.imported + done.existed == 40
    assert done.existed == 10


async def test_what_cannot_be_found_is_raised_as_itself(importer: Importer, tenant: UUID, tmp_path: Path) -> None:
    with pytest.raises(MailSourceError):
        await importer.run(tenant, BOX, mailsources.read(tmp_path / "nowhere"))


async def test_a_thread_is_read_with_its_bodies_or_the_reason_why_not(
    importer: Importer, tiers: dict[str, Tier], tenant: UUID, faults: dict[str, Faults], content_db: Database
) -> None:
    root = f"<{uuid4()}@a>"
    first = mail(Message_ID=root, Subject="first", Date="Mon, 05 Jan 2026 10:00:00 +0000")
    reply = mail(
        Message_ID="<2@a>", In_Reply_To=root, References=root, Subject="Re: first",
        Date="Mon, 05 Jan 2026 11:00:00 +0000",
    )  # fmt: skip
    await importer.run(tenant, BOX, [Source("2", reply), Source("1", first)])
    reader = Reader(tiers["content"], tiers["oltp"])
    thread = await reader.get_thread(tenant, root)
    assert [each.message.subject for each in thread] == ["first", "Re: first"]
    assert [each.body.content.text.strip() for each in thread if each.body.content] == ["Body.", "Body."]
    async with content_db.tenant(tenant) as connection:
        await connection.execute(
            "DELETE FROM content_objects WHERE tenant_id = $1 AND storage_key = $2",
            tenant,
            thread[1].message.content_storage_key,
        )
    assert [each.body.unavailable for each in await reader.get_thread(tenant, root)] == ["", "CONTENT_MISSING"]
    faults["content"].breaks("BatchGetContents", *[Break(Code.UNAVAILABLE, "TIER_DB_DOWN")] * 5)
    assert [each.body.unavailable for each in await reader.get_thread(tenant, root)] == ["TIER_DB_DOWN"] * 2


def test_an_import_keeps_its_list_of_problems_short() -> None:
    done = Imported()
    for number in range(1500):
        done.refuse(str(number), "problem")
        done.keep(str(number), 1, ["defect"])
    assert (done.refused, len(done.problems)) == (1500, 1000)
    assert (done.malformed, len(done.odd), done.bytes) == (1500, 1000, 1500)
