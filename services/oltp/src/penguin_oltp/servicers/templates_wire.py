"""Templates between the wire and the domain."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from penguin.oltp.v1 import template_service_pb2 as pb
from penguin_chassis.wire import stamp
from penguin_oltp.domain.templates import Template
from penguin_oltp.servicers.changes import changes


def new_template(tenant_id: UUID, item: pb.NewTemplate, at: datetime) -> Template:
    """A template as it begins."""
    return Template(
        tenant_id=tenant_id,
        id=UUID(item.id),
        name=item.name,
        subject=item.subject,
        content_storage_key=item.content_storage_key,
        content_generation=item.content_generation,
        version=1,
        created_at=at,
        updated_at=at,
    )


def template(row: Template) -> pb.Template:
    """A template as it stands."""
    return pb.Template(
        id=str(row.id),
        tenant_id=str(row.tenant_id),
        name=row.name,
        subject=row.subject,
        content_storage_key=row.content_storage_key,
        content_generation=row.content_generation,
        created_at=stamp(row.created_at),
        updated_at=stamp(row.updated_at),
        etag=str(row.version),
    )


def changed_template(request: pb.UpdateTemplateRequest) -> dict[str, Any]:
    """What an update changes."""
    return changes(request, request.template, required=("name", "content_storage_key"))
