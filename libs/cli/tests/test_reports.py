"""Reports as they are drawn."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from rich.console import RenderableType

from penguin.olap.v1 import facts_service_pb2 as facts_pb
from penguin.olap.v1 import report_service_pb2 as report_pb
from penguin_cli import reports
from penguin_cli.charts import bar as bar_of


@pytest.mark.parametrize(
    ("value", "whole", "bar"),
    [(0, 10, ""), (10, 10, "████"), (5, 10, "██"), (1, 1000, "▏"), (20, 10, "████"), (3, 0, ""), (9, 16, "██▎")],
)
def test_bars_are_to_scale_and_nothing_is_lost(value: float, whole: float, bar: str) -> None:
    assert bar_of(value, whole, 4) == bar


def test_a_report_shows_funnel_days_steps_and_freshness(text_of: Callable[[RenderableType], str]) -> None:
    report = report_pb.GetCampaignReportResponse(totals=facts_pb.EmailMeasures(sent=1000, delivered=970, opened=485))
    for day, sent in (("2026-03-01", 600), ("2026-03-02", 400)):
        report.days.add(day=day, measures=facts_pb.EmailMeasures(sent=sent))
    for step in ("one", "two"):
        report.steps.add(step_id=step, measures=facts_pb.EmailMeasures(sent=500))
    report.freshness.data_through.FromJsonString("2026-03-02T10:00:00Z")
    report.freshness.computed_at.FromJsonString("2026-03-02T10:00:01Z")
    text = text_of(reports.campaign("Spring [sale]", report))
    assert "Spring [sale]" in text
    assert "1,000" in text
    assert "97.0 %" in text
    assert "2026-03-02" in text
    assert "data through 2026-03-02 10:00:00 UTC, counted at 10:00:01 UTC" in text
    assert "outcome unknown" not in text


def test_a_report_of_nothing_says_that_nothing_is_loaded(text_of: Callable[[RenderableType], str]) -> None:
    text = text_of(reports.campaign("x", report_pb.GetCampaignReportResponse()))
    assert "nothing has been loaded yet" in text
    assert "%" not in text
