"""What a provider reports of an erased person's email is counted as ever, once, and does not bring the address back."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from services.oltp.tests.rows import ahead, create_request, new_email

from penguin.oltp.v1 import email_service_pb2 as pb
from penguin.oltp.v1.email_service_pb2_grpc import EmailServiceStub
from penguin_chassis.pool import Connection, Database
from penguin_oltp.domain.subjects import ERASED
from penguin_oltp.store.subjects import sql
from penguin_testkit.calling import TierClient
from penguin_testkit.mentions import mentioned

ADA = "ada@example.com"
CLICKED, OPENED = pb.EMAIL_EVENT_KIND_CLICKED, pb.EMAIL_EVENT_KIND_OPENED
# Whether anybody waits for what this connection holds.
WAITED_FOR = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))"


@pytest.fixture
async def email(oltp: TierClient, tenant: UUID) -> str:
    """An email to Ada; its id."""
    request = create_request(tenant, new_email(recipient=ADA))
    (made,) = (await oltp.call(EmailServiceStub(oltp.channel).BatchCreateEmails, request)).results
    return str(made.email.id)


def event(email: str, event_id: str, kind: Any = CLICKED, at: Timestamp | None = None) -> pb.EmailEvent:
    return pb.EmailEvent(email_id=email, kind=kind, provider_event_id=event_id, occurred_at=at or ahead(0))


async def report(oltp: TierClient, tenant: UUID, *events: pb.EmailEvent) -> list[bool]:
    """Whether each is answered as a repeat."""
    request = pb.BatchRecordEventsRequest(tenant_id=str(tenant), events=events)
    results = (await oltp.call(EmailServiceStub(oltp.channel).BatchRecordEvents, request)).results
    assert all(each.WhichOneof("outcome") == "recorded" for each in results)
    return [each.recorded.repeated_event for each in results]


async def ids(db: Database, tenant: UUID) -> list[str]:
    async with db.tenant(tenant) as connection:
        rows = await connection.fetch("SELECT provider_event_id FROM email_event_ids WHERE tenant_id = $1", tenant)
    return [row["provider_event_id"] for row in rows]


async def tallies(db: Database, tenant: UUID) -> dict[str, int]:
    async with db.tenant(tenant) as connection:
        rows = await connection.fetch("SELECT kind, count FROM email_event_tallies WHERE tenant_id = $1", tenant)
    return {row["kind"]: row["count"] for row in rows}


async def test_what_is_reported_again_after_the_erasure_is_a_repeat(
    oltp: TierClient, db: Database, tenant: UUID, email: str
) -> None:
    """Whether its id was made of the address or not."""
    first = [event(email, f"{ADA}/1"), event(email, "2"), event(email, f"{ADA.upper()}/3", OPENED)]
    assert await report(oltp, tenant, *first) == [False] * 3
    await mentioned(oltp, tenant, ADA)
    assert await report(oltp, tenant, *first) == [True] * 3
    assert await tallies(db, tenant) == {"clicked": 2, "opened": 1}
    assert len(await ids(db, tenant)) == 3


async def test_what_is_reported_late_is_counted_and_its_id_not_kept(
    oltp: TierClient, db: Database, tenant: UUID, email: str
) -> None:
    await mentioned(oltp, tenant, ADA)
    late = event(email, f"{ADA}/late")
    assert await report(oltp, tenant, late, late) == [False, True]
    assert await report(oltp, tenant, late) == [True]
    assert await tallies(db, tenant) == {"clicked": 1}
    assert not [each for each in await ids(db, tenant) if ADA in each]


async def test_what_is_reported_in_the_midst_of_the_erasure_waits_for_it(
    oltp: TierClient, db: Database, tenant: UUID, email: str
) -> None:
    reported = event(email, f"{ADA}/meanwhile")
    async with db.tenant(tenant) as erasing:
        found = [row["id"] for row in await erasing.fetch(sql.lock_emails, tenant, ADA, 10)]
        await erasing.execute(sql.clear_event_ids, tenant, found)
        reporting = asyncio.create_task(report(oltp, tenant, reported))
        await waited_for(erasing, reporting)
        await erasing.execute(sql.anonymise, tenant, found, ERASED)
    assert await reporting == [False]
    assert not [each for each in await ids(db, tenant) if ADA in each]
    assert await report(oltp, tenant, reported) == [True]


async def waited_for(connection: Connection, task: asyncio.Task[Any]) -> None:
    async with asyncio.timeout(5):
        while not await connection.fetchval(WAITED_FOR):
            assert not task.done(), "it went on beside the erasure"


async def test_ids_of_others_stay_as_they_are(oltp: TierClient, db: Database, tenant: UUID, email: str) -> None:
    other = create_request(tenant, new_email(recipient="bob@example.com"))
    (made,) = (await oltp.call(EmailServiceStub(oltp.channel).BatchCreateEmails, other)).results
    bobs = event(made.email.id, "bob/1")
    await report(oltp, tenant, event(email, f"{ADA}/1"), bobs)
    await mentioned(oltp, tenant, ADA)
    assert await report(oltp, tenant, bobs, event(made.email.id, "bob/2")) == [True, False]
    kept = await ids(db, tenant)
    assert {each for each in kept if not each.startswith("erased/")} == {"bob/1", "bob/2"}
    assert len(kept) == 3
