"""EmailService: every method, by its contract: the per-recipient ledger."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from services.oltp.tests.rows import ahead, create_request, new_email
from tests.contract.cases import Batch, Case, Listing, Mutation, Within, equal
from tests.contract.harness import ServiceContract
from tests.contract.resources import unknown_tenant
from tests.contract.wire import World

from penguin.common.v1 import errors_pb2
from penguin.oltp.v1 import email_service_pb2 as pb

SERVICE = "penguin.oltp.v1.EmailService"
UNKNOWN = str(uuid4())


async def queue(world: World, count: int) -> list[str]:
    """Emails that wait to be sent; their ids."""
    request = create_request(world.tenant, *(new_email() for _ in range(count)))
    reply = await world.call(f"{SERVICE}/BatchCreateEmails", request)
    return [result.email.id for result in reply.results]


def starts(world: World, ids: list[str]) -> Any:
    """A claim of these emails."""
    attempts = [pb.StartAttempt(request_id=str(uuid4()), email_id=each) for each in ids]
    return pb.BatchStartAttemptsRequest(tenant_id=str(world.tenant), attempts=attempts)


def outcomes(world: World, ids: list[str], outcome: Any) -> Any:
    """What became of the emails' first attempts."""
    told = [
        pb.RecordOutcome(request_id=str(uuid4()), email_id=each, attempt=1, outcome=outcome, finished_at=ahead(0))
        for each in ids
    ]
    return pb.BatchRecordOutcomesRequest(tenant_id=str(world.tenant), outcomes=told)


async def sending(world: World, count: int) -> list[str]:
    """Emails in a worker's hands; their ids."""
    ids = await queue(world, count)
    await world.call(f"{SERVICE}/BatchStartAttempts", starts(world, ids))
    return ids


async def ledger(world: World, request: Any) -> list[Any]:
    """The emails of the request's tenant."""
    return list((await world.call(f"{SERVICE}/ListEmails", pb.ListEmailsRequest(tenant_id=request.tenant_id))).emails)


async def whole_ledger(world: World, request: Any) -> list[Any]:
    """The same, with attempts and tallies."""
    asked = [pb.GetEmailRequest(tenant_id=e.tenant_id, email_id=e.id) for e in await ledger(world, request)]
    return [(await world.call(f"{SERVICE}/GetEmail", each)).email for each in asked]


async def three_new(world: World) -> Any:
    return create_request(world.tenant, *(new_email() for _ in range(3)))


def check_created(request: Any, reply: Any) -> None:
    assert [r.email.id for r in reply.results] == [email.id for email in request.emails]
    assert all(r.email.message_id.startswith("<") for r in reply.results)


def no_campaign(items: Any) -> None:
    items[1].campaign_id = UNKNOWN


async def get_one(world: World) -> Any:
    (found,) = await sending(world, 1)
    return pb.GetEmailRequest(tenant_id=str(world.tenant), email_id=found)


def check_got(request: Any, reply: Any) -> None:
    assert reply.email.id == request.email_id
    assert [attempt.attempt for attempt in reply.email.attempts] == [1]


async def get_two(world: World) -> Any:
    return pb.BatchGetEmailsRequest(tenant_id=str(world.tenant), email_ids=await queue(world, 2))


async def list_five(world: World) -> Any:
    await queue(world, 5)
    return pb.ListEmailsRequest(tenant_id=str(world.tenant))


async def start_three(world: World) -> Any:
    return starts(world, await queue(world, 3))


def check_started(request: Any, reply: Any) -> None:
    assert [r.started.email.id for r in reply.results] == [a.email_id for a in request.attempts]
    assert {r.started.decision for r in reply.results} == {pb.ATTEMPT_DECISION_SEND}
    assert {r.started.email.attempt for r in reply.results} == {1}


async def record_three(world: World) -> Any:
    return outcomes(world, await sending(world, 3), pb.ATTEMPT_OUTCOME_SENT)


async def three_events(world: World) -> Any:
    events = [
        pb.EmailEvent(
            email_id=each, kind=pb.EMAIL_EVENT_KIND_OPENED, provider_event_id=str(uuid4()), occurred_at=ahead(0)
        )
        for each in await queue(world, 3)
    ]
    return pb.BatchRecordEventsRequest(tenant_id=str(world.tenant), events=events)


def all_repeated(first: Any, second: Any) -> None:
    assert [r.recorded.repeated_event for r in first.results] == [False] * 3
    assert [r.recorded.repeated_event for r in second.results] == [True] * 3


async def settle_one(world: World) -> Any:
    ids = await sending(world, 1)
    await world.call(f"{SERVICE}/BatchRecordOutcomes", outcomes(world, ids, pb.ATTEMPT_OUTCOME_UNKNOWN))
    return pb.SettleEmailRequest(
        tenant_id=str(world.tenant), request_id=str(uuid4()), email_id=ids[0], settlement=pb.SETTLEMENT_SENT
    )


def check_settled(request: Any, reply: Any) -> None:
    assert (reply.email.id, reply.email.status) == (request.email_id, pb.EMAIL_STATUS_SENT)


async def cancel_two(world: World) -> Any:
    return pb.CancelEmailsRequest(tenant_id=str(world.tenant), request_id=str(uuid4()), email_ids=await queue(world, 2))


async def requeue_two(world: World) -> Any:
    return pb.RequeueEmailsRequest(
        tenant_id=str(world.tenant), request_id=str(uuid4()), email_ids=await queue(world, 2)
    )


async def owed(world: World, request: Any) -> int:
    """How many rows the tenant's outbox holds: nothing that a method of the tenant's would tell."""
    async with (await world.database()).tenant(world.tenant) as connection:
        count: int = await connection.fetchval("SELECT count(*) FROM outbox WHERE tenant_id = $1", world.tenant)
    return count


