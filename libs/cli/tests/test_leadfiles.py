"""Leads from CSV: what a line may look like, and what is said of one that cannot be read."""

from __future__ import annotations

import io
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from penguin_cli import leadfiles
from penguin_cli.demo import data
from penguin_cli.surroundings import CommandError

TENANT = UUID("01900000-0000-7000-8000-000000000001")


def lines(text: str) -> list[leadfiles.Line]:
    return list(leadfiles.read_lines(io.StringIO(text), TENANT, "list"))


def test_known_columns_and_merge_fields() -> None:
    (line,) = lines(
        "E-Mail,First Name,Company,Favourite Colour,Note\n ann@a.example ,Ann,A,blue,\n".replace("E-Mail", "email")
    )
    assert line.lead is not None
    assert (line.number, line.lead.email, line.lead.first_name, line.lead.company) == (2, "ann@a.example", "Ann", "A")
    assert dict(line.lead.custom_fields) == {"favourite_colour": "blue"}
    assert line.lead.list == "list"


def test_a_bad_line_is_named_and_stops_no_other() -> None:
    text = (
        "email,first_name\na@a.example,A\n,B\nA@A.example,C\nd@a.example,D,E\nf@a.example\n"
        f"g@a.example,{'g' * 201}\nh@a.example,H\n"
    )
    read = lines(text)
    assert [line.number for line in read if line.lead] == [2, 8]
    assert {line.number: line.problem for line in read if not line.lead} == {
        3: "has no email",
        4: "repeats the email of line 2",
        5: "has not as many fields as the heading",
        6: "has not as many fields as the heading",
        7: "first_name is longer than 200 characters",
    }


def test_the_same_line_is_the_same_request_and_another_is_not() -> None:
    once, again = lines("email,city\na@a.example,Ghent\n"), lines("email,city\na@a.example,Ghent\n")
    changed = lines("email,city\na@a.example,Brno\n")
    ids = [each[0].lead.request_id for each in (once, again, changed) if each[0].lead]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize("heading", ["first_name,last_name", "", "email,1st"])
def test_a_file_without_usable_columns_is_refused(heading: str) -> None:
    with pytest.raises(CommandError):
        lines(f"{heading}\nx,y\n")


def test_files_with_a_byte_order_mark_and_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "leads.csv").write_bytes("﻿email\nann@a.example\n".encode())
    assert leadfiles.read(tmp_path / "leads.csv", TENANT, "l")[0].lead is not None
    (tmp_path / "latin.csv").write_bytes("email,name\nann@a.example,J\xf6rg\n".encode("latin-1"))
    with pytest.raises(CommandError, match="UTF-8"):
        leadfiles.read(tmp_path / "latin.csv", TENANT, "l")
    with pytest.raises(CommandError, match="no such file"):
        leadfiles.read(tmp_path / "none.csv", TENANT, "l")


def test_the_shipped_leads_are_a_thousand_invented_people() -> None:
    shipped = data.leads(uuid4(), "demo", 1000)
    assert [line.problem for line in shipped if line.lead is None] == []
    addresses = [line.lead.email for line in shipped if line.lead]
    assert len(set(addresses)) == 1000
    assert {address.rpartition(".")[2] for address in addresses} == {"example"}
    assert any(not line.lead.first_name.isascii() for line in shipped if line.lead)
    assert len(data.leads(uuid4(), "demo", 5, last=True)) == 5
    assert data.template().attachment.data.startswith(b"%PDF-")
