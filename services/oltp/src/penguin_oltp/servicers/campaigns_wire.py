"""Campaigns between the wire and the domain."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from penguin.oltp.v1 import campaign_service_pb2 as pb
from penguin.oltp.v1 import email_service_pb2 as email_pb
from penguin_chassis.wire import number, stamp, text, uuid_or_none
from penguin_oltp.domain.campaigns import DRAFT, Campaign, Progress
from penguin_oltp.servicers.changes import changes


def new_campaign(tenant_id: UUID, item: pb.NewCampaign, at: datetime) -> Campaign:
    """A campaign as it begins."""
    return Campaign(
        tenant_id=tenant_id,
        id=UUID(item.id),
        name=item.name,
        audience_list=item.audience_list,
        company_id=uuid_or_none(item.company_id),
        status=DRAFT,
        launched_at=None,
        sealed_at=None,
        completed_at=None,
        version=1,
        created_at=at,
        updated_at=at,
    )


def campaign(row: Campaign) -> pb.Campaign:
    """A campaign as it stands."""
    return pb.Campaign(
        id=str(row.id),
        tenant_id=str(row.tenant_id),
        name=row.name,
        audience_list=row.audience_list,
        company_id=text(row.company_id),
        status=number(pb.CampaignStatus, row.status),
        launched_at=stamp(row.launched_at),
        sealed_at=stamp(row.sealed_at),
        completed_at=stamp(row.completed_at),
        created_at=stamp(row.created_at),
        updated_at=stamp(row.updated_at),
        etag=str(row.version),
    )


def changed_campaign(request: pb.UpdateCampaignRequest) -> dict[str, Any]:
    """What an update changes."""
    update = request.campaign
    company_id = uuid_or_none(update.company_id)
    return changes(request, update, required=("name", "audience_list"), company_id=company_id)


def progress(found: Progress) -> pb.GetCampaignProgressResponse:
    """What the ledger counts."""
    return pb.GetCampaignProgressResponse(
        counts=[
            pb.EmailStatusCount(status=number(email_pb.EmailStatus, status), count=count)
            for status, count in found.statuses.items()
        ],
        events=[
            pb.EmailEventCount(kind=number(email_pb.EmailEventKind, kind), count=count)
            for kind, count in found.events.items()
        ],
    )
