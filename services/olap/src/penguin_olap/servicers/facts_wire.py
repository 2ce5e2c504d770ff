"""Facts between the wire and the domain."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from penguin.olap.v1 import facts_service_pb2 as pb
from penguin_chassis.wire import number, stamp, when
from penguin_olap.domain.days import day_of
from penguin_olap.domain.facts import (
    MEASURES,
    NOBODY,
    TABLES,
    Cell,
    DayFact,
    DayLoad,
    Measures,
    Watermark,
    counts_of,
    day_load,
    not_ahead,
)


def loading(request: pb.LoadDayRequest, at: datetime) -> DayLoad:
    """A load; raises InvalidArgument for a day no calendar has, a cell given twice, a count made in the future."""
    day = day_of(request.day, "day")
    return day_load(day, [_cell(c) for c in request.cells], request.content_bytes, _moment(request, "computed_at"), at)


def data_through(request: pb.CommitWatermarkRequest, at: datetime) -> datetime:
    """How far the source says it is loaded; raises InvalidArgument for the future."""
    moment = _moment(request, "data_through")
    not_ahead(moment, at, "data_through")
    return moment


def watermark(row: Watermark) -> pb.Watermark:
    """A stored watermark."""
    return pb.Watermark(
        source=row.source,
        cursor=row.cursor,
        data_through=stamp(row.data_through),
        committed_at=stamp(row.committed_at),
    )


def measures(counts: Measures) -> pb.EmailMeasures:
    """Counts as the wire has them."""
    return pb.EmailMeasures(**dict(zip(MEASURES, counts_of(counts), strict=True)))


def fact(row: DayFact) -> pb.DayFact:
    """A row of a table."""
    ids = {name: getattr(row, name) for name in ("campaign_id", "step_id", "email_account_id")}
    return pb.DayFact(
        table=number(pb.FactTable, row.table), measures=measures(row.measures),
        **{name: str(each) for name, each in ids.items() if each != NOBODY},
    )  # fmt: skip


def place(row: DayFact) -> list[str]:
    """Where a page ends."""
    return [row.table, str(row.campaign_id), str(row.step_id), str(row.email_account_id)]


def placed(key: list[Any]) -> DayFact:
    """Where a page begins; raises ValueError."""
    table, *ids = key
    if table not in TABLES:
        raise ValueError(table)
    campaign, step, account = map(UUID, ids)
    return DayFact(table, campaign, step, account, Measures())


def _cell(item: pb.EmailCell) -> Cell:
    return Cell(
        _id(item.campaign_id),
        _id(item.step_id),
        _id(item.email_account_id),
        Measures(**{name: getattr(item.measures, name) for name in MEASURES}),
    )


def _id(text: str) -> UUID:
    return UUID(text) if text else NOBODY


def _moment(request: pb.LoadDayRequest | pb.CommitWatermarkRequest, field: str) -> datetime:
    moment = when(request, field)
    if moment is None:
        raise ValueError(f"{field} is required by the contract")
    return moment
