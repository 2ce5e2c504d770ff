"""Leads from CSV: a heading that names columns, and a judgement on every record. A line is judged by the contract's own
constraints, before it is sent: the same file comes to the same leads and the same problems, whoever reads it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from penguin.oltp.v1 import lead_service_pb2 as lead_pb
from penguin_chassis.faults import InvalidArgument, Violation
from penguin_chassis.validation import validate
from penguin_orchestrator import keys
from penguin_orchestrator.leadrecords import RECORD_BYTES, Format, LeadFileError, Problem, Record, Records, Survey

KNOWN = ("email", "first_name", "last_name", "company")
LIST_LENGTH = 100
CUSTOM_FIELDS = 50
# What of a value is shown in a report (characters), and how large one gets (bytes, one line more than that).
SHOWN = 80
REPORT_BYTES = 16 * 1024 * 1024
REPORT_HEADING = ("line", "field", "reason", "detail", "value")
_FIELD = re.compile(r"[a-z][a-z0-9_]{0,62}")
# A spreadsheet takes what begins so for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Row:
    """One record: the lead that it is, or why it is none."""

    line: int
    lead: lead_pb.NewLead | None
    problem: Problem | None = None


def survey(data: bytes, columns: Mapping[str, str], audience: str) -> Format:
    """What a whole file is like; raises LeadFileError where it cannot be imported."""
    surveyed = Survey()
    for first in range(0, len(data), RECORD_BYTES):
        surveyed.feed(data[first : first + RECORD_BYTES])
    form = surveyed.done()
    check_heading(form, surveyed.head, columns, audience)
    return form


def check_heading(form: Format, head: bytes, columns: Mapping[str, str], audience: str) -> None:
    """Raises LeadFileError where the file's first bytes hold no heading to go by."""
    reader = LeadReader(form, columns, audience, UUID(int=0))
    reader.feed(head, last=True)
    reader.close()


def heading(names: Sequence[str], columns: Mapping[str, str]) -> list[str]:
    """The field of each column; empty for one that is left out. `columns` says it for those that are not called as they
    should be. Raises LeadFileError (BAD_HEADING, NO_EMAIL_COLUMN, UNKNOWN_COLUMN)."""
    wanted = {name.strip().lower(): field for name, field in columns.items()}
    known = {name.strip().lower() for name in names}
    if unknown := [name for name in columns if name.strip().lower() not in known]:
        raise LeadFileError(
            "UNKNOWN_COLUMN", f"there is no column {unknown[0]!r}; there are {', '.join(map(repr, names))}"
        )
    fields = [_field(name, place, wanted) for place, name in enumerate(names, 1)]
    named = [field for field in fields if field]
    if twice := [field for field in named if named.count(field) > 1]:
        raise LeadFileError("BAD_HEADING", f"two columns are {twice[0]!r}; map one of them elsewhere, or to nothing")
    if "email" not in named:
        raise LeadFileError(
            "NO_EMAIL_COLUMN",
            f"no column is the email; there are {', '.join(map(repr, names))}: say which one with --map COLUMN=email",
        )
    if len(set(named) - set(KNOWN)) > CUSTOM_FIELDS:
        raise LeadFileError("BAD_HEADING", f"there are more than {CUSTOM_FIELDS} columns besides {', '.join(KNOWN)}")
    return fields


def _field(name: str, place: int, wanted: Mapping[str, str]) -> str:
    if (field := wanted.get(name.strip().lower())) is not None:
        if field and not _FIELD.fullmatch(field):
            raise LeadFileError("BAD_HEADING", f"a field cannot be called {field!r}: small letters, digits and _")
        return field
    field = re.sub(r"[^a-z0-9]+", "_", name.strip().lower()).strip("_")
    if not _FIELD.fullmatch(field):
        called = f"a field cannot be called {name!r}" if name.strip() else f"column {place} has no name"
        raise LeadFileError("BAD_HEADING", f"{called}: a merge field begins with a letter; name it, or map it")
    return field


