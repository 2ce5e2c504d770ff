"""Messages: whatever is stored comes back byte for byte, and nobody's words become a header."""

from __future__ import annotations

import email
import email.policy
import re
from dataclasses import replace
from datetime import UTC, datetime
from email.header import decode_header, make_header
from email.message import EmailMessage, Message
from email.utils import parseaddr

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penguin_worker.headers import UnsendableError
from penguin_worker.mime import Attachment, Letter, build, encode_attachment
from penguin_worker.smtp import dotted

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LETTER = Letter(
    email_id="0190a000-0000-7000-8000-000000000001",
    tenant_id="0190a000-0000-7000-8000-000000000002",
    message_id="<0190a000@sender.example>",
    sender="us@sender.example",
    recipient="ada@example.com",
    subject="Hello",
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=400) | st.lists(
    st.sampled_from(
        ["a", "=", ".", " ", "\t", "\r", "\n", "\r\n", "é", "🐧", "x" * 74, "x" * 75, "x" * 76, "-- ", "\0"]
    ),
    max_size=30,
).map("".join)


def received(raw: bytes) -> EmailMessage:
    """A message as a receiver has it after DATA."""
    wire = dotted(raw)
    lines = [line[1:] if line.startswith(b".") else line for line in wire.split(b"\r\n")]
    parsed = email.message_from_bytes(b"\r\n".join(lines), policy=email.policy.SMTP)
    assert isinstance(parsed, EmailMessage)
    return parsed


def leaves(message: Message) -> list[Message]:
    return [part for part in message.walk() if not part.is_multipart()]


def decoded(part: Message) -> bytes:
    data = part.get_payload(decode=True)
    assert isinstance(data, bytes)
    return data


def assert_wire(raw: bytes) -> None:
    """Lines of at most 998 bytes, ended by CRLF only, all of it ASCII."""
    raw.decode("ascii")
    lines = raw.split(b"\r\n")
    assert all(b"\r" not in line and b"\n" not in line for line in lines)
    assert max(map(len, lines)) <= 998
    assert b"\0" not in raw


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    text=TEXTS,
    html=TEXTS,
    files=st.lists(
        st.tuples(
            st.binary(max_size=300),
            st.text(st.characters(exclude_categories=["Cs"]), max_size=255),
            st.sampled_from(
                ["text/plain", "message/rfc822", "image/png", "multipart/mixed", "no type", "text/calendar"]
            ),
            st.booleans(),
        ),
        max_size=3,
    ),
)
def test_every_part_comes_back_byte_for_byte(text: str, html: str, files: list[tuple[bytes, str, str, bool]]) -> None:
    attachments = tuple(
        Attachment(name, kind, encode_attachment(data), inline, f"part{n}@x" if inline else "")
        for n, (data, name, kind, inline) in enumerate(files)
    )
    raw = build(replace(LETTER, text=text, html=html, attachments=attachments), AT)
    assert_wire(raw)
    message = received(raw)
    assert [part.defects for part in message.walk()] == [[] for _ in message.walk()]
    parts = leaves(message)
    bodies = [part for part in parts if part.get_content_disposition() is None]
    expected = [value.encode() for value in (text, html) if value] or [b""]
    assert [decoded(part) for part in bodies] == expected
    kept = [part for part in parts if part.get_content_disposition() is not None]
    assert sorted(decoded(part) for part in kept) == sorted(data for data, *_ in files)
    for part in kept:
        (name,) = [f[1] for f in files if f[0] == decoded(part)][:1] or [""]
        if [f[0] for f in files].count(decoded(part)) == 1:
            assert (part.get_filename() or "").strip() == name.strip()


@settings(max_examples=150, deadline=None)
@given(
    subject=st.text(st.characters(exclude_categories=["Cs"]), max_size=998),
    name=st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=200),
)
def test_words_of_people_come_back_and_add_no_header(subject: str, name: str) -> None:
    raw = build(replace(LETTER, subject=subject, sender_name=name, recipient_name=name, text="x"), AT)
    assert_wire(raw)
    head = raw.split(b"\r\n\r\n")[0]
    assert all(len(line) <= 78 for line in head.split(b"\r\n") if b"=?" in line)
    message = email.message_from_bytes(raw, policy=email.policy.default)
    fields = ["From", "To", "Subject", "Date", "Message-ID", "List-Unsubscribe", "MIME-Version"]
    assert message.keys() == [*fields, "Content-Type", "Content-Transfer-Encoding"]
    came = str(make_header(decode_header(email.message_from_bytes(raw)["Subject"] or "")))
    assert came.replace("\r\n", "") == re.sub(r"[\x00-\x1f\x7f]+", " ", subject)
    assert [a.addr_spec for a in message["From"].addresses] == [LETTER.sender]
    assert [a.addr_spec for a in message["To"].addresses] == [LETTER.recipient]


