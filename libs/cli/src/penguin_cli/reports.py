"""Draws a campaign report: funnel, days and steps, with how fresh it is. It reads nothing."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from penguin.olap.v1 import facts_service_pb2 as facts_pb
from penguin.olap.v1 import report_service_pb2 as report_pb
from penguin_cli.charts import bar, share

# (measure, its name, its colour) in the order of the funnel, then what went wrong.
FUNNEL = (
    ("sent", "sent", "blue"),
    ("delivered", "delivered", "cyan"),
    ("opened", "opened", "green"),
    ("clicked", "clicked", "bright_green"),
    ("replied", "replied", "bold bright_green"),
    ("opened_machine", "opened by machines", "dim"),
    ("bounced", "bounced", "yellow"),
    ("unsubscribed", "unsubscribed", "yellow"),
    ("spam_complaints", "complained", "red"),
    ("failed", "failed", "red"),
    ("outcome_unknown", "outcome unknown", "magenta"),
)
_BAR = 40
_DAY_BAR = 24


def campaign(name: str, report: report_pb.GetCampaignReportResponse) -> RenderableType:
    """The whole report."""
    parts: list[RenderableType] = [Text(f"Campaign {name}", style="bold"), funnel(report.totals)]
    if len(report.days) > 1:
        parts += ["", by_day(report.days)]
    if len(report.steps) > 1:
        parts += ["", by_step(report.steps)]
    parts.append(Text.from_markup(freshness(report.freshness)))
    return Group(*parts)


def funnel(totals: facts_pb.EmailMeasures) -> Table:
    """Each measure with its share of what was sent, drawn to one scale."""
    table = Table("", "emails", "of sent", "", box=None, header_style="dim", pad_edge=False)
    table.columns[1].justify = table.columns[2].justify = "right"
    whole = max(totals.sent, 1)
    for measure, label, style in FUNNEL:
        value = getattr(totals, measure)
        if value or measure in ("sent", "delivered", "opened", "clicked", "replied", "bounced"):
            table.add_row(label, f"{value:,}", share(value, totals.sent), f"[{style}]{bar(value, whole, _BAR)}[/]")
    return table


def by_day(days: Sequence[report_pb.DayMeasures]) -> Table:
    """One line a day: how many were sent and opened, as bars of one scale."""
    table = Table("day", "sent", "", "opened", "", "clicked", "replied", box=None, header_style="dim", pad_edge=False)
    for number in (1, 3, 5, 6):
        table.columns[number].justify = "right"
    whole = max((max(day.measures.sent, day.measures.opened) for day in days), default=1)
    for day in days:
        each = day.measures
        table.add_row(
            day.day, f"{each.sent:,}", f"[blue]{bar(each.sent, whole, _DAY_BAR)}[/]", f"{each.opened:,}",
            f"[green]{bar(each.opened, whole, _DAY_BAR)}[/]", f"{each.clicked:,}", f"{each.replied:,}",
        )  # fmt: skip
    return table


def by_step(steps: Sequence[report_pb.StepMeasures]) -> Table:
    """One line a step of the sequence."""
    table = Table(
        "step", "sent", "delivered", "opened", "clicked", "replied", box=None, header_style="dim", pad_edge=False
    )
    for step in steps:
        each = step.measures
        values = (each.sent, each.delivered, each.opened, each.clicked, each.replied)
        table.add_row(escape(step.step_id), *(f"{value:,}" for value in values))
    return table


def freshness(fresh: report_pb.Freshness) -> str:
    """How far the figures can be trusted, as console markup."""
    if not fresh.HasField("data_through"):
        return "[yellow]nothing has been loaded yet; `penguin etl run` loads it[/]"
    counted = f", counted at {fresh.computed_at.ToDatetime():%H:%M:%S} UTC" if fresh.HasField("computed_at") else ""
    return f"[dim]data through {fresh.data_through.ToDatetime():%Y-%m-%d %H:%M:%S} UTC{counted}[/]"
