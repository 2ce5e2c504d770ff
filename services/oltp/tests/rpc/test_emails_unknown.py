"""Emails of which nobody knows whether they came: held, sent again, settled, requeued."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from services.oltp.tests.rows import ahead, make_tenant, new_suppression, owed
from services.oltp.tests.rpc.test_emails import create, outcome, record, start, stub

from penguin.common.v1 import errors_pb2
from penguin.oltp.v1 import email_service_pb2 as pb
from penguin.oltp.v1 import subject_service_pb2 as subject_pb
from penguin.oltp.v1 import suppression_service_pb2 as suppression_pb
from penguin.oltp.v1.email_service_pb2_grpc import EmailServiceStub
from penguin.oltp.v1.subject_service_pb2_grpc import SubjectServiceStub
from penguin.oltp.v1.suppression_service_pb2_grpc import SuppressionServiceStub
from penguin_chassis.pool import Database
from penguin_testkit.calling import TierClient
from penguin_testkit.holds import SUBJECT_KEY, subject

__all__ = ["stub"]


async def test_the_same_worker_may_ask_twice_a_successor_is_held(
    oltp: TierClient, stub: EmailServiceStub, tenant: UUID
) -> None:
    created = await create(oltp, stub, tenant)
    request_id = str(uuid4())
    for _ in range(2):
        started = await start(oltp, stub, tenant, created.id, request_id)
        assert (started.decision, started.email.attempt) == (pb.ATTEMPT_DECISION_SEND, 1)
    held = await start(oltp, stub, tenant, created.id)
    assert (held.decision, held.email.status) == (pb.ATTEMPT_DECISION_HELD, pb.EMAIL_STATUS_OUTCOME_UNKNOWN)
    settled = await oltp.call(
        stub.SettleEmail,
        pb.SettleEmailRequest(
            tenant_id=str(tenant), request_id=str(uuid4()), email_id=created.id, settlement=pb.SETTLEMENT_RESEND
        ),
    )
    assert settled.email.status == pb.EMAIL_STATUS_QUEUED
    assert (await start(oltp, stub, tenant, created.id)).email.attempt == 2


async def test_resend_policy_sends_again_under_the_same_message_id(
    oltp: TierClient, stub: EmailServiceStub, db: Database
) -> None:
    tenant = await make_tenant(db, "resend")
    created = await create(oltp, stub, tenant)
    await start(oltp, stub, tenant, created.id)
    again = await start(oltp, stub, tenant, created.id)
    assert (again.decision, again.email.attempt) == (pb.ATTEMPT_DECISION_SEND, 2)
    assert again.email.message_id == created.message_id
    email = (await oltp.call(stub.GetEmail, pb.GetEmailRequest(tenant_id=str(tenant), email_id=created.id))).email
    assert [a.outcome for a in email.attempts] == [pb.ATTEMPT_OUTCOME_UNKNOWN, pb.ATTEMPT_OUTCOME_UNSPECIFIED]


@pytest.fixture
async def put_back(db: Database) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Has the database be put back to an older state now."""
    async with db.maintenance() as connection:
        began_at = await connection.fetchval("SELECT began_at FROM incarnation")

    async def now(at: datetime | None = None) -> None:
        async with db.maintenance() as connection:
            await connection.execute("UPDATE incarnation SET began_at = coalesce($1, clock_timestamp())", at)

    yield now
    await now(began_at)


async def test_what_another_worker_may_have_begun_before_the_database_was_put_back_is_held(
    oltp: TierClient, stub: EmailServiceStub, tenant: UUID, put_back: Callable[[], Awaitable[None]]
) -> None:
    before, untouched = await create(oltp, stub, tenant), await create(oltp, stub, tenant)
    await put_back()
    after = await create(oltp, stub, tenant)
    # Its job was never out of anybody's hands, or it was queued in this life of the database: all that was begun is known.
    assert (await start(oltp, stub, tenant, untouched.id)).decision == pb.ATTEMPT_DECISION_SEND
    assert (await start(oltp, stub, tenant, after.id, lost=True)).decision == pb.ATTEMPT_DECISION_SEND
    held = await start(oltp, stub, tenant, before.id, lost=True)
    assert (held.decision, held.email.status) == (pb.ATTEMPT_DECISION_HELD, pb.EMAIL_STATUS_OUTCOME_UNKNOWN)
    assert await attempts(oltp, stub, tenant, before.id) == [(1, pb.ATTEMPT_OUTCOME_UNKNOWN)]
    # Its worker lives after all.
    assert (await record(oltp, stub, tenant, before.id, pb.ATTEMPT_OUTCOME_SENT, 1)).status == pb.EMAIL_STATUS_SENT
    assert await attempts(oltp, stub, tenant, before.id) == [(1, pb.ATTEMPT_OUTCOME_SENT)]


