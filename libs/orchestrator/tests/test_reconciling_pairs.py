"""Reconcile's other pairs, over the real tiers: emails that wait against their jobs, and OLAP's cells against a recount."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from libs.orchestrator.tests.planting import World, datetime_ago, findings
from services.oltp.tests.rows import make_tenant

from penguin.oltp.v1 import email_service_pb2 as email_pb
from penguin.oltp.v1 import reconcile_service_pb2 as pb
from penguin.oltp.v1.email_service_pb2_grpc import EmailServiceStub
from penguin.queue.v1 import queue_service_pb2 as queue_pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin.tier.v1 import tier_service_pb2 as tier_pb
from penguin.tier.v1.tier_service_pb2_grpc import TierServiceStub
from penguin_chassis.pool import Database
from penguin_orchestrator import etl, keys
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.reconciling import jobs as comparing_jobs
from penguin_orchestrator.reconciling.facts import FactsComparison
from penguin_orchestrator.reconciling.receipts import Terms
from penguin_orchestrator.relay import Relay
from penguin_testkit.faults import Break, Faults

# What is counted of sent emails in each table that reports read.
SUMS = {
    "billing_analytics": "emails_sent", "campaign_analytics": "sent", "sequence_step_analytics": "sent",
    "mailbox_analytics": "sent",
}  # fmt: skip


async def put_back(db: Database, *, days_ago: float) -> None:
    """The database has been what it is since then."""
    async with db.maintenance() as connection:
        await connection.execute("UPDATE incarnation SET began_at = $1", datetime_ago(days_ago * 24 * 3600))


async def queued(db: Database, tenant: UUID, count: int, *, hours: float, status: str = "queued") -> list[str]:
    """Emails that have waited, or been over, for so long. Their generation is open: no key of theirs is looked for."""
    at = datetime_ago(hours * 3600)
    await put_back(db, days_ago=365)
    async with db.tenant(tenant) as connection:
        rows = await connection.fetch(
            "INSERT INTO emails (tenant_id, id, recipient, recipient_name, sender, sender_name, subject, status,"
            " priority, content_storage_key, content_generation, message_id, queued_at, finished_at)"
            " SELECT $1, id, 'a@example.com', '', 'us@example.com', '', 's', $3, 'normal', id::text, $5, id::text, $4::timestamptz,"
            " CASE WHEN $3 <> 'queued' THEN $4::timestamptz END FROM unnest($2::uuid[]) AS id RETURNING id",
            tenant, [uuid4() for _ in range(count)], status, at, keys.generation(),
        )  # fmt: skip
    return [str(row["id"]) for row in rows]


async def enqueued(tiers: dict[str, Tier], db: Database, tenant: UUID, email_ids: list[str], *, hours: float) -> None:
    """Jobs for these emails, enqueued so long ago."""
    queue = tiers["queue"]
    request = queue_pb.EnqueueJobsRequest(tenant_id=str(tenant))
    for email_id in email_ids:
        payload = b'{"email_id":"%s"}' % email_id.encode()
        request.jobs.add(request_id=str(uuid4()), kind="email.send", payload=payload)
    await queue.call(queue.stub(QueueServiceStub).EnqueueJobs, request)
    async with db.tenant(tenant) as connection:
        await connection.execute(
            "UPDATE jobs SET created_at = $2 WHERE tenant_id = $1", tenant, datetime_ago(hours * 3600)
        )


async def delivered(db: Database, tenant: UUID, count: int) -> None:
    """Emails that went out sixty hours ago, counted in the ledger."""
    ids = await queued(db, tenant, count, hours=60, status="sent")
    async with db.tenant(tenant) as connection:
        await connection.execute(
            "INSERT INTO email_event_tallies (tenant_id, email_id, kind, count, first_at, last_at)"
            " SELECT $1, id, 'sent', 1, $3, $3 FROM unnest($2::uuid[]) AS id",
            tenant, [UUID(each) for each in ids], datetime_ago(60 * 3600),
        )  # fmt: skip


async def test_emails_that_lack_their_job_get_it_and_needless_jobs_are_told(
    reconcile: Any, world: World, all_tiers: dict[str, Tier], oltp_db: Database, queue_db: Database
) -> None:
    tenant = world.tenant
    have = await queued(oltp_db, tenant, 3, hours=5)
    over = await queued(oltp_db, tenant, 2, hours=5, status="sent")
    lately_over = await queued(oltp_db, tenant, 2, hours=0.1, status="sent")
    gone = str(uuid4())
    await enqueued(all_tiers, queue_db, tenant, [*have, *over, *lately_over, gone], hours=5)
    lacking = set(await queued(oltp_db, tenant, 4, hours=5))
    await queued(oltp_db, tenant, 5, hours=0.5)

    dry = await reconcile(Terms())
    assert (dry.counts["found.lacking_job"], dry.counts["found.needless_job"]) == (4, 3)
    assert dry.counts.get("requeued", 0) == 0
    run = await reconcile()
    assert run.status == pb.RECONCILE_STATUS_FINISHED
    assert run.counts["requeued"] == 4
    told = await findings(all_tiers, run)
    assert {subject for kind, subject, action in told if (kind, action) == ("lacking_job", "requeued")} == lacking
    assert len({subject for kind, subject, _ in told if kind == "needless_job"}) == 3

    await Relay(all_tiers["oltp"], all_tiers, 200).turn()
    again = await reconcile()
    assert again.counts["found.lacking_job"] == 0
    async with queue_db.tenant(tenant) as connection:
        assert await connection.fetchval("SELECT count(*) FROM jobs WHERE tenant_id = $1", tenant) == 8 + 4


async def test_what_may_have_been_sent_before_oltp_was_put_back_is_held(
    reconcile: Any, world: World, all_tiers: dict[str, Tier], oltp_db: Database, queue_db: Database
) -> None:
    """Its job may be over, as the email was: to send it again is for somebody to decide."""
    tenant, oltp = world.tenant, all_tiers["oltp"]
    await etl.refresh(all_tiers, tenant)
    before, since = await queued(oltp_db, tenant, 2, hours=50), await queued(oltp_db, tenant, 1, hours=5)
    await put_back(oltp_db, days_ago=1)
    run = await reconcile()
    assert (run.counts["found.lacking_job"], run.counts["requeued"], run.counts["held"]) == (3, 1, 2)
    assert await findings(all_tiers, run) == {
        *(("lacking_job", each, "held") for each in before), ("lacking_job", since[0], "requeued")
    }  # fmt: skip
    found = await oltp.call(
        oltp.stub(EmailServiceStub).BatchGetEmails,
        email_pb.BatchGetEmailsRequest(tenant_id=str(tenant), email_ids=before),
    )
    assert {email.status for email in found.emails} == {email_pb.EMAIL_STATUS_OUTCOME_UNKNOWN}
    await Relay(oltp, all_tiers, 200).turn()
    async with queue_db.tenant(tenant) as connection:
        assert await connection.fetchval("SELECT count(*) FROM jobs WHERE tenant_id = $1", tenant) == 1


async def test_of_more_emails_than_a_run_looks_at_some_get_their_jobs_and_somebody_is_told(
    reconcile: Any, world: World, all_tiers: dict[str, Tier], oltp_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparing_jobs, "EMAILS", 4)
    monkeypatch.setattr(comparing_jobs, "PAGE", 2)
    await queued(oltp_db, world.tenant, 7, hours=5)
    run = await reconcile()
    assert (run.counts["requeued"], run.counts["jobs_cut"], run.counts["found.uncompared"]) == (4, 1, 1)
    assert ("uncompared", "jobs: more than one run looks through", "") in await findings(all_tiers, run)


async def test_of_more_jobs_than_a_run_looks_at_no_email_is_said_to_lack_its_own(
    reconcile: Any, world: World, all_tiers: dict[str, Tier], oltp_db: Database, queue_db: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(comparing_jobs, "JOBS", 4)
    monkeypatch.setattr(comparing_jobs, "PAGE", 2)
    waiting = await queued(oltp_db, world.tenant, 7, hours=5)
    await enqueued(all_tiers, queue_db, world.tenant, waiting, hours=5)
    run = await reconcile()
    assert (run.counts["found.lacking_job"], run.counts["requeued"], run.counts["found.uncompared"]) == (0, 0, 1)
    assert await findings(all_tiers, run) == {("uncompared", "jobs: more than one run looks through", "")}


async def test_a_job_that_names_no_email_is_needless_and_ends_no_run(
    reconcile: Any, world: World, all_tiers: dict[str, Tier], queue_db: Database
) -> None:
    queue = all_tiers["queue"]
    request = queue_pb.EnqueueJobsRequest(tenant_id=str(world.tenant))
    for payload in (b"{}", b'{"email_id":"x"}', b'{"email_id":[1]}', b'{"email_id":null}'):
        request.jobs.add(request_id=str(uuid4()), kind="email.send", payload=payload)
    await queue.call(queue.stub(QueueServiceStub).EnqueueJobs, request)
    async with queue_db.tenant(world.tenant) as connection:
        await connection.execute("UPDATE jobs SET created_at = created_at - interval '5 hours'")
    run = await reconcile()
    assert (run.status, run.counts["found.needless_job"]) == (pb.RECONCILE_STATUS_FINISHED, 4)


@contextlib.asynccontextmanager
async def owed(db: Database, tenant: UUID, destination: str, *, hours: float) -> AsyncIterator[None]:
    """OLTP owes something of the tenant's for so long, and nobody can take it."""
    async with db.tenant(tenant) as connection:
        await connection.execute(
            "INSERT INTO outbox (tenant_id, id, destination, kind, payload, available_at, created_at)"
            " VALUES ($1, $2, $5, 'enqueue_jobs', '{}', $4, $3)",
            tenant, uuid4(), datetime_ago(hours * 3600), datetime_ago(-3600), destination,
        )  # fmt: skip
    try:
        yield
    finally:
        async with db.tenant(tenant) as connection:
            await connection.execute("DELETE FROM outbox WHERE tenant_id = $1", tenant)