@pytest.mark.parametrize(
    "name",
    ["Ada Lovelace", 'Ada "the first" Lovelace', "Lovelace, Ada", "Ада Лавлейс", "a\\b", "x" * 150, "=?utf-8?q?no?="],
)
def test_a_display_name_comes_back(name: str) -> None:
    raw = build(replace(LETTER, sender_name=name), AT)
    assert_wire(raw)
    # The newer parser puts a space between encoded words that stand in a phrase; RFC 2047 says there is none.
    display, address = parseaddr(str(email.message_from_bytes(raw)["From"]).replace("\r\n", ""))
    assert str(make_header(decode_header(display))) == name
    assert address == LETTER.sender


def test_headers_are_fixed_and_added_to() -> None:
    custom = (
        ("In-Reply-To", "<other@example.com>"),
        ("X-Campaign", "spring\r\nBcc: all@example.com"),
        ("Message-ID", "<forged@example.com>"),
        ("from", "forged@example.com"),
        ("Content-Type", "text/evil"),
        ("Bad Name", "x"),
        ("List-Unsubscribe", "<https://evil.example>"),
        ("References", " ".join(f"<{n:040}@example.com>" for n in range(30))),
    )
    message = received(build(replace(LETTER, text="x", headers=custom), AT, "https://u.example/{tenant_id}/{email_id}"))
    assert message.get_all("Message-ID") == [LETTER.message_id]
    assert message.get_all("From") == [LETTER.sender]
    assert message["Bcc"] is None
    assert message["X-Campaign"] == "spring Bcc: all@example.com"
    assert message["In-Reply-To"] == "<other@example.com>"
    assert message["References"] == custom[-1][1]
    assert message["Date"].datetime == AT
    assert message.get_content_type() == "text/plain"
    assert message.get_all("List-Unsubscribe") == [
        f"<https://u.example/{LETTER.tenant_id}/{LETTER.email_id}>, <mailto:unsubscribe@sender.example?subject={LETTER.email_id}>"
    ]
    assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"


def test_one_click_needs_an_address_to_post_to() -> None:
    message = received(build(LETTER, AT))
    assert message["List-Unsubscribe"] == f"<mailto:unsubscribe@sender.example?subject={LETTER.email_id}>"
    assert message["List-Unsubscribe-Post"] is None


def test_parts_are_nested_no_deeper_than_needed() -> None:
    file = Attachment("a.pdf", "application/pdf", encode_attachment(b"%PDF"))
    inline = Attachment("p.png", "image/png", encode_attachment(b"png"), inline=True, content_id="p@x")

    def shape(letter: Letter) -> list[str]:
        return [part.get_content_type() for part in received(build(letter, AT)).walk()]

    assert shape(replace(LETTER, text="t")) == ["text/plain"]
    assert shape(replace(LETTER, html="h")) == ["text/html"]
    assert shape(replace(LETTER, text="t", html="h")) == ["multipart/alternative", "text/plain", "text/html"]
    assert shape(replace(LETTER, text="t", attachments=(file, inline))) == [
        "multipart/mixed", "text/plain", "application/pdf", "image/png",
    ]  # fmt: skip
    assert shape(replace(LETTER, text="t", html="h", attachments=(inline, file))) == [
        "multipart/mixed", "multipart/related", "multipart/alternative", "text/plain", "text/html", "image/png",
        "application/pdf",
    ]  # fmt: skip
    related = received(build(replace(LETTER, html="h", attachments=(inline,)), AT))
    assert related.get_param("type") == "text/html"
    assert leaves(related)[1]["Content-ID"] == "<p@x>"


def test_a_message_attached_is_not_taken_apart() -> None:
    source = b"Subject: inner\r\n\r\nhello\nlone\rends \r\n.\r\n"
    attached = Attachment("inner.eml", "message/rfc822", encode_attachment(source))
    part = leaves(received(build(replace(LETTER, text="t", attachments=(attached,)), AT)))[1]
    assert part.get_content_type() == "application/octet-stream"
    assert part.get_filename() == "inner.eml"
    assert decoded(part) == source


@pytest.mark.parametrize(
    "address", ["", "nobody", "a b@example.com", "a@example.com\r\nBcc: x@y", "ü@example.com", "<a@b.c>"]
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(UnsendableError):
        build(replace(LETTER, recipient=address), AT)
    with pytest.raises(UnsendableError):
        build(replace(LETTER, sender=address), AT)


def test_readable_text_stays_readable() -> None:
    raw = build(replace(LETTER, text="Dear Ada,\r\n\r\nit is café time.\r\n"), AT)
    assert b"Dear Ada,\r\n\r\nit is caf=C3=A9 time.\r\n" in raw
