"""`why`: what every tier knows of one email and what is missing, ending in one sentence. A tier that is away says so and
stops nobody else's answer."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from penguin.oltp.v1 import email_service_pb2 as email_pb
from penguin.tier.v1 import tier_service_pb2 as tier_pb
from penguin_cli import knowledge
from penguin_cli.knowledge import Away, Known, NotAsked
from penguin_cli.lookups import TenantName, id_of, tenant_of
from penguin_cli.session import connected
from penguin_cli.surroundings import UNREACHABLE, act, root_of, screen
from penguin_cli.verdict import verdict
from penguin_orchestrator.platform import Penguin


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command(rich_help_panel="What became of it")(why)


def why(
    context: typer.Context,
    email: Annotated[str, typer.Argument(help="The email's id.")],
    tenant: TenantName,
) -> None:
    """Say what each tier knows of an email, what is missing, and what that means."""
    act(_why(root_of(context), tenant, email))


async def _why(root: Path, tenant: str, email: str) -> None:
    async with connected(root) as penguin:
        known = await gather(penguin, await tenant_of(penguin, tenant), id_of(email, "email"), root)
    screen().print(drawn(known))
    if isinstance(known.email, Away):
        raise typer.Exit(UNREACHABLE)
    if known.email is None:
        raise typer.Exit(1)


async def gather(penguin: Penguin, tenant_id: UUID, email_id: UUID, root: Path) -> Known:
    """Ask every tier. OLTP is asked first: it knows under which key and since when the others know the email."""
    email = await knowledge.of_oltp(penguin.tiers["oltp"], tenant_id, email_id)
    stored = email if isinstance(email, email_pb.Email) else None
    outbox, content, job, facts, notified, spooled = await asyncio.gather(
        knowledge.of_outbox(penguin.tiers["oltp"]),
        knowledge.of_content(penguin.tiers["content"], tenant_id, stored),
        knowledge.of_queue(penguin.tiers["queue"], tenant_id, email_id, stored),
        knowledge.of_olap(penguin.tiers["olap"], tenant_id, stored),
        knowledge.of_notifications(penguin.tiers["notifications"], tenant_id, stored),
        asyncio.to_thread(knowledge.of_spool, root, stored),
    )
    return Known(email_id, email, outbox, content, job, facts, notified, spooled)


def drawn(known: Known) -> RenderableType:
    """One line a tier, and the verdict."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    stored = isinstance(known.email, email_pb.Email)
    for name, lines in (
        ("oltp", _of_email(known.email)),
        ("  outbox", _of_outbox(known.outbox)),
        ("content", _of_content(known.content)),
        ("queue", _of_job(known.job)),
        ("olap", _of_facts(known.facts)),
        ("notifications", _of_notified(known.notified)),
        ("smtp (local)", _of_spool(known.spooled) if stored else ["not asked: it is looked for by what OLTP knows"]),
    ):
        for number, line in enumerate(lines):
            table.add_row("" if number else name, line)
    sentence, fine = verdict(known)
    return Group(table, "", Text(sentence, style="bold green" if fine else "bold yellow"))


def _away(away: Away) -> list[str]:
    return [f"[red]away[/]: {escape(away.why)}"]


def _of_email(email: email_pb.Email | Away | None) -> list[str]:
    if isinstance(email, Away):
        return _away(email)
    if email is None:
        return ["[yellow]no such email of this tenant[/]"]
    status = knowledge.word(email_pb.EmailStatus, email.status)
    lines = [
        f"{status}, queued at {knowledge.at(email.queued_at)}, to {escape(email.recipient)}: {escape(email.subject)}"
    ]
    for attempt in email.attempts:
        outcome = knowledge.word(email_pb.AttemptOutcome, attempt.outcome) if attempt.outcome else "no outcome yet"
        code = f", SMTP {attempt.smtp_code} {attempt.enhanced_status}".rstrip() if attempt.smtp_code else ""
        ended = f" to {knowledge.at(attempt.finished_at)}" if attempt.HasField("finished_at") else ""
        lines.append(f"attempt {attempt.attempt}: {outcome}{code}, {knowledge.at(attempt.started_at)}{ended}")
    for tally in email.tallies:
        kind = knowledge.word(email_pb.EmailEventKind, tally.kind)
        lines.append(f"{kind} {tally.count}×, first {knowledge.at(tally.first_at)}")
    return lines


def _of_outbox(outbox: tier_pb.GetStatusResponse | Away) -> list[str]:
    if isinstance(outbox, Away):
        return _away(outbox)
    if not outbox.HasField("outbox_depth"):
        return ["[red]the database is down[/]"]
    if not outbox.outbox_depth:
        return ["empty: OLTP owes nothing to anyone"]
    oldest = outbox.outbox_oldest_age.ToTimedelta().total_seconds()
    return [f"{outbox.outbox_depth} rows of all tenants wait, the oldest for {oldest:.0f} s"]


def _of_content(content: knowledge.ContentKnown) -> list[str]:
    if isinstance(content, Away):
        return _away(content)
    if content is None:
        return ["[bold yellow]missing[/]: no content under the email's key"]
    if isinstance(content, NotAsked):
        return ["not asked: OLTP gave no key"]
    meta = content
    state = knowledge.word_of_state(meta.state)
    files = ", ".join(f"{escape(each.filename)} {each.size:,} B" for each in meta.attachments) or "none"
    wait = f", claim by {knowledge.at(meta.claim_by)}" if state != "claimed" else ""
    return [
        f"{state}{wait}, {meta.raw_size:,} B stored as {meta.stored_size:,} B ({meta.codec}), attachments: {files}",
    ]


def _of_job(job: knowledge.JobKnown) -> list[str]:
    if isinstance(job, Away):
        return _away(job)
    if job is None:
        return ["no job for it"]
    state = knowledge.word_of_job(job.state)
    words = f"job {job.id}: {state}, {job.attempts} failed attempts of {job.max_attempts}"
    extra = [f"{job.lost_leases} lost leases"] if job.lost_leases else []
    extra += [f"put off {job.snoozes}×"] if job.snoozes else []
    extra += [f"due {knowledge.at(job.run_at)}"] if state == "ready" else []
    extra += [f"leased until {knowledge.at(job.leased_until)}"] if state == "leased" else []
    extra += [f"last error {escape(job.last_error)}"] if job.last_error else []
    return [", ".join([words, *extra])]


def _of_facts(facts: knowledge.FactsKnown) -> list[str]:
    if isinstance(facts, Away):
        return _away(facts)
    if isinstance(facts, NotAsked):
        return ["not asked: OLTP did not say when the email last changed"]
    if facts is None:
        return ["nothing loaded for this tenant yet; `penguin etl run` loads it"]
    loaded = "its last change is in" if facts.covers else "its last change is not in yet"
    return [f"data through {knowledge.at(facts.through)}: {loaded}"]


def _of_notified(notified: knowledge.NotifiedKnown) -> list[str]:
    if isinstance(notified, Away):
        return _away(notified)
    if isinstance(notified, NotAsked):
        return ["not asked: OLTP did not say of which campaign the email is"]
    if notified is None:
        return ["nothing to tell: the email is of no campaign, or its campaign has told nothing yet"]
    return [f"{notified.type} at {knowledge.at(notified.created_at)}: {escape(notified.title)}"]


def _of_spool(spooled: list[str] | None) -> list[str]:
    if spooled is None:
        return ["no local SMTP receiver here"]
    if not spooled:
        return ["not received"]
    times = ", ".join(spooled)
    return [
        f"received once, at {times}" if len(spooled) == 1 else f"[bold red]received {len(spooled)} times[/]: {times}"
    ]
