"""EmailService as its clients see it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from services.oltp.tests.rows import create_request, make_tenant, new_email, owed, set_scene

from penguin.common.v1 import errors_pb2
from penguin.oltp.v1 import email_service_pb2 as pb
from penguin.oltp.v1 import tenant_service_pb2 as tenant_pb
from penguin.oltp.v1.email_service_pb2_grpc import EmailServiceStub
from penguin.oltp.v1.tenant_service_pb2_grpc import TenantServiceStub
from penguin_chassis import outbox
from penguin_chassis.pool import Database
from penguin_oltp.domain.emails import LATEST
from penguin_testkit.calling import Refused, TierClient


@pytest.fixture
def stub(oltp: TierClient) -> EmailServiceStub:
    return EmailServiceStub(oltp.channel)


async def create(oltp: TierClient, stub: EmailServiceStub, tenant: UUID) -> pb.CreatedEmail:
    reply = await oltp.call(stub.BatchCreateEmails, create_request(tenant, new_email()))
    email: pb.CreatedEmail = reply.results[0].email
    return email


async def start(
    oltp: TierClient, stub: EmailServiceStub, tenant: UUID, email_id: str, request_id: str = "", *, lost: bool = False
) -> pb.StartedAttempt:
    attempt = pb.StartAttempt(request_id=request_id or str(uuid4()), email_id=email_id, lease_lost_before=lost)
    request = pb.BatchStartAttemptsRequest(tenant_id=str(tenant), attempts=[attempt])
    started: pb.StartedAttempt = (await oltp.call(stub.BatchStartAttempts, request)).results[0].started
    return started


def outcome(email_id: str, told: Any, attempt: int = 1) -> pb.RecordOutcome:
    at = Timestamp()
    at.FromDatetime(datetime.now(UTC))
    return pb.RecordOutcome(request_id=str(uuid4()), email_id=email_id, attempt=attempt, outcome=told, finished_at=at)


async def record(
    oltp: TierClient, stub: EmailServiceStub, tenant: UUID, email_id: str, told: Any, attempt: int = 1
) -> pb.RecordOutcomeResult:
    item = outcome(email_id, told, attempt)
    request = pb.BatchRecordOutcomesRequest(tenant_id=str(tenant), outcomes=[item])
    result: pb.RecordOutcomeResult = (await oltp.call(stub.BatchRecordOutcomes, request)).results[0]
    return result


async def test_created_emails_owe_their_claim_and_their_job(
    oltp: TierClient, stub: EmailServiceStub, tenant: UUID, db: Database
) -> None:
    emails = [new_email(), new_email()]
    reply = await oltp.call(stub.BatchCreateEmails, create_request(tenant, *emails))
    assert [r.email.id for r in reply.results] == [e.id for e in emails]
    assert reply.results[0].email.message_id == f"<{emails[0].id}@sender.example>"
    async with db.tenant(tenant) as connection:
        owed = await connection.fetch("SELECT destination, kind FROM outbox WHERE tenant_id = $1 ORDER BY 1", tenant)
    assert [tuple(row) for row in owed] == [("content", "claim_contents"), ("queue", "enqueue_jobs")]


async def test_a_repeat_gets_the_first_answer_and_owes_nothing_more(
    oltp: TierClient, stub: EmailServiceStub, tenant: UUID, db: Database
) -> None:
    email = new_email()
    first = await oltp.call(stub.BatchCreateEmails, create_request(tenant, email))
    again = pb.NewEmail()
    again.CopyFrom(email)
    again.id, again.content_storage_key = str(uuid4()), f"k/{uuid4()}"
    second = await oltp.call(stub.BatchCreateEmails, create_request(tenant, again))
    assert second == first
    async with db.tenant(tenant) as connection:
        assert await connection.fetchval("SELECT count(*) FROM outbox WHERE tenant_id = $1", tenant) == 2


async def test_another_body_under_the_same_request_id_is_refused_alone(
    oltp: TierClient, stub: EmailServiceStub, tenant: UUID
) -> None:
    email = new_email()
    await oltp.call(stub.BatchCreateEmails, create_request(tenant, email))
    changed = pb.NewEmail()
    changed.CopyFrom(email)
    changed.subject = "Something else"
    reply = await oltp.call(stub.BatchCreateEmails, create_request(tenant, changed, new_email()))
    assert reply.results[0].error.reason == errors_pb2.ERROR_REASON_REQUEST_ID_REUSED
    assert reply.results[0].error.code == grpc.StatusCode.ALREADY_EXISTS.value[0]
    assert reply.results[1].WhichOneof("outcome") == "email"


async def test_a_missing_lead_sinks_only_its_own_item(oltp: TierClient, stub: EmailServiceStub, tenant: UUID) -> None:
    reply = await oltp.call(
        stub.BatchCreateEmails, create_request(tenant, new_email(lead_id=str(uuid4())), new_email())
    )
    assert reply.results[0].error.reason == errors_pb2.ERROR_REASON_REFERENCE_MISSING
    assert reply.results[0].error.field == "lead_id"
    assert reply.results[1].email.id


async def test_what_is_to_be_sent_in_another_age_is_refused_alone(
    oltp: TierClient, stub: EmailServiceStub, tenant: UUID, db: Database
) -> None:
    """No job is taken for it: it would be owed for ever."""
    end = Timestamp(seconds=int(LATEST.timestamp()))
    last = Timestamp(seconds=end.seconds - 1, nanos=999_999_000)
    request = create_request(tenant, new_email(send_at=end), new_email(send_at=last))
    late, created = (await oltp.call(stub.BatchCreateEmails, request)).results
    assert (late.error.code, late.error.field) == (grpc.StatusCode.INVALID_ARGUMENT.value[0], "send_at")
    (jobs,) = [payload["jobs"] for _, kind, payload in await owed(db, tenant) if kind == "enqueue_jobs"]
    assert [job["email_id"] for job in jobs] == [created.email.id]


async def test_a_job_goes_by_the_rate_of_its_emails_mailbox(
    oltp: TierClient, stub: EmailServiceStub, tenant: UUID, db: Database
) -> None:
    scene = await set_scene(oltp, tenant, leads=0)
    await oltp.call(
        stub.BatchCreateEmails, create_request(tenant, new_email(email_account_id=scene.mailbox), new_email())
    )
    (jobs,) = [payload["jobs"] for _, kind, payload in await owed(db, tenant) if kind == "enqueue_jobs"]
    assert [job.get("rate_key") for job in jobs] == [scene.mailbox, None]


async def test_an_id_named_twice_is_created_once_and_one_job_is_owed(
    oltp: TierClient, stub: EmailServiceStub, tenant: UUID, db: Database
) -> None:
    email = new_email()
    reply = await oltp.call(stub.BatchCreateEmails, create_request(tenant, email, new_email(id=email.id)))
    assert [r.WhichOneof("outcome") for r in reply.results] == ["email", "error"]
    claims, jobs = await owed(db, tenant)
    assert claims[2]["storage_keys"] == [email.content_storage_key]
    assert [job["email_id"] for job in jobs[2]["jobs"]] == [email.id]


async def test_the_pivot_is_refused_past_claim_by(oltp: TierClient, stub: EmailServiceStub, tenant: UUID) -> None:
    with pytest.raises(Refused) as refused:
        await oltp.call(stub.BatchCreateEmails, create_request(tenant, new_email(), claim_s=-1))
    assert refused.value.answer.reason == "CONTENT_CLAIM_EXPIRED"


async def test_an_unknown_tenant_is_not_found(oltp: TierClient, stub: EmailServiceStub) -> None:
    with pytest.raises(Refused) as refused:
        await oltp.call(stub.BatchCreateEmails, create_request(uuid4(), new_email()))
    assert refused.value.answer.code is grpc.StatusCode.NOT_FOUND


async def test_bad_fields_are_each_named(oltp: TierClient, stub: EmailServiceStub, tenant: UUID) -> None:
    bad = new_email(recipient="nobody", request_id="x")
    with pytest.raises(Refused) as refused:
        await oltp.call(stub.BatchCreateEmails, create_request(tenant, bad))
    answer = refused.value.answer
    assert answer.code is grpc.StatusCode.INVALID_ARGUMENT
    assert answer.reason == "INVALID_FIELD"
    assert set(answer.fields) == {"emails[0].recipient", "emails[0].request_id"}


async def test_no_token_and_another_tenant(
    oltp: TierClient, stub: EmailServiceStub, tenant: UUID, db: Database
) -> None:
    created = await create(oltp, stub, tenant)
    request = pb.GetEmailRequest(tenant_id=str(tenant), email_id=created.id)
    with pytest.raises(Refused) as refused:
        await oltp.call(stub.GetEmail, request, anonymous=True)
    assert refused.value.answer.code is grpc.StatusCode.UNAUTHENTICATED
    stranger = await make_tenant(db)
    with pytest.raises(Refused) as refused:
        await oltp.call(stub.GetEmail, request, tenant=stranger)
    assert refused.value.answer.reason == "TENANT_MISMATCH"
    with pytest.raises(Refused) as refused:
        await oltp.call(stub.GetEmail, pb.GetEmailRequest(tenant_id=str(stranger), email_id=created.id))
    assert refused.value.answer.code is grpc.StatusCode.NOT_FOUND


async def test_an_email_is_sent_once_and_its_outcome_is_told(
    oltp: TierClient, stub: EmailServiceStub, tenant: UUID
) -> None:
    created = await create(oltp, stub, tenant)
    started = await start(oltp, stub, tenant, created.id)
    assert started.decision == pb.ATTEMPT_DECISION_SEND
    assert started.email.attempt == 1
    assert started.email.message_id == created.message_id
    recorded = await record(oltp, stub, tenant, created.id, pb.ATTEMPT_OUTCOME_SENT)
    assert recorded.status == pb.EMAIL_STATUS_SENT
    assert (await start(oltp, stub, tenant, created.id)).decision == pb.ATTEMPT_DECISION_DONE
    email = (await oltp.call(stub.GetEmail, pb.GetEmailRequest(tenant_id=str(tenant), email_id=created.id))).email
    assert [a.outcome for a in email.attempts] == [pb.ATTEMPT_OUTCOME_SENT]


async def test_events_count_once_and_have_their_consequences(
    oltp: TierClient, stub: EmailServiceStub, tenant: UUID
) -> None:
    created = await create(oltp, stub, tenant)
    await start(oltp, stub, tenant, created.id)
    await record(oltp, stub, tenant, created.id, pb.ATTEMPT_OUTCOME_SENT)
    at = Timestamp()
    at.FromDatetime(datetime.now(UTC))
    event = pb.EmailEvent(
        email_id=created.id, kind=pb.EMAIL_EVENT_KIND_UNSUBSCRIBED, provider_event_id="e1", occurred_at=at
    )
    unknown = pb.EmailEvent(
        email_id=str(uuid4()), kind=pb.EMAIL_EVENT_KIND_OPENED, provider_event_id="e1", occurred_at=at
    )
    request = pb.BatchRecordEventsRequest(tenant_id=str(tenant), events=[event, event, unknown])
    results = (await oltp.call(stub.BatchRecordEvents, request)).results
    assert [r.recorded.repeated_event for r in results[:2]] == [False, True]
    assert results[2].error.reason == errors_pb2.ERROR_REASON_NOT_FOUND
    email = (await oltp.call(stub.GetEmail, pb.GetEmailRequest(tenant_id=str(tenant), email_id=created.id))).email
    assert [(t.kind, t.count) for t in email.tallies] == [(pb.EMAIL_EVENT_KIND_UNSUBSCRIBED, 1)]
    second = await create(oltp, stub, tenant)
    suppressed = await start(oltp, stub, tenant, second.id)
    assert (suppressed.decision, suppressed.email.status) == (
        pb.ATTEMPT_DECISION_DONE,
        pb.EMAIL_STATUS_SUPPRESSED,
    )


async def test_pages_are_whole_and_tokens_are_bound_to_their_query(
    oltp: TierClient, stub: EmailServiceStub, tenant: UUID
) -> None:
    emails = [new_email() for _ in range(5)]
    await oltp.call(stub.BatchCreateEmails, create_request(tenant, *emails))
    seen: list[str] = []
    token = ""
    for _ in range(3):
        page = await oltp.call(
            stub.ListEmails, pb.ListEmailsRequest(tenant_id=str(tenant), page_size=2, page_token=token)
        )
        seen += [e.id for e in page.emails]
        token = page.next_page_token or token
    assert seen == sorted(e.id for e in emails)
    with pytest.raises(Refused) as refused:
        await oltp.call(
            stub.ListEmails, pb.ListEmailsRequest(tenant_id=str(tenant), page_token=token, recipient="a@b.example")
        )
    assert refused.value.answer.reason == "INVALID_PAGE_TOKEN"


async def test_only_queued_emails_are_cancelled(oltp: TierClient, stub: EmailServiceStub, tenant: UUID) -> None:
    queued, sending = await create(oltp, stub, tenant), await create(oltp, stub, tenant)
    await start(oltp, stub, tenant, sending.id)
    request = pb.CancelEmailsRequest(tenant_id=str(tenant), request_id=str(uuid4()), email_ids=[queued.id, sending.id])
    for _ in range(2):
        reply = await oltp.call(stub.CancelEmails, request)
        assert list(reply.cancelled_ids) == [queued.id]
        assert list(reply.skipped_ids) == [sending.id]


async def test_what_a_worker_puts_back_is_not_sent_once_the_tenant_is_closed(
    oltp: TierClient, stub: EmailServiceStub, tenant: UUID
) -> None:
    """The close has cancelled what was queued then; this came back later."""
    email = await create(oltp, stub, tenant)
    assert (await start(oltp, stub, tenant, email.id)).decision == pb.ATTEMPT_DECISION_SEND
    close = tenant_pb.CloseTenantRequest(tenant_id=str(tenant), request_id=str(uuid4()))
    await oltp.call(TenantServiceStub(oltp.channel).CloseTenant, close)
    put_back = await record(oltp, stub, tenant, email.id, pb.ATTEMPT_OUTCOME_DEFERRED)
    assert put_back.status == pb.EMAIL_STATUS_QUEUED
    again = await start(oltp, stub, tenant, email.id)
    assert (again.decision, again.email.status) == (pb.ATTEMPT_DECISION_DONE, pb.EMAIL_STATUS_CANCELLED)


async def test_what_waits_in_the_outbox_is_counted(
    oltp: TierClient, stub: EmailServiceStub, tenant: UUID, db: Database
) -> None:
    await outbox.measure(db, datetime.now(UTC))
    before = db.owed
    await create(oltp, stub, tenant)
    await outbox.measure(db, datetime.now(UTC))
    assert db.owed == before + 2
    db.owed = 0