async def test_what_was_begun_in_this_life_of_the_database_is_known_however_often_leases_are_lost(
    oltp: TierClient, stub: EmailServiceStub, tenant: UUID, put_back: Callable[[], Awaitable[None]]
) -> None:
    deferred, settled = await create(oltp, stub, tenant), await create(oltp, stub, tenant)
    await put_back()
    await start(oltp, stub, tenant, deferred.id)
    await record(oltp, stub, tenant, deferred.id, pb.ATTEMPT_OUTCOME_DEFERRED)
    assert (await start(oltp, stub, tenant, deferred.id, lost=True)).decision == pb.ATTEMPT_DECISION_SEND
    assert (await start(oltp, stub, tenant, settled.id, lost=True)).decision == pb.ATTEMPT_DECISION_HELD
    request = pb.SettleEmailRequest(
        tenant_id=str(tenant), request_id=str(uuid4()), email_id=settled.id, settlement=pb.SETTLEMENT_RESEND
    )
    await oltp.call(stub.SettleEmail, request)
    again = await start(oltp, stub, tenant, settled.id, lost=True)
    assert (again.decision, again.email.attempt) == (pb.ATTEMPT_DECISION_SEND, 2)


async def test_who_chose_so_has_it_sent_again_though_it_may_have_been_begun_before_the_database_was_put_back(
    oltp: TierClient, stub: EmailServiceStub, db: Database, put_back: Callable[[], Awaitable[None]]
) -> None:
    tenant = await make_tenant(db, "resend")
    created, unwanted = await create(oltp, stub, tenant), await create(oltp, stub, tenant)
    await put_back()
    again = await start(oltp, stub, tenant, created.id, lost=True)
    # Under a number of its own: the first may still be told of, and an end of the second does not say that it never came.
    assert (again.decision, again.email.attempt) == (pb.ATTEMPT_DECISION_SEND, 2)
    rejected = await record(oltp, stub, tenant, created.id, pb.ATTEMPT_OUTCOME_REJECTED, 2)
    assert rejected.status == pb.EMAIL_STATUS_OUTCOME_UNKNOWN
    await unsubscribes(oltp, tenant, unwanted)
    assert (await start(oltp, stub, tenant, unwanted.id, lost=True)).decision == pb.ATTEMPT_DECISION_HELD


async def attempts(oltp: TierClient, stub: EmailServiceStub, tenant: UUID, email_id: str) -> list[tuple[int, Any]]:
    email = (await oltp.call(stub.GetEmail, pb.GetEmailRequest(tenant_id=str(tenant), email_id=email_id))).email
    return [(each.attempt, each.outcome) for each in email.attempts]


async def test_several_words_on_an_email_that_was_put_back_leave_no_attempt_open(
    oltp: TierClient, stub: EmailServiceStub, tenant: UUID, put_back: Callable[[], Awaitable[None]]
) -> None:
    created, other = await create(oltp, stub, tenant), await create(oltp, stub, tenant)
    started = await start(oltp, stub, tenant, other.id)
    assert started.email.attempt == 1
    await put_back()
    sent, deferred = pb.ATTEMPT_OUTCOME_SENT, pb.ATTEMPT_OUTCOME_DEFERRED
    items = [
        outcome(email_id, told, attempt)
        for email_id, told, attempt in [
            (created.id, deferred, 2), (created.id, deferred, 1), (created.id, sent, 3), (created.id, sent, 4),
            (other.id, sent, 102), (other.id, sent, 2),
        ]
    ]  # fmt: skip
    request = pb.BatchRecordOutcomesRequest(tenant_id=str(tenant), outcomes=items)
    results = (await oltp.call(stub.BatchRecordOutcomes, request)).results
    queued, conflict = pb.EMAIL_STATUS_QUEUED, errors_pb2.ERROR_REASON_ATTEMPT_CONFLICT
    assert [r.error.reason or r.status for r in results] == [
        queued, queued, pb.EMAIL_STATUS_SENT, conflict, conflict, pb.EMAIL_STATUS_SENT,
    ]  # fmt: skip
    assert await attempts(oltp, stub, tenant, created.id) == [(2, deferred), (3, sent)]
    assert await attempts(oltp, stub, tenant, other.id) == [(1, pb.ATTEMPT_OUTCOME_UNSPECIFIED), (2, sent)]


