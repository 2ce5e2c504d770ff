"""Lead files: which lines are leads, what is said of the others, and that a file reads the same in whatever pieces it comes."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penguin_orchestrator import keys, leadfiles, leadrecords
from penguin_orchestrator.leadfiles import LeadReader, Report, Row
from penguin_orchestrator.leadrecords import LeadFileError, Problem, Record, Records

SAGA = UUID("01900000-0000-7000-8000-000000000001")


def rows(data: bytes | str, *, piece: int = 1 << 20, columns: Mapping[str, str] | None = None) -> list[Row]:
    data = data.encode() if isinstance(data, str) else data
    form = leadfiles.survey(data, columns or {}, "list")
    reader = LeadReader(form, columns or {}, "list", SAGA)
    found = [row for at in range(0, len(data), piece) for row in reader.feed(data[at : at + piece])]
    return found + reader.feed(b"", last=True)


def told(data: bytes | str) -> dict[int, str]:
    """What becomes of each line: an address, or why there is none."""
    return {row.line: row.lead.email if row.lead else row.problem.reason if row.problem else "" for row in rows(data)}


def refused(data: bytes | str, columns: Mapping[str, str] | None = None) -> str:
    with pytest.raises(LeadFileError) as raised:
        rows(data, columns=columns)
    return raised.value.reason


def test_known_columns_and_merge_fields() -> None:
    (row,) = rows("email,First Name,Company,Favourite Colour,Note\n ann@a.example ,Ann,A,blue,\n")
    assert row.lead is not None
    assert (row.line, row.lead.email, row.lead.first_name, row.lead.company) == (2, "ann@a.example", "Ann", "A")
    assert (dict(row.lead.custom_fields), row.lead.list) == ({"favourite_colour": "blue"}, "list")
    assert row.lead.request_id == str(keys.request_id("lead", SAGA, 2))


def test_columns_are_mapped_and_left_out() -> None:
    columns = {"E-Mail": "email", "vorname ": "first_name", "4711": ""}
    (row,) = rows("E-Mail;Vorname;4711\nann@a.example;Ann;secret\n", columns=columns)
    assert row.lead is not None
    assert (row.lead.email, row.lead.first_name, dict(row.lead.custom_fields)) == ("ann@a.example", "Ann", {})


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_delimiter_is_told_from_the_heading(delimiter: str) -> None:
    (row,) = rows(f"email{delimiter}city\na@a.example{delimiter}Ghent\n")
    assert row.lead is not None
    assert dict(row.lead.custom_fields) == {"city": "Ghent"}


def test_a_bad_line_is_named_and_stops_no_other() -> None:
    text = (
        "email,first_name,note\n"
        "a@a.example,A,\n"
        ",B,\n"
        "A@A.example,C,\n"
        "d@a.example,D,,E\n"
        "e@a.example\n"
        f"f@a.example,{'f' * 201},\n"
        f"g@a.example,G,{'g' * 2001}\n"
        "not an address,H,\n"
        "i@a.example,I\0,\n"
        "f@a.example,F,the address of a line that was left out is free\n"
    )
    assert told(text) == {
        2: "a@a.example", 3: "NO_EMAIL", 4: "DUPLICATE", 5: "WRONG_COLUMNS", 6: "WRONG_COLUMNS", 7: "TOO_LONG",
        8: "TOO_LONG", 9: "BAD_ADDRESS", 10: "UNSTORABLE", 11: "f@a.example",
    }  # fmt: skip
    problems = {row.line: row.problem for row in rows(text) if row.problem}
    assert problems[4] == Problem(4, "email", "DUPLICATE", "repeats line 2", "A@A.example")
    assert (problems[5].detail, problems[5].field) == ("4 fields, and the heading has 3", "")
    assert (problems[7].field, problems[8].field) == ("first_name", "note")
    assert len(problems[8].value) == leadfiles.SHOWN
    assert (problems[9].field, problems[9].value) == ("email", "not an address")


def test_lines_are_numbered_as_in_the_file() -> None:
    text = '\r\nemail,note\r\na@a.example,"one\r\ntwo\r\n\r\nthree"\r\n\r\n , \r\nb@a.example,\r\n,"no\r\naddress"\r\nc@a.example,'
    assert told(text) == {3: "a@a.example", 9: "b@a.example", 10: "NO_EMAIL", 12: "c@a.example"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('b@a.example,"open', "UNBALANCED_QUOTES"),
        ('"b@a.example,B', "UNBALANCED_QUOTES"),
        ('b@a.example,"B" is not all', "BAD_QUOTES"),
        (f"b@a.example,{'b' * leadrecords.RECORD_BYTES}", "TOO_LONG"),
        (f'b@a.example,"{"b" * leadrecords.RECORD_BYTES}"', "TOO_LONG"),
        ("b@a.example,one\rtwo", "MALFORMED"),
    ],
)
def test_a_line_that_cannot_be_split_takes_no_other_with_it(line: str, reason: str) -> None:
    after = [f"x{n}@a.example" for n in range(150)]  # more than a record can have
    text = "\n".join(
        ["email,name", "a@a.example,A", line, *(f"{each},{'x' * 1000}" for each in after), 'y@a.example,"Y, Z"']
    )
    found = told(text)
    assert found == {2: "a@a.example", 3: reason, **dict(enumerate([*after, "y@a.example"], 4))}


def test_two_open_quotes_do_not_swallow_what_is_between_them() -> None:
    text = 'email,name\na@a.example,"A\nb@a.example,B\nc@a.example,"C\nd@a.example,D\n'
    assert told(text) == {2: "UNBALANCED_QUOTES", 3: "b@a.example", 4: "UNBALANCED_QUOTES", 5: "d@a.example"}


def test_encodings() -> None:
    joerg = "email,name\na@a.example,Jörg\n"
    for data in (joerg.encode(), joerg.encode("utf-8-sig"), joerg.encode("cp1252"), joerg.encode("latin-1")):
        (row,) = rows(data)
        assert row.lead is not None
        assert row.lead.custom_fields["name"] == "Jörg"
    assert leadfiles.survey(joerg.encode("cp1252"), {}, "l").encoding == "cp1252"
    assert leadfiles.survey(joerg.encode("cp1252") + b"b@a.example,\x81\n", {}, "l").encoding == "latin-1"
    mostly = joerg.encode() + b"b@a.example,J\xf6rg\nc@a.example,C\n"
    assert told(mostly) == {2: "a@a.example", 3: "BAD_ENCODING", 4: "c@a.example"}
    assert refused(joerg.encode("utf-16")) == "NOT_TEXT"


def test_lines_that_end_in_a_carriage_return_alone() -> None:
    assert told("email,name\ra@a.example,A\rb@a.example,B\r") == {2: "a@a.example", 3: "b@a.example"}


@pytest.mark.parametrize(
    ("data", "columns", "reason"),
    [
        ("", {}, "EMPTY_FILE"),
        ("﻿ \n\n", {}, "EMPTY_FILE"),
        (",,\n , \n", {}, "EMPTY_FILE"),
        ("first_name,last_name\nA,B\n", {}, "NO_EMAIL_COLUMN"),
        ("a@a.example,A\n", {}, "NO_EMAIL_COLUMN"),
        ("email,1st\na,b\n", {}, "BAD_HEADING"),
        ("email,,name\na,b,c\n", {}, "BAD_HEADING"),
        ("email,E Mail,e-mail\na,b,c\n", {}, "BAD_HEADING"),
        ('email,"name\na,b\n', {}, "BAD_HEADING"),
        (f"email,{','.join(f'c{n}' for n in range(51))}\n", {}, "BAD_HEADING"),
        ("mail\na@a.example\n", {"E-Mail": "email"}, "UNKNOWN_COLUMN"),
        ("email,x\na@a.example,1\n", {"x": "Not A Field"}, "BAD_HEADING"),
        ("email,x\na@a.example,1\n", {"x": "email"}, "BAD_HEADING"),
        ("email\n" * (leadrecords.LINES + 2), {}, "TOO_MANY_LINES"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_imported_at_all(data: str, columns: dict[str, str], reason: str) -> None:
    assert refused(data, columns) == reason


def test_a_file_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leadrecords, "FILE_BYTES", 1000)
    assert refused("email\n" + "a@a.example\n" * 100) == "TOO_LARGE"
    monkeypatch.undo()
    with pytest.raises(LeadFileError, match="100 characters"):
        leadfiles.survey(b"email\n", {}, "l" * 101)


TEXTS = st.text(st.sampled_from('ab",\n\r;é\0 '), max_size=40)


@given(TEXTS, st.integers(1, 20))
def test_any_text_reads_the_same_in_whatever_pieces(text: str, piece: int) -> None:
    data = f'email,x\na@a.example,"{text}\n'.encode()
    assert [_shown(row) for row in rows(data, piece=piece)] == [_shown(row) for row in rows(data)]


def _shown(row: Row) -> object:
    return row.line, row.problem, row.lead and (row.lead.email, dict(row.lead.custom_fields))


@given(st.lists(st.lists(TEXTS.map(lambda each: each.replace("\0", "")), min_size=2, max_size=2), max_size=8))
def test_what_is_well_formed_is_read_as_it_was_written(written: list[list[str]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([["email", "x"], *written])
    form = leadfiles.survey(b"email,x\r\n", {}, "l")
    found = Records(form).feed(text.getvalue().encode(), last=True)
    assert [record.values for record in found[1:]] == [each for each in written if any(map(str.strip, each))]
    assert found[0] == Record(1, ["email", "x"])


def test_a_report_is_harmless_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leadfiles, "REPORT_BYTES", 1000)
    report = Report()
    for line in range(2, 20):
        report.add(Problem(line, "email", "BAD_ADDRESS", "is no email address", '=HYPERLINK("x")'))
    read = list(csv.DictReader(io.StringIO(report.data().decode(), newline="")))
    assert read[0] == {
        "line": "2", "field": "email", "reason": "BAD_ADDRESS", "detail": "is no email address",
        "value": "'=HYPERLINK(\"x\")",
    }  # fmt: skip
    assert (report.listed + report.left_out, read[-1]["reason"]) == (18, "MORE")
    assert read[-1]["detail"] == f"{report.left_out} more are not listed"
    assert report.left_out > 0


@pytest.mark.parametrize(("value", "at_most"), [("a" * 60, 110), ("\N{HIRAGANA LETTER A}" * 20, 110)])
def test_a_report_lists_what_its_bytes_allow(monkeypatch: pytest.MonkeyPatch, value: str, at_most: int) -> None:
    monkeypatch.setattr(leadfiles, "REPORT_BYTES", 100 * at_most)
    report = Report()
    for line in range(2, 500):
        report.add(Problem(line, "email", "BAD_ADDRESS", "is no email address", value))
    data = report.data()
    assert len(data) <= 101 * at_most
    lines = [each["line"] for each in csv.DictReader(io.StringIO(data.decode(), newline=""))]
    assert len(lines) > 100
    assert lines[:-1] == [str(n) for n in range(2, len(lines) + 1)], "and none between two that are told"
    assert report.listed == len(lines) - 1
    assert report.left_out == 498 - report.listed
