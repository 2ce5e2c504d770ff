"""`leads import` and `leads import-report`: leads from CSV, begun here and finished by whichever process."""

from __future__ import annotations

import csv
import io
import sys
import time
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from penguin_cli.lookups import TenantName, id_of, tenant_of
from penguin_cli.session import connected
from penguin_cli.surroundings import USAGE, CommandError, act, root_of, screen
from penguin_orchestrator.leadrecords import FILE_BYTES, LeadFileError
from penguin_orchestrator.leads import ImportedLeads
from penguin_orchestrator.platform import Penguin

_SHOWN = 50
# What is said of a file that was not read as UTF-8.
_ENCODINGS = {"cp1252": "Windows-1252", "latin-1": "Latin-1"}


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    group = typer.Typer(help="Leads: the people a tenant writes to.", no_args_is_help=True)
    group.command("import")(import_)
    group.command("import-report")(import_report)
    app.add_typer(group, name="leads", rich_help_panel="The main job")


def import_(
    context: typer.Context,
    tenant: TenantName,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="CSV with a heading: email, first_name, last_name, company, others."),
    ] = None,
    audience: Annotated[str, typer.Option("--list", help="The audience they belong to; campaigns name one.")] = "",
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--map", help="What a column is, as 'E-Mail=email'; nothing leaves it out.", metavar="COLUMN=FIELD"
        ),
    ] = None,
    resume: Annotated[str, typer.Option(help="Go on with the import of this id.", metavar="SAGA")] = "",
) -> None:
    """Import leads, telling of each line that cannot be. Interrupted, it is finished by the platform, or with --resume; run
    again, it adds only what is missing."""
    if bool(resume) == (file is not None):
        raise typer.BadParameter("give either a FILE, or --resume with the id of an import")
    if file is not None and not audience:
        raise typer.BadParameter("--list names the audience they belong to")
    mapped = _mapped(columns or [])
    act(_import(root_of(context), tenant, file, audience, mapped, resume))


def _mapped(columns: list[str]) -> dict[str, str]:
    pairs = [each.rpartition("=") for each in columns]
    if wrong := [each for each, (name, _, _) in zip(columns, pairs, strict=True) if not name]:
        raise typer.BadParameter(f"{wrong[0]!r} is not COLUMN=FIELD")
    return {name: field.strip() for name, _, field in pairs}


async def _import(
    root: Path, tenant: str, file: Path | None, audience: str, columns: dict[str, str], resume: str
) -> None:
    out, begun = screen(), time.monotonic()
    saga = id_of(resume, "saga") if resume else None
    data = b"" if file is None else _read(file)
    async with connected(root, traced=True) as penguin:
        tenant_id = await tenant_of(penguin, tenant)
        bars = (TextColumn("line"), BarColumn(30), TextColumn("{task.completed:,.0f}"), TimeElapsedColumn())
        with Progress(*bars, console=out, transient=True, disable=not out.is_terminal) as progress:
            task = progress.add_task("", total=None)

            def show(line: int, lines: int) -> None:
                progress.update(task, completed=line, total=lines or None)

            if saga is not None:
                done = await penguin.leads.resume(tenant_id, saga, progress=show)
            else:
                done = await penguin.leads.import_file(
                    tenant_id, data, audience, columns=columns, filename=file.name if file else "", progress=show,
                    begun=lambda known: out.print(f"import [bold]{known}[/]; interrupted, --resume goes on with it"),
                )  # fmt: skip
        _tell(out, done, time.monotonic() - begun)
        if done.left_out:
            await _show_left_out(penguin, tenant_id, done, out)


def _read(file: Path) -> bytes:
    """The file's bytes. Raises CommandError, and LeadFileError for one that is too large to be read at all."""
    try:
        if file.stat().st_size > FILE_BYTES:
            raise LeadFileError("TOO_LARGE", f"{file} has more than {FILE_BYTES // 1024**2} MiB; split it")
        return file.read_bytes()
    except FileNotFoundError:
        raise CommandError(f"{file}: no such file", USAGE) from None


def _tell(out: Console, done: ImportedLeads, took_s: float) -> None:
    out.print(
        f"[bold]{done.created:,}[/] created, {done.existed:,} existed, {done.left_out:,} left out, of {done.rows:,} rows"
        f" in {took_s:.1f} s"
    )
    if done.encoding in _ENCODINGS:
        out.print(f"the file is not UTF-8 and was read as {_ENCODINGS[done.encoding]}")


async def _show_left_out(penguin: Penguin, tenant_id: UUID, done: ImportedLeads, out: Console) -> None:
    report = await penguin.leads.report(tenant_id, done.saga_id)
    lines = csv.DictReader(io.StringIO(report.decode(), newline=""))
    for _, each in zip(range(_SHOWN), lines, strict=False):
        field = f"{each['field']}: " if each["field"] else ""
        value = f"  [dim]{escape(each['value'])}[/]" if each["value"] else ""
        out.print(f"  line {each['line']}: {escape(field + each['detail'])}{value}")
    if done.left_out > _SHOWN:
        out.print(f"  … and {done.left_out - _SHOWN:,} more: penguin leads import-report {done.saga_id}")
    raise CommandError(f"{done.left_out:,} lines were left out; the others stand")


def import_report(
    context: typer.Context,
    saga: Annotated[str, typer.Argument(help="The import's id.", metavar="SAGA")],
    tenant: TenantName,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file to write; without it, stdout.")] = None,
) -> None:
    """Fetch what an import left out, as CSV: line, field, reason, detail, value. It is kept for 30 days."""
    act(_report(root_of(context), tenant, saga, output))


async def _report(root: Path, tenant: str, saga: str, output: Path | None) -> None:
    saga_id = id_of(saga, "saga")
    async with connected(root) as penguin:
        report = await penguin.leads.report(await tenant_of(penguin, tenant), saga_id)
    _write(report, output)


def _write(report: bytes, output: Path | None) -> None:
    if output is None:
        sys.stdout.buffer.write(report)
        sys.stdout.buffer.flush()
    else:
        output.write_bytes(report)