class LeadReader:
    """Reads a file into leads of one audience, a piece at a time. `saga_id`: the import that the requests are known by."""

    def __init__(self, form: Format, columns: Mapping[str, str], audience: str, saga_id: UUID) -> None:
        if len(audience) > LIST_LENGTH:
            raise LeadFileError("BAD_LIST", f"a list's name has at most {LIST_LENGTH} characters")
        self._records = Records(form)
        self._columns = columns
        self._audience = audience
        self._saga_id = saga_id
        self._fields: list[str] = []
        # The line of each address.
        self._seen: dict[str, int] = {}

    def feed(self, data: bytes, *, last: bool = False) -> list[Row]:
        """The rows that are whole by now, in order; `last`: nothing follows. Raises LeadFileError for the heading."""
        records = self._records.feed(data, last=last)
        if records and not self._fields:
            first = records.pop(0)
            if first.problem is not None:
                raise LeadFileError("BAD_HEADING", f"the heading cannot be read: {first.problem.detail}")
            self._fields = heading(first.values, self._columns)
        return [self._row(record) for record in records]

    def close(self) -> None:
        """Nothing follows. Raises LeadFileError (EMPTY_FILE)."""
        if not self._fields:
            raise LeadFileError("EMPTY_FILE", "the file has no heading")

    def _row(self, record: Record) -> Row:
        line = record.line
        if record.problem is not None:
            return Row(line, None, record.problem)
        if len(record.values) != len(self._fields):
            detail = f"{len(record.values)} fields, and the heading has {len(self._fields)}"
            return Row(line, None, Problem(line, "", "WRONG_COLUMNS", detail))
        values = {field: value.strip() for field, value in zip(self._fields, record.values, strict=True) if field}
        lead = self._lead(line, values)
        problem = _problem(line, lead, values)
        address = lead.email.lower()
        if problem is None and (before := self._seen.setdefault(address, line)) != line:
            problem = Problem(line, "email", "DUPLICATE", f"repeats line {before}", lead.email[:SHOWN])
        return Row(line, lead) if problem is None else Row(line, None, problem)

    def _lead(self, line: int, values: Mapping[str, str]) -> lead_pb.NewLead:
        custom = {name: value for name, value in values.items() if value and name not in KNOWN}
        return lead_pb.NewLead(
            request_id=str(keys.request_id("lead", self._saga_id, line)), id=str(keys.new_id()),
            email=values["email"], first_name=values.get("first_name", ""), last_name=values.get("last_name", ""),
            company=values.get("company", ""), list=self._audience, custom_fields=custom,
        )  # fmt: skip


def _problem(line: int, lead: lead_pb.NewLead, values: Mapping[str, str]) -> Problem | None:
    if not lead.email:
        return Problem(line, "email", "NO_EMAIL", "there is no address")
    for name, value in values.items():
        if "\0" in value:
            return Problem(
                line, name, "UNSTORABLE", "holds a NUL", value.replace("\0", "\N{REPLACEMENT CHARACTER}")[:SHOWN]
            )
    try:
        validate(lead)
    except InvalidArgument as fault:
        return _against_contract(line, fault.violations[0], values)
    return None


def _against_contract(line: int, violation: Violation, values: Mapping[str, str]) -> Problem:
    # A merge field's place is custom_fields[name].
    field = violation.field.partition("[")[2].strip("]\"'") or violation.field
    value = values.get(field, "")
    if violation.rule == "string.email":
        return Problem(line, field, "BAD_ADDRESS", "is no email address", value[:SHOWN])
    if violation.rule == "string.max_len":
        return Problem(line, field, "TOO_LONG", f"has {len(value)} characters: {violation.message}", value[:SHOWN])
    return Problem(line, field, "INVALID", violation.message, value[:SHOWN])


class Report:
    """Problems as CSV, for who has the file to mend. Not a byte of it depends on when it is made."""

    def __init__(self) -> None:
        self._data = bytearray(_report_line(REPORT_HEADING))
        self.listed = self.left_out = 0

    def add(self, problem: Problem) -> None:
        """One line more; from the first that is beyond the limit on they are only counted."""
        line = _report_line((problem.line, problem.field, problem.reason, problem.detail, _harmless(problem.value)))
        if self.left_out or len(self._data) + len(line) > REPORT_BYTES:
            self.left_out += 1
            return
        self.listed += 1
        self._data += line

    def data(self) -> bytes:
        """The whole of it, up to the limit, and how many more there are."""
        more = ("", "", "MORE", f"{self.left_out} more are not listed", "")
        return bytes(self._data) + (_report_line(more) if self.left_out else b"")


def _report_line(values: Sequence[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow(values)
    return text.getvalue().encode()


def _harmless(value: str) -> str:
    return f"'{value}" if value.startswith(_FORMULA) else value