def only_unknown(request: Any) -> None:
    del request.email_ids[:]
    request.email_ids.append(UNKNOWN)


def all_unknown(items: str) -> Within:
    """Every item is of an email that nobody made; each is answered so."""

    def change(request: Any) -> None:
        for item in getattr(request, items):
            item.email_id = UNKNOWN

    return Within(change, each_not_found)


def each_not_found(reply: Any) -> None:
    assert {r.error.reason for r in reply.results} == {errors_pb2.ERROR_REASON_NOT_FOUND}


def one_unknown(items: Any) -> None:
    items[1].email_id = UNKNOWN


def unstarted(items: Any) -> None:
    items[1].attempt = 9


def missing(count: int) -> Any:
    """Nothing was found; the ids are named."""

    def check(reply: Any) -> None:
        assert (list(reply.emails), len(reply.missing_ids)) == ([], count)

    return check


def skipped(count: int) -> Any:
    """Nothing was done; the ids are named."""

    def check(reply: Any) -> None:
        done = getattr(reply, "cancelled_ids" if hasattr(reply, "cancelled_ids") else "requeued_ids")
        assert (list(done), len(reply.skipped_ids)) == ([], count)

    return check


class TestEmailService(ServiceContract):
    service = SERVICE
    tiers = ("oltp",)
    cases = (
        Case(
            "BatchCreateEmails",
            three_new,
            check_created,
            ("emails[1].recipient", lambda r: setattr(r.emails[1], "recipient", "x")),
            unknown_tenant,
            stranger=lambda reply: equal([r.WhichOneof("outcome") for r in reply.results], ["email"] * 3),
            mutation=Mutation(ledger, vary=lambda r: setattr(r.emails[0], "subject", "other")),
            batch=Batch("emails", no_campaign, "REFERENCE_MISSING"),
        ),
        Case(
            "GetEmail",
            get_one,
            check_got,
            ("email_id", lambda r: setattr(r, "email_id", "x")),
            lambda r: setattr(r, "email_id", UNKNOWN),
        ),
        Case(
            "BatchGetEmails",
            get_two,
            lambda request, reply: equal({e.id for e in reply.emails}, set(request.email_ids)),
            ("email_ids[0]", lambda r: r.email_ids.__setitem__(0, "x")),
            Within(only_unknown, missing(1)),
            stranger=missing(2),
        ),
        Case(
            "ListEmails",
            list_five,
            lambda request, reply: equal(len(reply.emails), 5),
            ("campaign_id", lambda r: setattr(r, "campaign_id", "x")),
            "a list of nothing is empty",
            stranger=lambda reply: equal(list(reply.emails), []),
            listing=Listing("emails", 5, lambda r: setattr(r, "status", pb.EMAIL_STATUS_QUEUED)),
        ),
        Case(
            "BatchStartAttempts",
            start_three,
            check_started,
            ("attempts[1].email_id", lambda r: setattr(r.attempts[1], "email_id", "x")),
            all_unknown("attempts"),
            stranger=each_not_found,
            mutation=Mutation(whole_ledger, vary=lambda r: setattr(r.attempts[0], "email_id", UNKNOWN)),
            batch=Batch("attempts", one_unknown, "NOT_FOUND"),
        ),
        Case(
            "BatchRecordOutcomes",
            record_three,
            lambda request, reply: equal([r.status for r in reply.results], [pb.EMAIL_STATUS_SENT] * 3),
            ("outcomes[1].outcome", lambda r: r.outcomes[1].ClearField("outcome")),
            all_unknown("outcomes"),
            stranger=each_not_found,
            mutation=Mutation(whole_ledger, vary=lambda r: setattr(r.outcomes[0], "smtp_code", 550)),
            batch=Batch("outcomes", unstarted, "ATTEMPT_CONFLICT"),
        ),
        Case(
            "BatchRecordEvents",
            three_events,
            lambda request, reply: equal([r.recorded.repeated_event for r in reply.results], [False] * 3),
            ("events[1].kind", lambda r: r.events[1].ClearField("kind")),
            all_unknown("events"),
            stranger=each_not_found,
            mutation=Mutation(
                whole_ledger, unkeyed="an event is known by email, kind and provider's id", repeats=all_repeated
            ),
            batch=Batch("events", one_unknown, "NOT_FOUND"),
        ),
        Case(
            "SettleEmail",
            settle_one,
            check_settled,
            ("settlement", lambda r: r.ClearField("settlement")),
            lambda r: setattr(r, "email_id", UNKNOWN),
            mutation=Mutation(whole_ledger, vary=lambda r: setattr(r, "settlement", pb.SETTLEMENT_FAILED)),
        ),
        Case(
            "CancelEmails",
            cancel_two,
            lambda request, reply: equal(set(reply.cancelled_ids), set(request.email_ids)),
            ("email_ids[0]", lambda r: r.email_ids.__setitem__(0, "x")),
            Within(only_unknown, skipped(1)),
            stranger=skipped(2),
            mutation=Mutation(ledger, vary=lambda r: r.email_ids.append(UNKNOWN)),
        ),
        Case(
            "RequeueEmails",
            requeue_two,
            lambda request, reply: equal(set(reply.requeued_ids), set(request.email_ids)),
            ("email_ids[0]", lambda r: r.email_ids.__setitem__(0, "x")),
            Within(only_unknown, skipped(1)),
            stranger=skipped(2),
            mutation=Mutation(owed, vary=lambda r: r.email_ids.append(UNKNOWN)),
        ),
    )
