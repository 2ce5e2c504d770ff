"""Reads leads from CSV: first_name, last_name, company, email, and any other column as a merge field. It judges only what
makes a line unreadable; addresses are judged by the tier."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from uuid import UUID

from penguin.oltp.v1 import lead_service_pb2 as lead_pb
from penguin_cli.surroundings import CommandError
from penguin_orchestrator import keys

_KNOWN = ("email", "first_name", "last_name", "company")
_FIELD = re.compile(r"[a-z][a-z0-9_]{0,62}")
_VALUE_LIMIT = 2000
_NAME_LIMIT = 200


@dataclass(frozen=True)
class Line:
    """One line of the file: its number (the heading is 1) and the lead on it, or what is wrong with it."""

    number: int
    lead: lead_pb.NewLead | None
    problem: str = ""


def read(path: Path, tenant_id: UUID, audience: str) -> list[Line]:
    """Every line of the file in order. Raises CommandError for a file that holds no leads at all."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(read_lines(file, tenant_id, audience))
    except FileNotFoundError:
        raise CommandError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise CommandError(f"{path}: not UTF-8 text") from None
    except csv.Error as error:
        raise CommandError(f"{path}: {error}") from None


def read_lines(file: IO[str], tenant_id: UUID, audience: str) -> Iterator[Line]:
    """As read(), from an open file."""
    reader = csv.DictReader(file, restkey="")
    columns = {name: _column(name) for name in reader.fieldnames or ()}
    if "email" not in columns.values():
        raise CommandError("the heading line must name a column email; known are also first_name, last_name, company")
    seen: dict[str, int] = {}
    for row in reader:
        number = reader.line_num
        if row.pop("", None) or None in row.values():
            yield Line(number, None, "has not as many fields as the heading")
            continue
        fields = {columns[name]: value.strip() for name, value in row.items()}
        problem = _problem(fields, seen, number)
        yield Line(number, None if problem else _lead(fields, tenant_id, audience), problem)


def _column(name: str) -> str:
    column = re.sub(r"[^a-z0-9]+", "_", name.strip().lower()).strip("_")
    if not _FIELD.fullmatch(column):
        raise CommandError(f"a column cannot be called {name!r}: a merge field begins with a letter")
    return column


def _problem(fields: dict[str, str], seen: dict[str, int], number: int) -> str:
    address = fields["email"].lower()
    if not address:
        return "has no email"
    if address in seen:
        return f"repeats the email of line {seen[address]}"
    seen[address] = number
    for name, value in fields.items():
        limit = _NAME_LIMIT if name in _KNOWN and name != "email" else _VALUE_LIMIT
        if len(value) > limit:
            return f"{name} is longer than {limit} characters"
    return ""


def _lead(fields: dict[str, str], tenant_id: UUID, audience: str) -> lead_pb.NewLead:
    known = {name: fields.get(name, "") for name in _KNOWN}
    custom = {name: value for name, value in fields.items() if name not in _KNOWN and value}
    # The same line twice is the same lead; a line that was changed is another request for an address that exists.
    request_id = keys.request_id("lead", tenant_id, audience, *known.values(), *sorted(custom.items()))
    return lead_pb.NewLead(
        request_id=str(request_id),
        id=str(keys.new_id()),
        email=known["email"],
        first_name=known["first_name"],
        last_name=known["last_name"],
        company=known["company"],
        list=audience,
        custom_fields=custom,
    )