@pytest.mark.parametrize(
    ("told", "status"),
    [
        (pb.ATTEMPT_OUTCOME_SENT, pb.EMAIL_STATUS_SENT),
        (pb.ATTEMPT_OUTCOME_REJECTED, pb.EMAIL_STATUS_FAILED),
        (pb.ATTEMPT_OUTCOME_UNKNOWN, pb.EMAIL_STATUS_OUTCOME_UNKNOWN),
        (pb.ATTEMPT_OUTCOME_DEFERRED, pb.EMAIL_STATUS_QUEUED),
    ],
)
async def test_a_worker_that_outlived_a_restore_is_believed(
    oltp: TierClient,
    stub: EmailServiceStub,
    tenant: UUID,
    put_back: Callable[[], Awaitable[None]],
    told: Any,
    status: Any,
) -> None:
    created = await create(oltp, stub, tenant)
    refused = await record(oltp, stub, tenant, created.id, told)
    assert refused.error.reason == errors_pb2.ERROR_REASON_ATTEMPT_CONFLICT
    await put_back()
    for _ in range(2):
        assert (await record(oltp, stub, tenant, created.id, told)).status == status
    assert await attempts(oltp, stub, tenant, created.id) == [(1, told)]
    later = await create(oltp, stub, tenant)
    refused = await record(oltp, stub, tenant, later.id, told)
    assert refused.error.reason == errors_pb2.ERROR_REASON_ATTEMPT_CONFLICT


async def unsubscribes(oltp: TierClient, tenant: UUID, created: pb.CreatedEmail) -> None:
    item = new_suppression(address="Ada@Example.com", reason=suppression_pb.SUPPRESSION_REASON_UNSUBSCRIBED)
    request = suppression_pb.CreateSuppressionRequest(tenant_id=str(tenant), suppression=item)
    await oltp.call(SuppressionServiceStub(oltp.channel).CreateSuppression, request)


async def complains(oltp: TierClient, tenant: UUID, created: pb.CreatedEmail) -> None:
    """Of the very email that nobody has recorded as sent."""
    event = pb.EmailEvent(
        email_id=created.id, kind=pb.EMAIL_EVENT_KIND_COMPLAINED, provider_event_id="e1", occurred_at=ahead(0)
    )
    request = pb.BatchRecordEventsRequest(tenant_id=str(tenant), events=[event])
    (result,) = (await oltp.call(EmailServiceStub(oltp.channel).BatchRecordEvents, request)).results
    assert result.WhichOneof("outcome") == "recorded"


async def is_erased(oltp: TierClient, tenant: UUID, created: pb.CreatedEmail) -> None:
    request = subject_pb.SuppressSubjectRequest(
        tenant_id=str(tenant), request_id=str(uuid4()), erasure_id=str(uuid4()), subject=subject("ada@example.com"),
        subject_key=SUBJECT_KEY, address="ada@example.com",
    )  # fmt: skip
    await oltp.call(SubjectServiceStub(oltp.channel).SuppressSubject, request)


@pytest.mark.parametrize("way", ["taken back", "suppressed", "closed", "rejected"])
async def test_what_may_have_come_is_not_said_never_to_have_been_sent(
    oltp: TierClient, stub: EmailServiceStub, db: Database, way: str
) -> None:
    """Its first worker went silent; its second was told to come again, and by then it is to be sent no more, or is refused."""
    tenant = await make_tenant(db, "resend")
    created = await create(oltp, stub, tenant)
    email = created.id
    for _ in range(2):
        assert (await start(oltp, stub, tenant, email)).decision == pb.ATTEMPT_DECISION_SEND
    again = pb.ATTEMPT_OUTCOME_REJECTED if way == "rejected" else pb.ATTEMPT_OUTCOME_DEFERRED
    await record(oltp, stub, tenant, email, again, 2)
    if way == "taken back":
        request = pb.CancelEmailsRequest(tenant_id=str(tenant), request_id=str(uuid4()), email_ids=[email])
        assert list((await oltp.call(stub.CancelEmails, request)).skipped_ids) == [email]
    elif way == "suppressed":
        await complains(oltp, tenant, created)
    elif way == "closed":
        async with db.tenant(tenant) as connection:
            await connection.execute("UPDATE tenants SET status = 'closed' WHERE tenant_id = $1", tenant)
    assert (await start(oltp, stub, tenant, email)).decision == pb.ATTEMPT_DECISION_HELD
    # The late word of the first proves it.
    assert (await record(oltp, stub, tenant, email, pb.ATTEMPT_OUTCOME_SENT, 1)).status == pb.EMAIL_STATUS_SENT


