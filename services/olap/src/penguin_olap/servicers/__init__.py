"""OLAP's servicers: wire to domain, call, domain to wire. The only place that registers them."""

from __future__ import annotations

from penguin.olap.v1 import facts_service_pb2_grpc, report_service_pb2_grpc
from penguin_chassis.pool import Database
from penguin_chassis.server import Registration
from penguin_olap.servicers.facts import FactsServicer
from penguin_olap.servicers.reports import ReportServicer


def registrations(db: Database, price_usd_micros_per_email: int) -> list[Registration]:
    """Every service of this tier over one database; the price is of one sent email, in millionths of a US dollar."""
    return [
        Registration(
            "penguin.olap.v1.FactsService",
            facts_service_pb2_grpc.add_FactsServiceServicer_to_server,
            FactsServicer(db, price_usd_micros_per_email),
        ),
        Registration(
            "penguin.olap.v1.ReportService",
            report_service_pb2_grpc.add_ReportServiceServicer_to_server,
            ReportServicer(db),
        ),
    ]
