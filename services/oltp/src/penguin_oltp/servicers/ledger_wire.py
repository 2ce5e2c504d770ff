"""The ledger's counts between the domain and the wire."""

from __future__ import annotations

from datetime import date

from penguin.oltp.v1 import ledger_service_pb2 as pb
from penguin_chassis.faults import InvalidArgument
from penguin_chassis.wire import text
from penguin_oltp.domain.ledger import Cell


def day(value: str) -> date:
    """An ISO date; raises InvalidArgument for a day no month has."""
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise InvalidArgument("day is no date.", field="day") from None


def cell(row: Cell) -> pb.LedgerCell:
    """One cell; measures that did not happen are 0."""
    return pb.LedgerCell(
        campaign_id=text(row.campaign_id),
        step_id=text(row.step_id),
        email_account_id=text(row.email_account_id),
        **row.measures,
    )
