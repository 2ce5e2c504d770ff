"""Requests that OLAP's tests begin with."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from google.protobuf.timestamp_pb2 import Timestamp

from penguin.olap.v1 import facts_service_pb2 as facts_pb
from penguin.olap.v1 import report_service_pb2 as report_pb

DAY = "2031-05-17"
# Every test's counts were made in this hour, so that later ones are in the past too.
COUNTED = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)


def counted(seconds: float = 0) -> Timestamp:
    """A moment of counting, `seconds` after the first."""
    stamp = Timestamp()
    stamp.FromDatetime(COUNTED + timedelta(seconds=seconds))
    return stamp


def cell(campaign: str = "", step: str = "", mailbox: str = "", **measures: int) -> facts_pb.EmailCell:
    """One cell; a measure not named is 0."""
    return facts_pb.EmailCell(
        campaign_id=campaign,
        step_id=step,
        email_account_id=mailbox,
        measures=facts_pb.EmailMeasures(**measures),
    )


def load_request(
    tenant: UUID, *cells: facts_pb.EmailCell, day: str = DAY, at: float = 0, **fields: Any
) -> facts_pb.LoadDayRequest:
    """A load of a day, counted `at` seconds after the first count."""
    right: dict[str, Any] = {
        "tenant_id": str(tenant),
        "request_id": str(uuid4()),
        "day": day,
        "cells": cells,
        "computed_at": counted(at),
    }
    return facts_pb.LoadDayRequest(**right | fields)


def watermark_request(
    tenant: UUID, *, at: float = 0, cursor: str = "1", source: str = "oltp.ledger", **fields: Any
) -> facts_pb.CommitWatermarkRequest:
    """A watermark `at` seconds after the first count."""
    right: dict[str, Any] = {
        "tenant_id": str(tenant),
        "request_id": str(uuid4()),
        "source": source,
        "cursor": cursor,
        "data_through": counted(at),
    }
    return facts_pb.CommitWatermarkRequest(**right | fields)


def span(first: str = "2031-05-01", last: str = "2031-05-31") -> report_pb.DaySpan:
    """A span of days, by default DAY's month."""
    return report_pb.DaySpan(first_day=first, last_day=last)
