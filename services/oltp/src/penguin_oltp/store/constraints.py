"""What a broken constraint means to a client. The constraint's name decides, never what the database says about it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from uuid import UUID

import asyncpg

from penguin_chassis.faults import AlreadyExists, FailedPrecondition, Fault, NotFound

# Unique constraint -> resource and the field that must differ. Keys over minted ids are not here one by one: see `_taken`.
UNIQUE = {
    "users_email": ("user", "email"),
    "domains_name": ("domain", "domain"),
    "email_accounts_email": ("email_account", "email"),
    "leads_list_email": ("lead", "email"),
    "templates_content": ("template", "content_storage_key"),
    "campaign_sequence_steps_order": ("sequence_step", "step_order"),
    "suppressions_address": ("suppression", "address"),
    "emails_step_lead": ("email", "lead_id"),
    "emails_content": ("email", "content_storage_key"),
    "inbox_message_refs_fingerprint": ("inbox_message", "fingerprint"),
    "inbox_message_refs_content": ("inbox_message", "content_storage_key"),
}
# Primary key -> resource: the id the caller minted stands already.
PRIMARY = {
    "tenants_pkey": "tenant",
    "users_pkey": "user",
    "companies_pkey": "company",
    "domains_pkey": "domain",
    "email_accounts_pkey": "email_account",
    "leads_pkey": "lead",
    "templates_pkey": "template",
    "campaigns_pkey": "campaign",
    "campaign_sequence_steps_pkey": "sequence_step",
    "suppressions_pkey": "suppression",
    "emails_pkey": "email",
    "inbox_message_refs_pkey": "inbox_message",
}
# Foreign key -> the field that refers. Those on tenant_id alone are not here: see `_missing`.
FOREIGN = {
    "domains_tenant_id_company_id_fkey": "company_id",
    "email_accounts_tenant_id_domain_id_fkey": "domain_id",
    "campaigns_tenant_id_company_id_fkey": "company_id",
    "campaign_sequence_steps_tenant_id_campaign_id_fkey": "campaign_id",
    "campaign_sequence_steps_tenant_id_email_account_id_fkey": "email_account_id",
    "campaign_sequence_steps_tenant_id_template_id_fkey": "template_id",
    "emails_tenant_id_campaign_id_fkey": "campaign_id",
    "emails_tenant_id_step_id_fkey": "step_id",
    "emails_tenant_id_lead_id_fkey": "lead_id",
    "emails_tenant_id_email_account_id_fkey": "email_account_id",
}


def taken(resource: str, field: str) -> AlreadyExists:
    """Something else of the tenant has this field's value."""
    return AlreadyExists(
        f"A {resource} with this {field} exists.", field=field, metadata={"resource": resource, "field": field}
    )


def _taken(constraint: str) -> Fault | None:
    if constraint in UNIQUE:
        return taken(*UNIQUE[constraint])
    return taken(PRIMARY[constraint], "id") if constraint in PRIMARY else None


def reference_missing(field: str) -> FailedPrecondition:
    """The tenant has nothing that `field` could refer to."""
    return FailedPrecondition(
        f"{field} refers to nothing of this tenant.", reason="REFERENCE_MISSING", field=field, metadata={"field": field}
    )


def _missing(constraint: str, tenant_id: UUID) -> Fault | None:
    if constraint in FOREIGN:
        return reference_missing(FOREIGN[constraint])
    return NotFound("tenant", tenant_id, field="tenant_id") if constraint.endswith("_tenant_id_fkey") else None


@contextlib.contextmanager
def writing(tenant_id: UUID) -> Iterator[None]:
    """Translate what a write breaks: AlreadyExists, FailedPrecondition (REFERENCE_MISSING), NotFound for the tenant."""
    try:
        yield
    except asyncpg.UniqueViolationError as error:
        if (fault := _taken(error.constraint_name or "")) is None:
            raise
        raise fault from None
    except asyncpg.ForeignKeyViolationError as error:
        if (fault := _missing(error.constraint_name or "", tenant_id)) is None:
            raise
        raise fault from None


@contextlib.contextmanager
def deleting(resource: str) -> Iterator[None]:
    """Translate a removal that others stand in the way of: FailedPrecondition (STILL_REFERENCED)."""
    try:
        yield
    except asyncpg.ForeignKeyViolationError:
        raise FailedPrecondition(
            f"Other rows refer to this {resource}.", reason="STILL_REFERENCED", metadata={"resource": resource}
        ) from None