@pytest.mark.parametrize(("hours", "told"), [(1, []), (25, [("jobs_owed", "queue", "")])])
async def test_while_oltp_owes_old_jobs_itself_nothing_is_said_of_them(
    reconcile: Any, world: World, all_tiers: dict[str, Tier], oltp_db: Database, hours: float, told: list[Any]
) -> None:
    await queued(oltp_db, world.tenant, 2, hours=5)
    async with owed(oltp_db, world.tenant, "queue", hours=hours):
        run = await reconcile()
    assert (run.counts["jobs_cut"], run.counts["found.lacking_job"]) == (1, 0)
    assert list(await findings(all_tiers, run)) == told, "what is owed for days does not go by itself"


async def test_what_oltp_owes_of_others_or_to_others_hides_no_lacking_job(
    reconcile: Any, world: World, oltp_db: Database
) -> None:
    await queued(oltp_db, world.tenant, 2, hours=5)
    other = await make_tenant(oltp_db)
    async with owed(oltp_db, other, "queue", hours=50), owed(oltp_db, world.tenant, "notifications", hours=50):
        run = await reconcile(Terms())
    assert (run.counts["jobs_cut"], run.counts["found.lacking_job"], run.counts["found.jobs_owed"]) == (0, 2, 0)


async def test_an_oltp_that_does_not_tell_what_it_owes_is_believed_nothing(
    reconcile: Any, world: World, oltp_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await queued(oltp_db, world.tenant, 2, hours=5)
    call = Tier.call

    async def older(self: Tier, method: Any, request: Any, **how: Any) -> Any:
        reply = await call(self, method, request, **how)
        if isinstance(reply, pb.GetReconcileProgressResponse):
            reply.ClearField("owed")
        return reply

    monkeypatch.setattr(Tier, "call", older)
    run = await reconcile()
    assert (run.counts["jobs_cut"], run.counts["found.lacking_job"]) == (1, 0)


async def test_a_ledger_too_great_to_be_looked_through_in_time_ends_no_run(
    reconcile: Any, breaks: dict[str, Faults], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparing_jobs, "TIMEOUT_S", 4.0)
    breaks["oltp"].breaks("ListEmails", Break(None))
    run = await reconcile()
    assert (run.status, run.counts["jobs_cut"]) == (pb.RECONCILE_STATUS_FINISHED, 1)


async def sending(db: Database, tenant: UUID, email_ids: list[str], *, hours: float) -> list[str]:
    """Begun so long ago by workers of whom nothing was heard since."""
    async with db.tenant(tenant) as connection:
        begun = "UPDATE emails SET status = 'sending', attempt = 1, sending_at = $3 WHERE tenant_id = $1 AND id = ANY ($2::uuid[])"
        await connection.execute(begun, tenant, email_ids, datetime_ago(hours * 3600))
    return email_ids


@pytest.mark.parametrize("policy", ["hold", "resend"])
@pytest.mark.parametrize("closed", [False, True])
async def test_emails_left_in_sending_without_a_job_are_held(
    reconcile: Any, world: World, all_tiers: dict[str, Tier], oltp_db: Database, queue_db: Database, policy: str,
    closed: bool,
) -> None:  # fmt: skip
    """Queue may have given the job up, after six workers were lost with it: to begin anew is for somebody to decide."""
    tenant, oltp = world.tenant, all_tiers["oltp"]
    have, left, begun = [await queued(oltp_db, tenant, count, hours=50) for count in (1, 3, 2)]
    await sending(oltp_db, tenant, [*have, *left], hours=5)
    await sending(oltp_db, tenant, begun, hours=0.5)
    await enqueued(all_tiers, queue_db, tenant, have, hours=5)
    async with oltp_db.tenant(tenant) as connection:
        await connection.execute("UPDATE tenants SET unknown_outcome_policy = $2 WHERE tenant_id = $1", tenant, policy)
        if closed:
            await connection.execute("UPDATE tenants SET status = 'closed' WHERE tenant_id = $1", tenant)
            await connection.execute("UPDATE tier_tenants SET state = 'closed' WHERE tenant_id = $1", tenant)
    run = await reconcile()
    assert (run.counts["found.lacking_job"], run.counts["requeued"], run.counts["held"]) == (3, 0, 3)
    assert await findings(all_tiers, run) == {("lacking_job", each, "held") for each in left}
    assert (await reconcile()).counts["found.lacking_job"] == 0
    request = email_pb.BatchGetEmailsRequest(tenant_id=str(tenant), email_ids=left)
    found = (await oltp.call(oltp.stub(EmailServiceStub).BatchGetEmails, request)).emails
    assert {email.status for email in found} == {email_pb.EMAIL_STATUS_OUTCOME_UNKNOWN}
    async with oltp_db.tenant(tenant) as connection:
        assert (
            await connection.fetchval(
                "SELECT count(*) FROM outbox WHERE tenant_id = $1 AND destination = 'queue'", tenant
            )
            == 0
        )


async def test_a_queue_that_is_away_ends_the_run(reconcile: Any, breaks: dict[str, Faults]) -> None:
    breaks["queue"].breaks("ListJobs", *[Break(grpc.StatusCode.UNAVAILABLE)] * 10)
    run = await reconcile()
    assert (run.status, run.refused_reason) == (
        pb.RECONCILE_STATUS_REFUSED, "queue does not answer: UNAVAILABLE UNREACHABLE",
    )  # fmt: skip


async def test_a_day_that_differs_from_its_recount_is_told_and_loaded_anew(
    reconcile: Any, world: World, all_tiers: dict[str, Tier], oltp_db: Database, olap_db: Database
) -> None:
    tenant = world.tenant
    await delivered(oltp_db, tenant, 6)
    day = datetime_ago(60 * 3600).date()
    await etl.refresh(all_tiers, tenant)
    agreed = await reconcile()
    assert (agreed.counts["days"], agreed.counts["found.differing_day"]) == (7, 0)

    # Any of the tables that reports read may be the one that is wrong.
    for table, column in SUMS.items():
        async with olap_db.tenant(tenant) as connection:
            changed = f"UPDATE {table} SET {column} = 5 WHERE tenant_id = $1 AND day = $2"
            assert await connection.execute(changed, tenant, day) == "UPDATE 1"
        dry = await reconcile(Terms())
        assert await findings(all_tiers, dry) == {("differing_day", day.isoformat(), "")}, table
        run = await reconcile()
        assert run.counts["reloaded"] == 1
        async with olap_db.tenant(tenant) as connection:
            sent = f"SELECT {column} FROM {table} WHERE tenant_id = $1 AND day = $2"
            assert await connection.fetchval(sent, tenant, day) == 6
    assert (await reconcile()).counts["found.differing_day"] == 0


async def test_a_day_that_is_loaded_between_the_two_looks_is_no_finding(
    reconcile: Any, world: World, all_tiers: dict[str, Tier], monkeypatch: pytest.MonkeyPatch
) -> None:
    await etl.refresh(all_tiers, world.tenant)
    reported, looks = FactsComparison._reported, Counter[str]()

    async def older(self: FactsComparison, day: str) -> Any:
        looks[day] += 1
        return {} if looks[day] > 1 else {(0, "", "", "sent"): 1}

    monkeypatch.setattr(FactsComparison, "_reported", older)
    assert (await reconcile()).counts["found.differing_day"] == 0
    assert set(looks.values()) == {2}
    monkeypatch.setattr(FactsComparison, "_reported", reported)


async def closed(tiers: dict[str, Tier], tenant: UUID) -> None:
    """Nobody loads its facts from then on."""
    for name in ("olap", "oltp"):
        request = tier_pb.CloseTenantRequest(tenant_id=str(tenant), request_id=str(uuid4()))
        await tiers[name].call(tiers[name].stub(TierServiceStub).CloseTenant, request)


async def test_a_day_of_a_tenant_that_was_never_loaded_is_told_and_loaded_a_day_after_its_end(
    reconcile: Any, world: World, all_tiers: dict[str, Tier], oltp_db: Database, olap_db: Database
) -> None:
    tenant, day = world.tenant, datetime_ago(60 * 3600).date()
    await delivered(oltp_db, tenant, 3)
    await closed(all_tiers, tenant)
    midnight = datetime.combine(day + timedelta(days=2), datetime.min.time(), UTC).timestamp()
    soon = await reconcile(Terms(), clock=lambda: midnight - 1)
    assert soon.counts["found.unloaded_day"] == 0, "the first refresh will load it"
    dry = await reconcile(Terms(), clock=lambda: midnight + 1)
    assert await findings(all_tiers, dry) == {("unloaded_day", day.isoformat(), "")}
    assert await findings(all_tiers, await reconcile()) == {("unloaded_day", day.isoformat(), "loaded")}
    async with olap_db.tenant(tenant) as connection:
        billed = "SELECT emails_sent FROM billing_analytics WHERE tenant_id = $1 AND day = $2"
        assert await connection.fetchval(billed, tenant, day) == 3
    assert (await reconcile()).counts["found.unloaded_day"] == 0


async def test_changes_that_nobody_loads_for_an_hour_are_told_and_loaded(
    reconcile: Any, world: World, all_tiers: dict[str, Tier], oltp_db: Database, olap_db: Database
) -> None:
    tenant, day = world.tenant, datetime_ago(60 * 3600).date()
    await delivered(oltp_db, tenant, 3)
    await etl.refresh(all_tiers, tenant)
    await delivered(oltp_db, tenant, 5)
    assert (await reconcile()).counts["found.unloaded_day"] == 0, "the next refresh will load it"
    # It is closed, and its last facts were never loaded: an hour later somebody is told.
    await closed(all_tiers, tenant)
    late = {"clock": lambda: time.time() + 3700}
    dry = await reconcile(Terms(), **late)
    assert await findings(all_tiers, dry) == {("unloaded_day", day.isoformat(), "")}
    run = await reconcile(**late)
    assert await findings(all_tiers, run) == {("unloaded_day", day.isoformat(), "loaded")}
    async with olap_db.tenant(tenant) as connection:
        billed = "SELECT emails_sent FROM billing_analytics WHERE tenant_id = $1 AND day = $2"
        assert await connection.fetchval(billed, tenant, day) == 8
    assert (await reconcile(**late)).counts["found.unloaded_day"] == 0
