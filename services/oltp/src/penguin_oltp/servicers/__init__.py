"""OLTP's servicers: wire to domain, call, domain to wire. The only place that registers them."""

from __future__ import annotations

from penguin.oltp.v1 import email_service_pb2_grpc
from penguin_chassis.pool import Database
from penguin_chassis.server import Registration
from penguin_oltp.servicers.emails import EmailServicer


def registrations(db: Database) -> list[Registration]:
    """Every service of this tier over one database."""
    return [
        Registration(
            "penguin.oltp.v1.EmailService",
            email_service_pb2_grpc.add_EmailServiceServicer_to_server,
            EmailServicer(db),
        ),
    ]