@pytest.mark.parametrize("ends_it", [unsubscribes, complains, is_erased])
async def test_resend_policy_sends_nothing_to_who_must_not_be_written_to_by_now(
    oltp: TierClient, stub: EmailServiceStub, db: Database, ends_it: Any
) -> None:
    """Nor is it told as suppressed: the first attempt may have arrived."""
    tenant = await make_tenant(db, "resend")
    created = await create(oltp, stub, tenant)
    await start(oltp, stub, tenant, created.id)
    await ends_it(oltp, tenant, created)
    held = await start(oltp, stub, tenant, created.id)
    assert (held.decision, held.email.status) == (pb.ATTEMPT_DECISION_HELD, pb.EMAIL_STATUS_OUTCOME_UNKNOWN)
    email = (await oltp.call(stub.GetEmail, pb.GetEmailRequest(tenant_id=str(tenant), email_id=created.id))).email
    assert [a.outcome for a in email.attempts] == [pb.ATTEMPT_OUTCOME_UNKNOWN]
    settle = pb.SettleEmailRequest(
        tenant_id=str(tenant), request_id=str(uuid4()), email_id=created.id, settlement=pb.SETTLEMENT_RESEND
    )
    await oltp.call(stub.SettleEmail, settle)
    assert (await start(oltp, stub, tenant, created.id)).email.status == pb.EMAIL_STATUS_SUPPRESSED


async def test_what_waits_is_requeued_and_what_was_left_in_sending_for_an_hour_is_held(
    oltp: TierClient, stub: EmailServiceStub, tenant: UUID, db: Database
) -> None:
    queued, left, begun, sent = [(await create(oltp, stub, tenant)).id for _ in range(4)]
    for each in (left, begun, sent):
        await start(oltp, stub, tenant, each)
    await record(oltp, stub, tenant, sent, pb.ATTEMPT_OUTCOME_SENT)
    async with db.tenant(tenant) as connection:
        ago = "UPDATE emails SET sending_at = sending_at - interval '61 minutes' WHERE tenant_id = $1 AND id = ANY ($2)"
        await connection.execute(ago, tenant, [UUID(left), UUID(sent)])
        await connection.execute("DELETE FROM outbox WHERE tenant_id = $1", tenant)
    ids = [queued, left, begun, sent]
    request = pb.RequeueEmailsRequest(tenant_id=str(tenant), request_id=str(uuid4()), email_ids=ids)
    for _ in range(2):
        reply = await oltp.call(stub.RequeueEmails, request)
        assert (list(reply.requeued_ids), list(reply.held_ids)) == ([queued], [left])
        assert list(reply.skipped_ids) == sorted([begun, sent])
    ((_, _, payload),) = await owed(db, tenant)
    assert [job["email_id"] for job in payload["jobs"]] == [queued]
    email = (await oltp.call(stub.GetEmail, pb.GetEmailRequest(tenant_id=str(tenant), email_id=left))).email
    assert (email.status, [each.outcome for each in email.attempts]) == (
        pb.EMAIL_STATUS_OUTCOME_UNKNOWN, [pb.ATTEMPT_OUTCOME_UNKNOWN]
    )  # fmt: skip


async def test_what_was_due_before_the_database_was_put_back_is_held_in_place_of_requeued(
    oltp: TierClient, stub: EmailServiceStub, tenant: UUID, db: Database
) -> None:
    before, later, left = [(await create(oltp, stub, tenant)).id for _ in range(3)]
    await start(oltp, stub, tenant, left)
    async with db.tenant(tenant) as connection:
        ago = "UPDATE emails SET queued_at = queued_at - interval '1 day', sending_at = sending_at - interval '2 hours'"
        await connection.execute(ago)
        await connection.execute("UPDATE emails SET send_at = now() WHERE id = $1", UUID(later))
    request = pb.RequeueEmailsRequest(tenant_id=str(tenant), request_id=str(uuid4()), email_ids=[before, later, left])
    for _ in range(2):
        reply = await oltp.call(stub.RequeueEmails, request)
        assert (list(reply.requeued_ids), list(reply.held_ids)) == ([later], sorted([before, left]))
    email = (await oltp.call(stub.GetEmail, pb.GetEmailRequest(tenant_id=str(tenant), email_id=before))).email
    assert (email.status, email.attempt) == (pb.EMAIL_STATUS_OUTCOME_UNKNOWN, 0)
    settled = pb.SettleEmailRequest(
        tenant_id=str(tenant), request_id=str(uuid4()), email_id=before, settlement=pb.SETTLEMENT_RESEND, reason="new"
    )
    assert (await oltp.call(stub.SettleEmail, settled)).email.status == pb.EMAIL_STATUS_QUEUED
