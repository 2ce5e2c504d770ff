"""Who is erased does not come back: not by a lead, an email or a suppression, nor by one that is being written meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from services.oltp.tests.rows import create_request, new_email, new_lead
from services.oltp.tests.rpc import test_leads

from penguin.common.v1 import errors_pb2
from penguin.oltp.v1 import lead_service_pb2 as lead_pb
from penguin.oltp.v1 import subject_service_pb2 as pb
from penguin.oltp.v1 import suppression_service_pb2 as suppression_pb
from penguin.oltp.v1.email_service_pb2_grpc import EmailServiceStub
from penguin.oltp.v1.lead_service_pb2_grpc import LeadServiceStub
from penguin.oltp.v1.subject_service_pb2_grpc import SubjectServiceStub
from penguin.oltp.v1.suppression_service_pb2_grpc import SuppressionServiceStub
from penguin_chassis.pool import Connection, Database, alone
from penguin_oltp.domain.subjects import pads
from penguin_oltp.store.subjects import WRITING, sql
from penguin_testkit.calling import Refused, TierClient
from penguin_testkit.holds import SUBJECT_KEY, subject

ADA = "Ada@Example.com"
# Advisory locks that somebody waits for, by pairs of a name and a tenant.
WAITS = (
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    " AND classid = hashtext($1)::oid AND objid = hashtext($2)::oid"
)


def suppress_request(tenant: UUID) -> pb.SuppressSubjectRequest:
    return pb.SuppressSubjectRequest(
        tenant_id=str(tenant), request_id=str(uuid4()), erasure_id=str(uuid4()), subject=subject(ADA),
        subject_key=SUBJECT_KEY, address=ADA,
    )  # fmt: skip


async def suppress(oltp: TierClient, tenant: UUID) -> None:
    await oltp.call(SubjectServiceStub(oltp.channel).SuppressSubject, suppress_request(tenant))


async def some_lead(oltp: TierClient, tenant: UUID) -> str:
    (made,) = await test_leads.create(oltp, tenant, new_lead())
    return made.lead.id


async def by_batch(oltp: TierClient, tenant: UUID, lead: str) -> str:
    *_, told = await test_leads.create(oltp, tenant, new_lead(), new_lead(email=ADA.lower()))
    return errors_pb2.ErrorReason.Name(told.error.reason).removeprefix("ERROR_REASON_")


async def by_update(oltp: TierClient, tenant: UUID, lead: str) -> str:
    request = lead_pb.UpdateLeadRequest(
        tenant_id=str(tenant), request_id=str(uuid4()), lead_id=lead, lead=lead_pb.LeadUpdate(email=ADA),
        update_mask=FieldMask(paths=["email"]),
    )  # fmt: skip
    return await refused(oltp, LeadServiceStub(oltp.channel).UpdateLead, request)


async def by_email(oltp: TierClient, tenant: UUID, lead: str) -> str:
    request = create_request(tenant, new_email(), new_email(recipient=ADA.upper()))
    *_, told = (await oltp.call(EmailServiceStub(oltp.channel).BatchCreateEmails, request)).results
    return errors_pb2.ErrorReason.Name(told.error.reason).removeprefix("ERROR_REASON_")


async def by_suppression(oltp: TierClient, tenant: UUID, lead: str) -> str:
    item = suppression_pb.NewSuppression(request_id=str(uuid4()), id=str(uuid4()), address=ADA)
    request = suppression_pb.CreateSuppressionRequest(tenant_id=str(tenant), suppression=item)
    return await refused(oltp, SuppressionServiceStub(oltp.channel).CreateSuppression, request)


async def refused(oltp: TierClient, method: Any, request: Any) -> str:
    try:
        await oltp.call(method, request)
    except Refused as error:
        return error.answer.reason
    return ""


Way = Callable[[TierClient, UUID, str], Coroutine[Any, Any, str]]
WAYS: dict[Way, str] = {
    by_batch: "SUBJECT_ERASED", by_update: "SUBJECT_ERASED", by_email: "RECIPIENT_SUPPRESSED",
    by_suppression: "ALREADY_EXISTS",
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
async def test_who_is_erased_is_not_written_anew(oltp: TierClient, tenant: UUID, stranger: UUID, way: Way) -> None:
    await suppress(oltp, tenant)
    assert await way(oltp, tenant, await some_lead(oltp, tenant)) == WAYS[way]
    assert await way(oltp, stranger, await some_lead(oltp, stranger)) in ("", "UNSPECIFIED"), (
        "erased from one tenant, and barred in another"
    )


async def waited_for(connection: Connection, tenant: UUID, *tasks: asyncio.Task[Any]) -> None:
    """Until one waits for the tenant's other writers."""
    async with asyncio.timeout(5):
        while not await connection.fetchval(WAITS, WRITING, str(tenant)):
            assert not any(task.done() for task in tasks), "it went on beside the others"


@pytest.mark.parametrize("way", WAYS)
async def test_a_writer_sees_a_bar_that_is_being_put(oltp: TierClient, db: Database, tenant: UUID, way: Way) -> None:
    lead = await some_lead(oltp, tenant)
    async with db.tenant(tenant) as barring:
        await alone(barring, tenant, WRITING)
        await barring.execute(sql.put_key, tenant, *pads(SUBJECT_KEY))
        await barring.execute(sql.bar, tenant, bytes.fromhex(subject(ADA)), uuid4(), datetime.now(UTC))
        writing = asyncio.create_task(way(oltp, tenant, lead))
        await waited_for(barring, tenant, writing)
    assert await writing == WAYS[way]


async def test_a_bar_waits_for_the_tenants_writers_and_for_nobody_elses(
    oltp: TierClient, db: Database, tenant: UUID, stranger: UUID
) -> None:
    async with db.tenant(tenant, beside=WRITING) as writing, db.tenant(tenant, beside=WRITING) as another:
        assert await another.fetchval("SELECT 1") == 1
        await suppress(oltp, stranger)
        barring = asyncio.create_task(suppress(oltp, tenant))
        await waited_for(writing, tenant, barring)
    await barring
