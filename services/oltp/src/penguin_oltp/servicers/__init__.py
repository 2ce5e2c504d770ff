"""OLTP's servicers: wire to domain, call, domain to wire. The only place that registers them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from penguin.oltp.v1 import (
    campaign_service_pb2_grpc,
    company_service_pb2_grpc,
    domain_service_pb2_grpc,
    email_account_service_pb2_grpc,
    email_service_pb2_grpc,
    inbox_service_pb2_grpc,
    lead_service_pb2_grpc,
    ledger_service_pb2_grpc,
    reconcile_service_pb2_grpc,
    saga_service_pb2_grpc,
    sequence_step_service_pb2_grpc,
    suppression_service_pb2_grpc,
    template_service_pb2_grpc,
    tenant_service_pb2_grpc,
    user_service_pb2_grpc,
)
from penguin_chassis.pool import Database
from penguin_chassis.server import Registration
from penguin_oltp.servicers.campaigns import CampaignServicer
from penguin_oltp.servicers.companies import CompanyServicer
from penguin_oltp.servicers.domains import DomainServicer
from penguin_oltp.servicers.email_accounts import EmailAccountServicer
from penguin_oltp.servicers.emails import EmailServicer
from penguin_oltp.servicers.inbox import InboxServicer
from penguin_oltp.servicers.leads import LeadServicer
from penguin_oltp.servicers.ledger import LedgerServicer
from penguin_oltp.servicers.reconcile import ReconcileServicer
from penguin_oltp.servicers.sagas import SagaServicer
from penguin_oltp.servicers.sequence_steps import SequenceStepServicer
from penguin_oltp.servicers.suppressions import SuppressionServicer
from penguin_oltp.servicers.templates import TemplateServicer
from penguin_oltp.servicers.tenants import TenantServicer
from penguin_oltp.servicers.users import UserServicer

# Service -> what adds it to a server, and its servicer.
_SERVICES: dict[str, tuple[Callable[[Any, Any], None], Callable[[Database], Any]]] = {
    "TenantService": (tenant_service_pb2_grpc.add_TenantServiceServicer_to_server, TenantServicer),
    "UserService": (user_service_pb2_grpc.add_UserServiceServicer_to_server, UserServicer),
    "CompanyService": (company_service_pb2_grpc.add_CompanyServiceServicer_to_server, CompanyServicer),
    "DomainService": (domain_service_pb2_grpc.add_DomainServiceServicer_to_server, DomainServicer),
    "EmailAccountService": (
        email_account_service_pb2_grpc.add_EmailAccountServiceServicer_to_server,
        EmailAccountServicer,
    ),
    "LeadService": (lead_service_pb2_grpc.add_LeadServiceServicer_to_server, LeadServicer),
    "TemplateService": (template_service_pb2_grpc.add_TemplateServiceServicer_to_server, TemplateServicer),
    "CampaignService": (campaign_service_pb2_grpc.add_CampaignServiceServicer_to_server, CampaignServicer),
    "SequenceStepService": (
        sequence_step_service_pb2_grpc.add_SequenceStepServiceServicer_to_server,
        SequenceStepServicer,
    ),
    "EmailService": (email_service_pb2_grpc.add_EmailServiceServicer_to_server, EmailServicer),
    "SuppressionService": (suppression_service_pb2_grpc.add_SuppressionServiceServicer_to_server, SuppressionServicer),
    "InboxService": (inbox_service_pb2_grpc.add_InboxServiceServicer_to_server, InboxServicer),
    "LedgerService": (ledger_service_pb2_grpc.add_LedgerServiceServicer_to_server, LedgerServicer),
    "ReconcileService": (reconcile_service_pb2_grpc.add_ReconcileServiceServicer_to_server, ReconcileServicer),
    "SagaService": (saga_service_pb2_grpc.add_SagaServiceServicer_to_server, SagaServicer),
}


def registrations(db: Database) -> list[Registration]:
    """Every service of this tier over one database."""
    return [
        Registration(f"penguin.oltp.v1.{service}", add, servicer(db)) for service, (add, servicer) in _SERVICES.items()
    ]
