"""Leads imported from a file with faults: how a tenant does it, and what must stand of it in the end."""

from __future__ import annotations

import asyncio
import csv
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import orjson
from tests.simulation.acts import DONE, Act, Play

from penguin_orchestrator.leads import ImportedLeads
from penguin_orchestrator.platform import Penguin

ROWS = (10, 40)
LEADS = "SELECT list, email FROM leads WHERE tenant_id = $1"
IMPORTS = "SELECT id, state, input FROM sagas WHERE tenant_id = $1 AND kind = 'leads.import'"
KEPT = "SELECT storage_key FROM content_objects WHERE tenant_id = $1 AND storage_key = ANY ($2)"


@dataclass
class File:
    """A file of leads, the list it is for, and what is to come of it."""

    audience: str
    data: bytes = b""
    good: set[str] = field(default_factory=set)
    # The reason by line.
    bad: dict[int, str] = field(default_factory=dict)


def make_file(play: Play, act: Act) -> File:
    """A heading, and rows of which some are no leads."""
    chance, mark = play.chance, act.tenant.mark
    file, lines = File(f"import {len(play.acts)}"), ["Email,First name,Company"]
    for line in range(2, 2 + chance.randrange(*ROWS)):
        address, fate = f"{mark}-{file.audience[7:]}l{line}@example.com", chance.random()
        if fate > 0.3:
            file.good.add(address)
            lines.append(f"{address},Ann,Acme")
            continue
        again = chance.choice(sorted(file.good) or [""])
        row, reason = chance.choice((
            (",Ann,Acme", "NO_EMAIL"), ("nobody,Ann,Acme", "BAD_ADDRESS"), (f"{address},Ann,Acme,more", "WRONG_COLUMNS"),
            (f"{again.upper()},Ann,Acme", "DUPLICATE" if again else "NO_EMAIL"),
        ))  # fmt: skip
        file.bad[line] = reason
        lines.append(row)
    file.data = "\n".join(lines).encode()
    return file


async def import_leads(play: Play, penguin: Penguin, act: Act) -> None:
    """A file into a list of its own, at times by two at once; and what was left out."""
    file = act.file = make_file(play, act)
    askers = [penguin, Penguin(penguin.tiers)] if play.chance.random() < 0.3 else [penguin]
    asked = (each.leads.import_file(act.tenant.id, file.data, file.audience) for each in askers)
    results = await asyncio.gather(*asked, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
        play.broken += [f"{act}: {what}" for what in _told(result, file)]
    act.told = DONE


def _told(told: ImportedLeads, file: File) -> Iterator[str]:
    """Whoever asks for what is done already is told so of each row."""
    if (told.rows, told.left_out) != (len(file.good) + len(file.bad), len(file.bad)):
        yield f"told of {told.rows} rows and {told.left_out} left out, of {len(file.good)} good and {len(file.bad)} bad ones"
    if told.reasons != Counter(file.bad.values()):
        yield f"told of {told.reasons} for {dict(Counter(file.bad.values()))}"


async def missing(play: Play, act: Act) -> list[str]:
    """What does not stand as the file, or its caller's word, has it."""
    file, world = act.file, play.world
    if file is None:
        return []
    found: list[str] = []
    tenant = act.tenant.id
    leads = Counter(row["email"] for row in await world.rows("oltp", LEADS, tenant) if row["list"] == file.audience)
    found += [f"{count} leads of one line" for count in leads.values() if count > 1]
    if strange := leads.keys() - file.good:
        found.append(f"{len(strange)} leads that are none")
    sagas = [
        row for row in await world.rows("oltp", IMPORTS, tenant) if orjson.loads(row["input"])["list"] == file.audience
    ]
    done = [row for row in sagas if row["state"] == "succeeded"]
    if act.told == DONE and not done:
        found.append("acknowledged, and it had not been carried out")
    if done and (lost := file.good - leads.keys()):
        found.append(f"carried out, and {len(lost)} leads are missing")
    if not sagas and leads:
        found.append("not begun, and there are leads")
    files = [orjson.loads(row["input"])["key"] for row in sagas]
    if await world.rows("content", KEPT, tenant, files):
        found.append("over, and its file is kept")
    for row in done:
        if (report := await _report(play, tenant, row)) != file.bad:
            found.append(f"carried out, and its report tells {len(report)} of {len(file.bad)} bad lines, or others")
    return found


async def _report(play: Play, tenant: UUID, row: Any) -> dict[int, str]:
    told = await Penguin(play.world.process().tiers).leads.report(tenant, row["id"])
    return {int(each["line"]): each["reason"] for each in csv.DictReader(io.StringIO(told.decode()))}
