"""Content's servicers: wire to domain, call, domain to wire. The only place that registers them."""

from __future__ import annotations

from penguin.content.v1 import content_service_pb2_grpc
from penguin_chassis.pool import Database
from penguin_chassis.server import Registration
from penguin_content.servicers.contents import ContentServicer


def registrations(db: Database) -> list[Registration]:
    """Every service of this tier over one database."""
    return [
        Registration(
            "penguin.content.v1.ContentService",
            content_service_pb2_grpc.add_ContentServiceServicer_to_server,
            ContentServicer(db),
        ),
    ]
