"""Reports as values, and how their rows become totals."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from uuid import UUID

from penguin_olap.domain.facts import Measures


@dataclass(frozen=True)
class Freshness:
    """Every change before `data_through` is in (None: never loaded); `computed_at`: the newest cell read (None: none)."""

    data_through: datetime | None
    computed_at: datetime | None


@dataclass(frozen=True)
class CampaignReport:
    """One campaign over a span."""

    days: tuple[tuple[date, Measures], ...]
    steps: tuple[tuple[UUID, Measures], ...]
    freshness: Freshness


@dataclass(frozen=True)
class MailboxReport:
    """One mailbox over a span."""

    days: tuple[tuple[date, Measures], ...]
    freshness: Freshness


@dataclass(frozen=True)
class CampaignTotals:
    """Every campaign over a span: one page of it."""

    campaigns: tuple[tuple[UUID, Measures], ...]
    freshness: Freshness


@dataclass(frozen=True)
class Usage:
    """What a tenant used and what that costs, in millionths of a US dollar."""

    emails_sent: int = 0
    emails_delivered: int = 0
    emails_bounced: int = 0
    content_bytes: int = 0
    estimated_cost_usd_micros: int = 0


@dataclass(frozen=True)
class BillingReport:
    """A tenant's usage over a span."""

    days: tuple[tuple[date, Usage], ...]
    freshness: Freshness


def total_usage(parts: Iterable[Usage]) -> Usage:
    """The sum of usage."""
    rows = list(parts)
    return Usage(
        emails_sent=sum(u.emails_sent for u in rows),
        emails_delivered=sum(u.emails_delivered for u in rows),
        emails_bounced=sum(u.emails_bounced for u in rows),
        content_bytes=sum(u.content_bytes for u in rows),
        estimated_cost_usd_micros=sum(u.estimated_cost_usd_micros for u in rows),
    )


def newest(moments: Iterable[datetime]) -> datetime | None:
    """The latest moment, or None where there is none."""
    return max(moments, default=None)
