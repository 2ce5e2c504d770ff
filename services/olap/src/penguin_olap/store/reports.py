"""Reading facts. The watermark is read before the cells, so that a report never claims to be fresher than it is."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from penguin_chassis.pool import Connection, Database
from penguin_chassis.queries import load
from penguin_olap.domain.days import Span
from penguin_olap.domain.facts import MEASURES, Measures
from penguin_olap.domain.reports import (
    BillingReport,
    CampaignReport,
    CampaignTotals,
    Freshness,
    MailboxReport,
    Usage,
    newest,
)

sql = load("penguin_olap.store", "reports.sql")

# The source whose watermark says how far email facts go.
SOURCE = "oltp.ledger"
_USAGE = ("emails_sent", "emails_delivered", "emails_bounced", "content_bytes", "estimated_cost_usd_micros")


class ReportStore:
    """Reports of one database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def campaign(self, tenant_id: UUID, campaign_id: UUID, span: Span) -> CampaignReport:
        """One campaign by day and by step; nothing stored is an empty report, not an error."""
        async with self._db.tenant(tenant_id) as connection:
            through = await _data_through(connection, tenant_id)
            rows = await connection.fetch(sql.campaign, tenant_id, campaign_id, span.first, span.last)
        return CampaignReport(
            tuple((row["day"], _measures(row)) for row in rows if row["day"] is not None),
            tuple((row["step_id"], _measures(row)) for row in rows if row["day"] is None),
            _freshness(through, rows),
        )

    async def campaign_totals(self, tenant_id: UUID, span: Span, after: UUID, limit: int) -> CampaignTotals:
        """Up to `limit` campaigns after an id, in the order of their ids, each summed over the span."""
        async with self._db.tenant(tenant_id) as connection:
            through = await _data_through(connection, tenant_id)
            rows = await connection.fetch(sql.campaign_totals, tenant_id, after, span.first, span.last, limit)
        return CampaignTotals(tuple((row["campaign_id"], _measures(row)) for row in rows), _freshness(through, rows))

    async def mailbox(self, tenant_id: UUID, email_account_id: UUID, span: Span) -> MailboxReport:
        """One mailbox by day."""
        async with self._db.tenant(tenant_id) as connection:
            through = await _data_through(connection, tenant_id)
            rows = await connection.fetch(sql.mailbox, tenant_id, email_account_id, span.first, span.last)
        return MailboxReport(tuple((row["day"], _measures(row)) for row in rows), _freshness(through, rows))

    async def billing(self, tenant_id: UUID, span: Span) -> BillingReport:
        """The tenant's usage by day; days that were never loaded are absent."""
        async with self._db.tenant(tenant_id) as connection:
            through = await _data_through(connection, tenant_id)
            rows = await connection.fetch(sql.billing, tenant_id, span.first, span.last)
        days = tuple((row["day"], Usage(**{name: row[name] for name in _USAGE})) for row in rows)
        return BillingReport(days, _freshness(through, rows))


async def _data_through(connection: Connection, tenant_id: UUID) -> datetime | None:
    found: datetime | None = await connection.fetchval(sql.data_through, tenant_id, SOURCE)
    return found


def _measures(row: Any) -> Measures:
    return Measures(**{name: row[name] for name in MEASURES})


def _freshness(through: datetime | None, rows: Sequence[Any]) -> Freshness:
    return Freshness(through, newest(row["computed_at"] for row in rows))
