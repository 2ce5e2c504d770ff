"""The worker against fake tiers: what is sent, what is put off, what is handed back, and that nothing is sent twice."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from uuid import UUID, uuid4

import grpc
import pytest
from libs.worker.tests.conftest import Configure
from libs.worker.tests.receivers import Mailbox, ScriptedSmtp
from libs.worker.tests.waiting import eventually, working

from penguin.content.v1 import content_service_pb2 as content_pb
from penguin.oltp.v1 import email_service_pb2 as email_pb
from penguin_devstack.ports import free_port
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import TierError
from penguin_testkit.peers import Peers
from penguin_worker.refreshing import RefreshTicker

TENANT = UUID("0190a000-0000-7000-8000-00000000000a")


def queued(peers: Peers, n: int = 1, *, tenant: UUID = TENANT, **fields: object) -> list[tuple[str, int]]:
    """Emails with a body each and a job each: (email id, job id)."""
    pairs = []
    for _ in range(n):
        email = peers.emails.put(tenant, peers.contents.put(text="hello\nworld", html="<b>hé</b>"), **fields)
        pairs.append((email.id, peers.queue.put(tenant, "email.send", {"email_id": email.id})))
    return pairs


def settled(peers: Peers, pairs: list[tuple[str, int]], job: str, email: str) -> Callable[[], bool]:
    return lambda: all(peers.queue.state(j) == job and peers.emails.status(e) == email for e, j in pairs)


async def test_every_email_is_delivered_once_with_its_parts(
    peers: Peers, tiers: dict[str, Tier], mailbox: Mailbox, configure: Configure
) -> None:
    data = b"%PDF" * 5_000
    file = content_pb.Attachment(
        position=0, filename="a.pdf", mime_type="application/pdf", data=data, sha256=hashlib.sha256(data).hexdigest()
    )
    pairs = []
    for tenant in (TENANT, uuid4()):
        for _ in range(40):
            email = peers.emails.put(tenant, peers.contents.put("hello\nworld", "<b>hé</b>", (file,)))
            pairs.append((email.id, peers.queue.put(tenant, "email.send", {"email_id": email.id})))
    async with working(tiers, configure(smtp_port=mailbox.port)):
        await eventually(settled(peers, pairs, "completed", "sent"))
    received = [message_from_bytes(message.content) for message in mailbox.messages()]
    assert sorted(m["Message-ID"] for m in received) == sorted(f"<{e}@sender.example>" for e, _ in pairs)
    for message in received:
        parts = [part.get_payload(decode=True) for part in message.walk() if not part.is_multipart()]
        assert parts == [b"hello\nworld", "<b>hé</b>".encode(), data]
    # One download for each tenant, not one for each email.
    assert peers.contents.switch.calls["DownloadAttachment"] == 2
    outcome = peers.emails.outcomes[pairs[0][0], 1]
    assert (outcome.smtp_code, outcome.enhanced_status) == (250, "2.0.0")


@pytest.mark.parametrize(
    ("recipient", "job", "email", "attempts"),
    [
        ("reject-550@example.com", "completed", "failed", 1),
        ("tempfail-451@example.com", "dead", "failed", 2),
        ("drop@example.com", "completed", "outcome_unknown", 1),
    ],
)
async def test_what_the_receiver_says_ends_in_the_ledger(
    peers: Peers,
    tiers: dict[str, Tier],
    mailbox: Mailbox,
    configure: Configure,
    recipient: str,
    job: str,
    email: str,
    attempts: int,
) -> None:
    stored = peers.emails.put(TENANT, peers.contents.put("x"), recipient=recipient)
    job_id = peers.queue.put(TENANT, "email.send", {"email_id": stored.id}, max_attempts=2)
    async with working(tiers, configure(smtp_port=mailbox.port)):
        await eventually(settled(peers, [(stored.id, job_id)], job, email))
        await asyncio.sleep(0.3)
    assert peers.emails.emails[stored.id].attempt == attempts
    assert len(mailbox.messages()) == (1 if recipient.startswith("drop") else 0)


@pytest.mark.parametrize("tier", ["contents", "emails"])
async def test_a_tier_that_is_down_burns_nothing(
    peers: Peers, tiers: dict[str, Tier], mailbox: Mailbox, configure: Configure, tier: str
) -> None:
    pairs = queued(peers, 5)
    switch = getattr(peers, tier).switch
    switch.down = True
    async with working(tiers, configure(smtp_port=mailbox.port)):
        await eventually(lambda: all(peers.queue.jobs[j].job.snoozes for _, j in pairs))
        for email_id, job_id in pairs:
            assert peers.emails.emails[email_id].attempt == 0
            assert peers.queue.jobs[job_id].job.attempts == 0
        switch.down = False
        await eventually(settled(peers, pairs, "completed", "sent"), 15)
    assert len(mailbox.messages()) == 5


async def test_no_claim_while_nobody_receives(peers: Peers, tiers: dict[str, Tier], configure: Configure) -> None:
    ((email_id, job_id),) = queued(peers)
    async with working(tiers, configure(smtp_port=free_port())):
        await eventually(lambda: peers.queue.jobs[job_id].reasons[:1] == ["smtp.unreachable"])
    assert peers.emails.status(email_id) == "queued"
    assert peers.emails.emails[email_id].attempt == 0
    assert peers.queue.jobs[job_id].job.attempts == 0


async def test_what_another_worker_began_is_held_and_never_sent(
    peers: Peers, tiers: dict[str, Tier], mailbox: Mailbox, configure: Configure
) -> None:
    ((email_id, job_id),) = queued(peers, status=email_pb.EMAIL_STATUS_SENDING, attempt=1)
    async with working(tiers, configure(smtp_port=mailbox.port)):
        await eventually(lambda: peers.queue.state(job_id) == "completed")
    assert peers.emails.status(email_id) == "outcome_unknown"
    assert mailbox.messages() == []


async def test_an_unknown_answer_to_a_claim_is_asked_again_and_sent_once(
    peers: Peers, tiers: dict[str, Tier], mailbox: Mailbox, configure: Configure
) -> None:
    pairs = queued(peers, 3)
    peers.emails.switch.deaf = {"BatchStartAttempts", "BatchRecordOutcomes"}
    async with working(tiers, configure(smtp_port=mailbox.port)):
        await eventually(lambda: peers.emails.switch.calls["BatchStartAttempts"] > 2)
        peers.emails.switch.deaf = {"BatchRecordOutcomes"}
        await eventually(lambda: peers.emails.switch.calls["BatchRecordOutcomes"] > 2)
        assert all(peers.queue.state(job_id) == "leased" for _, job_id in pairs)
        peers.emails.switch.deaf = set()
        await eventually(settled(peers, pairs, "completed", "sent"))
    assert len(mailbox.messages()) == 3


async def test_early_missing_done_and_damaged_jobs(
    peers: Peers, tiers: dict[str, Tier], mailbox: Mailbox, configure: Configure
) -> None:
    early = queued(peers)[0]
    peers.emails.emails[early[0]].send_at.FromDatetime(datetime.now(UTC) + timedelta(seconds=3))
    done = queued(peers, status=email_pb.EMAIL_STATUS_SENT)[0]
    bodiless = peers.emails.put(TENANT, "gone")
    dead = {
        peers.queue.put(TENANT, "email.send", {"email_id": bodiless.id}): "content_missing",
        peers.queue.put(TENANT, "email.send", {"email_id": str(uuid4())}): "email_missing",
        peers.queue.put(TENANT, "email.send", {"email_id": "x"}): "payload_invalid",
        peers.queue.put(
            TENANT, "email.send", {"email_id": peers.emails.put(TENANT, peers.contents.put(), recipient="x").id}
        ): "unsendable.address_invalid",
    }
    async with working(tiers, configure(smtp_port=mailbox.port)):
        await eventually(lambda: all(peers.queue.state(job_id) == "dead" for job_id in dead))
        await eventually(lambda: peers.queue.state(done[1]) == "completed")
        await eventually(lambda: peers.queue.jobs[early[1]].reasons == ["early"])
        assert mailbox.messages() == []
        await eventually(settled(peers, [early], "completed", "sent"))
    assert {job_id: peers.queue.jobs[job_id].job.last_error for job_id in dead} == dead
    # Given up in the ledger too: queued for good, it would keep its campaign open for good.
    assert peers.emails.emails[bodiless.id].status == email_pb.EMAIL_STATUS_FAILED
    assert len(mailbox.messages()) == 1


async def test_two_jobs_for_one_email_send_it_once(
    peers: Peers, tiers: dict[str, Tier], mailbox: Mailbox, configure: Configure
) -> None:
    ((email_id, job_id),) = queued(peers)
    second = peers.queue.put(TENANT, "email.send", {"email_id": email_id})
    async with working(tiers, configure(smtp_port=mailbox.port)):
        await eventually(settled(peers, [(email_id, job_id), (email_id, second)], "completed", "sent"))
    assert len(mailbox.messages()) == 1


async def test_leases_are_kept_while_a_server_is_slow(
    peers: Peers, tiers: dict[str, Tier], mailbox: Mailbox, configure: Configure
) -> None:
    pairs = queued(peers, 2, recipient="slow-2500@example.com")
    async with working(tiers, configure(smtp_port=mailbox.port, lease_s=1.0, smtp_reply_timeout_s=10.0)):
        await eventually(settled(peers, pairs, "completed", "sent"))
    assert [peers.queue.jobs[j].job.lost_leases for _, j in pairs] == [0, 0]
    assert len(mailbox.messages()) == 2


async def test_an_email_whose_lease_is_lost_in_the_queue_for_a_connection_is_not_sent(
    peers: Peers, tiers: dict[str, Tier], mailbox: Mailbox, configure: Configure
) -> None:
    (slow,) = queued(peers, recipient="slow-2000@example.com")
    config = configure(smtp_port=mailbox.port, lease_s=1.0, smtp_connections=1, smtp_reply_timeout_s=10.0)
    async with working(tiers, config):
        await eventually(lambda: len(mailbox.messages()) == 1)
        (waiting,) = queued(peers)
        await eventually(lambda: peers.emails.status(waiting[0]) == "sending")
        peers.queue.steal(waiting[1])
        await eventually(settled(peers, [slow], "completed", "sent"))
        # Left for its successor, who holds it: it may not be recorded as free to be sent again.
        await eventually(settled(peers, [waiting], "completed", "outcome_unknown"))
    assert (waiting[0], 1) not in peers.emails.outcomes
    assert len(mailbox.messages()) == 1


async def test_a_lost_lease_cancels_a_handler(
    peers: Peers, tiers: dict[str, Tier], mailbox: Mailbox, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def endless(*_: object) -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    monkeypatch.setattr("penguin_worker.refreshing.etl.refresh", endless)
    job_id = peers.queue.put(TENANT, "olap.refresh", {})
    async with working(tiers, configure(smtp_port=mailbox.port, lease_s=1.0)):
        await asyncio.wait_for(begun.wait(), 5)
        peers.queue.steal(job_id)
        await asyncio.wait_for(cancelled.wait(), 5)
    # Nothing was said of a job that is another's.
    assert peers.queue.state(job_id) == "leased"
    assert peers.queue.jobs[job_id].job.snoozes == 0


async def test_a_stop_finishes_what_it_can_and_hands_back_the_rest(
    peers: Peers, tiers: dict[str, Tier], mailbox: Mailbox, configure: Configure
) -> None:
    slow = queued(peers, 3, recipient="slow-700@example.com")
    quick = queued(peers, 60)
    config = configure(smtp_port=mailbox.port, smtp_connections=1, drain_s=1.0, smtp_reply_timeout_s=10.0)
    async with working(tiers, config) as stopped:
        await eventually(lambda: len(mailbox.messages()) == 1)
        stopped.set()
    sent = [e for e, j in slow + quick if peers.emails.status(e) == "sent" and peers.queue.state(j) == "completed"]
    back = [e for e, j in slow + quick if peers.emails.status(e) == "queued" and peers.queue.state(j) == "ready"]
    assert len(sent) == len(mailbox.messages()) >= 1
    assert len(sent) + len(back) == 63
    assert back
    # The next worker finds all of them, at once.
    async with working(tiers, configure(smtp_port=mailbox.port, smtp_reply_timeout_s=10.0)):
        await eventually(settled(peers, slow + quick, "completed", "sent"))
    ids = [message_from_bytes(message.content)["Message-ID"] for message in mailbox.messages()]
    assert len(ids) == len(set(ids)) == 63


async def test_queue_away_is_told_once_and_waited_out(
    peers: Peers, tiers: dict[str, Tier], mailbox: Mailbox, configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    pairs = queued(peers, 3)
    peers.queue.switch.down = True
    with caplog.at_level(logging.INFO, "penguin_worker.standing"):
        async with working(tiers, configure(smtp_port=mailbox.port)):
            await eventually(lambda: peers.queue.switch.calls["WorkJobs"] > 6)
            peers.queue.switch.down = False
            await eventually(settled(peers, pairs, "completed", "sent"))
    assert [r.getMessage() for r in caplog.records if "leases" in r.getMessage()] == [
        "queue leases is held up: queue.UNREACHABLE",
        "queue leases goes on",
    ]
    assert len(mailbox.messages()) == 3


async def test_a_server_that_hangs_up_after_the_end_leaves_it_unknown(
    peers: Peers, tiers: dict[str, Tier], scripted: ScriptedSmtp, configure: Configure
) -> None:
    scripted.answers = {"END": None}
    pairs = queued(peers, 4)
    async with working(tiers, configure(smtp_port=scripted.port)):
        await eventually(settled(peers, pairs, "completed", "outcome_unknown"))
    assert scripted.complete == 4


async def test_a_server_that_is_closing_burns_no_attempt(
    peers: Peers, tiers: dict[str, Tier], scripted: ScriptedSmtp, configure: Configure
) -> None:
    scripted.answers = {"RCPT": "421 4.3.2 closing"}
    ((email_id, job_id),) = queued(peers)
    async with working(tiers, configure(smtp_port=scripted.port)):
        await eventually(lambda: peers.queue.jobs[job_id].job.snoozes > 0)
        assert peers.emails.status(email_id) == "queued"
        scripted.answers = {}
        await eventually(settled(peers, [(email_id, job_id)], "completed", "sent"))
    assert peers.queue.jobs[job_id].job.attempts == 0
    assert scripted.complete == 1


async def test_a_campaign_completes_once_nothing_of_it_is_open(
    peers: Peers, tiers: dict[str, Tier], mailbox: Mailbox, configure: Configure
) -> None:
    peers.campaigns.open_emails = 3
    campaign = str(uuid4())
    job_id = peers.queue.put(TENANT, "campaign.complete", {"campaign_id": campaign})
    async with working(tiers, configure(smtp_port=mailbox.port)):
        await eventually(lambda: peers.queue.jobs[job_id].reasons[:1] == ["campaign_open"])
        peers.campaigns.open_emails = 0
        await eventually(lambda: peers.queue.state(job_id) == "completed")
    assert peers.campaigns.completed == [campaign]
    assert peers.queue.jobs[job_id].job.attempts == 0


async def test_a_campaign_whose_tenant_was_closed_meanwhile_is_let_go(
    peers: Peers, tiers: dict[str, Tier], mailbox: Mailbox, configure: Configure
) -> None:
    """Asked again it would be refused again, until its job was a dead letter."""
    peers.campaigns.closed = True
    job_id = peers.queue.put(TENANT, "campaign.complete", {"campaign_id": str(uuid4())})
    async with working(tiers, configure(smtp_port=mailbox.port)):
        await eventually(lambda: peers.queue.state(job_id) == "completed")
    assert not peers.campaigns.completed
    assert peers.queue.jobs[job_id].job.attempts == 0


async def test_a_defect_burns_an_attempt_and_stops_nobody(
    peers: Peers, tiers: dict[str, Tier], mailbox: Mailbox, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise KeyError("secret words")

    monkeypatch.setattr("penguin_worker.refreshing.etl.refresh", broken)
    job_id = peers.queue.put(TENANT, "olap.refresh", {}, max_attempts=2)
    pairs = queued(peers)
    async with working(tiers, configure(smtp_port=mailbox.port)):
        await eventually(lambda: peers.queue.state(job_id) == "dead")
        await eventually(settled(peers, pairs, "completed", "sent"))
    assert peers.queue.jobs[job_id].job.last_error == "defect.KeyError"


async def test_piled_up_refreshes_are_one(
    peers: Peers, tiers: dict[str, Tier], mailbox: Mailbox, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[UUID] = []

    async def refresh(_: object, tenant_id: UUID) -> None:
        runs.append(tenant_id)

    monkeypatch.setattr("penguin_worker.refreshing.etl.refresh", refresh)
    jobs = [peers.queue.put(TENANT, "olap.refresh", {}) for _ in range(20)]
    for job_id in jobs:
        peers.queue.jobs[job_id].job.created_at.FromDatetime(datetime.now(UTC) - timedelta(seconds=30))
    async with working(tiers, configure(smtp_port=mailbox.port)):
        await eventually(lambda: all(peers.queue.state(job_id) == "completed" for job_id in jobs))
        later = peers.queue.put(TENANT, "olap.refresh", {})
        await eventually(lambda: peers.queue.state(later) == "completed")
    assert runs == [TENANT, TENANT]


async def test_several_workers_tick_one_refresh_for_each_tenant(peers: Peers, tiers: dict[str, Tier]) -> None:
    peers.tenants.ids = [str(uuid4()) for _ in range(5)]
    tickers = [RefreshTicker(tiers, 60.0) for _ in range(3)]
    assert await asyncio.gather(*(ticker.tick(7) for ticker in tickers)) == [5, 5, 5]
    assert sorted(stored.job.tenant_id for stored in peers.queue.jobs.values()) == sorted(peers.tenants.ids)
    await tickers[0].tick(8)
    assert len(peers.queue.jobs) == 10


async def test_tenants_closed_lately_are_refreshed_without_a_job(
    peers: Peers, tiers: dict[str, Tier], monkeypatch: pytest.MonkeyPatch
) -> None:
    refreshed: list[UUID] = []

    async def refresh(_: object, tenant_id: UUID) -> None:
        refreshed.append(tenant_id)
        raise TierError("olap", grpc.StatusCode.UNAVAILABLE, "UNREACHABLE", "away")

    monkeypatch.setattr("penguin_worker.refreshing.etl.refresh", refresh)
    lately, before, *others = peers.tenants.ids = [str(uuid4()) for _ in range(5)]
    now = datetime.now(UTC)
    peers.tenants.closed = {lately: now - timedelta(days=2), before: now - timedelta(days=8)}
    with pytest.raises(TierError):
        await RefreshTicker(tiers, 60.0).tick(7)
    assert refreshed == [UUID(lately)]
    queued = sorted(stored.job.tenant_id for stored in peers.queue.jobs.values())
    assert queued == sorted(others), "a closed tenant's refresh held up the others'"
