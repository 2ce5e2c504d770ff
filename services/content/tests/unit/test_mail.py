"""The parser of raw mail: right on right mail, and never at a loss on what is none."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from services.content.tests.rows import RAW_MAIL

from penguin_content.domain import mail
from penguin_content.domain.words import decoded, header_text, label

PIECES = [
    b"Content-Type: multipart/mixed; boundary=b\r\n", b"Content-Type: text/plain; charset=x-none\r\n", b"\r\n", b"--b\r\n",
    b"--b--\r\n", b"Content-Type: message/rfc822\r\n", b"Content-Transfer-Encoding: base64\r\n", b"\xff\xfe\x00", b"\r",
    b"Content-Disposition: attachment; filename*0*=utf-16''%00%d8; filename*1=\xff\r\n", b"=?utf-8?b?/w==?=", b"\n",
    b"Content-Type: text/html; charset=\"utf-7\"\r\n", b"Content-Transfer-Encoding: x-uuencode\r\n", b"begin 666 \xe9\r\n",
    b"Content-Type: text/plain; charset*=\xff'\x00'a%GG\r\n", b"Subject: =?a?q?\xff?= =?\x00?b?!?=\r\n", b"From nobody\r\n",
]  # fmt: skip


def storable(parsed: mail.Parsed) -> None:
    """All of it can be sent and stored."""
    for text in (parsed.text, parsed.html, *parsed.defects, *(word for pair in parsed.headers for word in pair)):
        text.encode()
    for part in parsed.attachments:
        for word in (part.filename, part.mime_type, part.content_id):
            word.encode()
            assert "\0" not in word
            assert len(word) <= 255
        assert part.disposition in {"attachment", "inline"}
        assert isinstance(part.data, bytes)
    assert not any("\n" in defect for defect in parsed.defects)


def test_a_right_message_is_read() -> None:
    parsed = mail.parse(RAW_MAIL)
    assert (parsed.text, parsed.html) == ("Schön", "<p>Hi</p>")
    assert ("Subject", "Grüße") in parsed.headers
    assert [(p.filename, p.mime_type, p.disposition, p.data) for p in parsed.attachments] == [
        ("a.pdf", "application/pdf", "attachment", b"%PDF")
    ]
    assert parsed.defects == ()


@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=40), max_size=25).map(b"".join))
def test_no_bytes_make_it_raise(raw: bytes) -> None:
    storable(mail.parse(raw))


def test_every_further_text_is_an_attachment_and_inline_parts_keep_their_id() -> None:
    raw = (
        b"Content-Type: multipart/related; boundary=b\n\n--b\nContent-Type: text/plain\n\none\n--b\n"
        b"Content-Type: text/plain\n\ntwo\n--b\nContent-Type: image/png\nContent-ID: <logo@x>\n\npng\n--b\n"
        b"Content-Type: message/rfc822\n\nSubject: inner\n\nhello\n--b--\n"
    )
    parsed = mail.parse(raw)
    assert parsed.text == "one"
    assert [(p.mime_type, p.disposition, p.content_id, p.data) for p in parsed.attachments] == [
        ("text/plain", "attachment", "", b"two"),
        ("image/png", "inline", "logo@x", b"png"),
        ("message/rfc822", "attachment", "", b"Subject: inner\n\nhello"),
    ]


def test_a_lying_charset_is_a_defect_and_the_text_is_still_read() -> None:
    for charset in (b"x-unknown", b"idna", b"utf-8", b"unicode_escape"):
        parsed = mail.parse(b"Content-Type: text/plain; charset=" + charset + b"\n\ncaf\xe9 \\d")
        assert parsed.text.startswith("caf")
        assert parsed.defects == ("text not all in its charset",)


def test_a_broken_message_says_what_is_wrong_with_it() -> None:
    parsed = mail.parse(b"Content-Type: multipart/mixed; boundary=b\n\nno parts at all")
    assert parsed.text == "no parts at all"
    assert "start boundary not found" in parsed.defects


@pytest.mark.parametrize(
    "raw",
    [
        b"Content-Type: message/rfc822\n\n" * 5_000,
        b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (i, i) for i in range(3_000)) + b"a\n" * 50_000,
        b"Content-Type: text/plain; a=\"" + b";" * 1_000_000 + b"\n\nx",
        b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\n\n" * 19_000,
        b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\n\n" * 500_000,
        b"Subject: " + b"=?utf-8?q?a?= " * 20_000 + b"\n\nx",
    ],
    ids=["nested messages", "nested multiparts", "endless parameters", "many parts",
        "endless parts", "endless words"],
)  # fmt: skip
def test_mail_made_to_cost_time_does_not(raw: bytes) -> None:
    started = time.process_time()
    parsed = mail.parse(raw)
    assert time.process_time() - started < 2
    assert len(parsed.attachments) <= mail.PARTS_LIMIT
    storable(parsed)


def test_words_that_are_none() -> None:
    assert header_text("=?iso-8859-1?q?caf=E9?=  =?utf-8?b?w6k=?=") == "caféé"
    assert header_text("caf\udce9") == "café"
    assert header_text("a\r\n b") == "a b"
    assert label("a\0b\r\nc\udcff" + "x" * 300).startswith("a b c")
    assert len(label("x" * 300)) == 255
    assert decoded(b"\xe9", "") == ("é", False)
    assert decoded("é".encode(), "") == ("é", True)
