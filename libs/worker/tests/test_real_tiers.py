"""The worker against the real OLTP, Content and Queue: the whole send, a worker that died, and refusals on the way."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from email import message_from_bytes
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from libs.worker.tests.conftest import Configure
from libs.worker.tests.receivers import Mailbox
from libs.worker.tests.waiting import eventually, until, working

from penguin.oltp.v1 import email_service_pb2 as email_pb
from penguin.oltp.v1 import tenant_service_pb2 as tenant_pb
from penguin.oltp.v1.email_service_pb2_grpc import EmailServiceStub
from penguin.oltp.v1.tenant_service_pb2_grpc import TenantServiceStub
from penguin.queue.v1 import queue_admin_service_pb2 as admin_pb
from penguin.queue.v1 import queue_service_pb2 as queue_pb
from penguin.queue.v1.queue_admin_service_pb2_grpc import QueueAdminServiceStub
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_content.app import serving as serving_content
from penguin_content.config import ContentConfig
from penguin_devstack.roles import TierDatabase
from penguin_devstack.valkey import ValkeyServer
from penguin_oltp.app import serving as serving_oltp
from penguin_oltp.config import OltpConfig
from penguin_orchestrator.clients import Tier, connect
from penguin_orchestrator.messages import Attachment, OutgoingEmail, Sent
from penguin_orchestrator.platform import Penguin
from penguin_orchestrator.relay import Relay
from penguin_queue.app import serving as serving_queue
from penguin_queue.config import QueueConfig
from penguin_testkit.databases import Databases
from penguin_testkit.tokens import TokenFactory
from penguin_worker.bodies import Bodies
from penguin_worker.jobs import Job, Verdict
from penguin_worker.ledger import Ledger
from penguin_worker.sending import EmailSending
from penguin_worker.smtp import Handover, Outcome

TIERS = ("oltp", "content", "queue")
SCOPES = (
    "contents.read", "contents.write", "emails.read", "emails.write", "emails.send", "campaigns.write", "jobs.read",
    "jobs.write", "tenants.write", "email_accounts.write",
)  # fmt: skip


class SignedTokens:
    """What an issuer would give."""

    def __init__(self, factory: TokenFactory) -> None:
        self._factory = factory

    async def tenant_token(self, tier: str, tenant_id: UUID, scope: str) -> str:
        return self._factory.token(tier, tenant=tenant_id, scopes=SCOPES)

    async def platform_token(self, tier: str, method: str, scope: str) -> str:
        return self._factory.token(tier, scopes=[scope], platform=True, methods=[method])


@pytest.fixture(scope="module")
async def urls(databases: Databases) -> dict[str, TierDatabase]:
    return {name: await databases.clone(name) for name in ("oltp", "content", "queue")}


@pytest.fixture(scope="module")
async def real(
    urls: dict[str, TierDatabase], valkey: ValkeyServer, tokens: TokenFactory
) -> AsyncIterator[dict[str, Tier]]:
    """The three tiers as a caller has them."""
    kinds: dict[str, tuple[Any, Any]] = {
        "oltp": (OltpConfig, serving_oltp),
        "content": (ContentConfig, serving_content),
        "queue": (QueueConfig, serving_queue),
    }
    async with contextlib.AsyncExitStack() as stack:
        addresses = {}
        for name, (config, serving) in kinds.items():
            settings = {
                f"{name.upper()}_DB_URL": urls[name].app_url,
                f"{name.upper()}_MAINTENANCE_DB_URL": urls[name].maintenance_url,
                f"{name.upper()}_LISTEN": "127.0.0.1:0",
                f"{name.upper()}_POOL_MAX": 8,
                "QUEUE_REDIS_URL": valkey.url,
                "PENGUIN_JWKS_PATH": tokens.jwks_path,
                "PENGUIN_DRAIN_SECONDS": 0.1,
            }
            wanted = {str(field.validation_alias) for field in config.model_fields.values()}
            given = {key: value for key, value in settings.items() if key in wanted}
            running = await stack.enter_async_context(serving(config(**given)))
            addresses[name] = f"127.0.0.1:{running.port}"
        yield await stack.enter_async_context(connect(addresses, SignedTokens(tokens)))


@pytest.fixture
async def penguin(real: dict[str, Tier]) -> AsyncIterator[Penguin]:
    opened = Penguin(real)
    yield opened
    await opened.close()


@pytest.fixture
async def tenant(real: dict[str, Tier]) -> UUID:
    """A tenant of OLTP's: to the other tiers it is an id, and not all of them are here."""
    tenant = uuid4()
    item = tenant_pb.NewTenant(request_id=str(uuid4()), id=str(tenant), name="Test")
    oltp = real["oltp"]
    await oltp.call(oltp.stub(TenantServiceStub).CreateTenant, tenant_pb.CreateTenantRequest(tenant=item))
    return tenant


@pytest.fixture
async def relayed(real: dict[str, Tier]) -> AsyncIterator[None]:
    """OLTP's outbox moves by itself."""
    task = asyncio.create_task(Relay(real["oltp"], real, 200).run())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def mails(recipients: Iterable[str]) -> list[OutgoingEmail]:
    offer = Attachment("Angebot für Ada.pdf", "application/pdf", b"%PDF\r\n.\n" * 1000)
    return [
        OutgoingEmail(
            recipient=recipient,
            sender="us@sender.example",
            sender_name="Üs & Co",
            subject=f"Hello {n} ✓",
            text=f"Hello {n}\nlone\rends \r\n.\r\n",
            html=f"<p>Héllo {n}</p>\n" * 50,
            headers={"X-Campaign": "spring"},
            attachments=(offer,),
        )
        for n, recipient in enumerate(recipients)
    ]


async def statuses(real: dict[str, Tier], tenant: UUID, ids: Iterable[UUID]) -> list[str]:
    request = email_pb.BatchGetEmailsRequest(tenant_id=str(tenant), email_ids=map(str, ids))
    reply = await real["oltp"].call(real["oltp"].stub(EmailServiceStub).BatchGetEmails, request)
    return [email_pb.EmailStatus.Name(e.status).removeprefix("EMAIL_STATUS_").lower() for e in reply.emails]


async def jobs(real: dict[str, Tier], tenant: UUID) -> list[queue_pb.Job]:
    request = queue_pb.ListJobsRequest(tenant_id=str(tenant), page_size=1000)
    reply = await real["queue"].call(real["queue"].stub(QueueServiceStub).ListJobs, request)
    return list(reply.jobs)


async def all_completed(real: dict[str, Tier], tenant: UUID) -> bool:
    return {job.state for job in await jobs(real, tenant)} == {queue_pb.JOB_STATE_COMPLETED}


async def sent(penguin: Penguin, tenant: UUID, recipients: Iterable[str]) -> list[UUID]:
    results = await penguin.send_emails(tenant, mails(recipients))
    assert all(isinstance(result, Sent) for result in results), results
    return [result.email_id for result in results if isinstance(result, Sent)]


@pytest.mark.usefixtures("relayed")
async def test_what_is_sent_is_received_once_and_stands_in_the_ledger(
    real: dict[str, Tier], penguin: Penguin, tenant: UUID, mailbox: Mailbox, configure: Configure
) -> None:
    ids = await sent(penguin, tenant, [f"lead-{n}@example.com" for n in range(80)])
    async with working(real, configure(smtp_port=mailbox.port)):
        await eventually(lambda: len(mailbox.messages()) >= 80)
        await until(lambda: all_completed(real, tenant))
    assert await statuses(real, tenant, ids) == ["sent"] * 80
    received = mailbox.messages()
    assert sorted(r for m in received for r in m.recipients) == sorted(f"lead-{n}@example.com" for n in range(80))
    for message in received:
        parsed = message_from_bytes(message.content)
        n = int(message.recipients[0].removeprefix("lead-").partition("@")[0])
        parts = [part.get_payload(decode=True) for part in parsed.walk() if not part.is_multipart()]
        assert parts == [
            f"Hello {n}\nlone\rends \r\n.\r\n".encode(),
            (f"<p>Héllo {n}</p>\n" * 50).encode(),
            b"%PDF\r\n.\n" * 1000,
        ]
        assert parsed["X-Campaign"] == "spring"


async def leased_and_left(queue: Tier) -> None:
    """A worker dies with a job in hand."""
    lease = queue_pb.LeaseJobsRequest(kinds=["email.send"], max_jobs=1, worker_id="dead")
    lease.lease_duration.FromSeconds(1)
    lease.wait.FromSeconds(10)
    leased = await queue.call(queue.stub(QueueServiceStub).LeaseJobs, lease, timeout=15)
    assert len(leased.jobs) == 1


@pytest.mark.usefixtures("relayed")
async def test_what_a_dead_worker_had_in_hand_is_held_where_the_ledger_was_put_back_since(
    real: dict[str, Tier], urls: dict[str, TierDatabase], penguin: Penguin, tenant: UUID, mailbox: Mailbox,
    configure: Configure,
) -> None:  # fmt: skip
    """It may have sent the email; that it began to is not in the backup."""
    (email_id,) = await sent(penguin, tenant, ["ada@example.com"])
    await leased_and_left(real["queue"])
    connection = await asyncpg.connect(urls["oltp"].maintenance_url)
    await connection.execute("UPDATE incarnation SET began_at = clock_timestamp()")
    await connection.close()
    (other,) = await sent(penguin, tenant, ["bob@example.com"])
    async with working(real, configure(smtp_port=mailbox.port)):
        await until(lambda: all_completed(real, tenant))
    assert await statuses(real, tenant, [email_id, other]) == ["outcome_unknown", "sent"]
    assert [message.recipients for message in mailbox.messages()] == [("bob@example.com",)]


@pytest.mark.usefixtures("relayed")
async def test_a_worker_that_died_after_its_claim_leaves_the_email_held(
    real: dict[str, Tier], penguin: Penguin, tenant: UUID, mailbox: Mailbox, configure: Configure
) -> None:
    (email_id,) = await sent(penguin, tenant, ["ada@example.com"])
    await leased_and_left(real["queue"])
    oltp = real["oltp"]
    claim = email_pb.BatchStartAttemptsRequest(
        tenant_id=str(tenant), attempts=[email_pb.StartAttempt(request_id=str(uuid4()), email_id=str(email_id))]
    )
    await oltp.call(oltp.stub(EmailServiceStub).BatchStartAttempts, claim)
    async with working(real, configure(smtp_port=mailbox.port)):
        await until(lambda: all_completed(real, tenant))
    assert await statuses(real, tenant, [email_id]) == ["outcome_unknown"]
    assert mailbox.messages() == []


@pytest.mark.usefixtures("relayed")
async def test_refusals_and_lost_answers_end_as_they_should(
    real: dict[str, Tier], penguin: Penguin, tenant: UUID, mailbox: Mailbox, configure: Configure
) -> None:
    ids = await sent(penguin, tenant, ["reject-550@example.com", "drop@example.com", "tempfail-451@example.com"])

    async def said() -> bool:
        seen = await jobs(real, tenant)
        completed = [job for job in seen if job.state == queue_pb.JOB_STATE_COMPLETED]
        return len(completed) == 2 and any(job.attempts and job.last_error == "smtp.451" for job in seen)

    async with working(real, configure(smtp_port=mailbox.port)):
        await until(said)
    assert await statuses(real, tenant, ids[:2]) == ["failed", "outcome_unknown"]
    assert await statuses(real, tenant, ids[2:]) == ["queued"]
    assert [message.recipients for message in mailbox.messages()] == [("drop@example.com",)]


@contextlib.asynccontextmanager
async def key_rate_of_mail(real: dict[str, Tier], jobs: int, per_s: int) -> AsyncIterator[None]:
    """The rate of each mailbox within the block, as an operator sets it."""
    queue, stub = real["queue"], real["queue"].stub(QueueAdminServiceStub)
    rated = admin_pb.Queue(name="mail", key_rate=admin_pb.RateLimit(jobs=jobs, burst=1))
    rated.key_rate.per.FromSeconds(per_s)
    await queue.call(stub.PutQueue, admin_pb.PutQueueRequest(request_id=str(uuid4()), queue=rated))

    async def move(name: str) -> None:
        request = admin_pb.MoveKindsRequest(request_id=str(uuid4()), queue=name, kinds=["email.send"])
        await queue.call(stub.MoveKinds, request)

    await move("mail")
    try:
        yield
    finally:
        await move("default")


@pytest.mark.usefixtures("relayed")
@pytest.mark.parametrize("each", [4, 22])
async def test_a_mailbox_sends_at_its_rate_and_holds_up_no_other(
    real: dict[str, Tier], penguin: Penguin, tenant: UUID, mailbox: Mailbox, configure: Configure, each: int
) -> None:
    """A few mails go to Queue one by one, many of a mailbox as a batch."""
    boxes = [await penguin.tenants.add_mailbox(tenant, f"{name}@sender.example") for name in ("ada", "bob")]
    async with key_rate_of_mail(real, each, per_s=3):
        outgoing = [
            replace(mail, email_account_id=box)
            for box, name in ((*zip(boxes, ("ada", "bob"), strict=True), (None, "free")))
            for mail in mails(f"{name}-{n}@example.com" for n in range(each))
        ]
        await penguin.send_emails(tenant, outgoing)
        async with working(real, configure(smtp_port=mailbox.port)):
            await eventually(lambda: len(mailbox.messages()) >= 3 * each, 40)
    at: dict[str, list[float]] = defaultdict(list)
    for message in mailbox.messages():
        at[message.recipients[0].partition("-")[0]].append(message.received_at.timestamp())
    assert {name: len(times) for name, times in at.items()} == {"ada": each, "bob": each, "free": each}
    # One token at first, and the last of the others after more than 2 s.
    assert max(at["ada"]) - min(at["ada"]) > 1
    assert max(at["bob"]) - min(at["bob"]) > 1
    assert max(map(min, at.values())) < min(max(at["ada"]), max(at["bob"]))
    assert max(at["free"]) < min(max(at["ada"]), max(at["bob"]))


class Overtaken:
    """Takes mail; meanwhile the claim of an earlier lease arrives, long after its worker has given it up."""

    def __init__(self, oltp: Tier, tenant: UUID, email_id: UUID, outcome: Outcome) -> None:
        self._oltp, self._outcome = oltp, outcome
        attempt = email_pb.StartAttempt(request_id=str(uuid4()), email_id=str(email_id))
        self._late = email_pb.BatchStartAttemptsRequest(tenant_id=str(tenant), attempts=[attempt])

    async def ready(self) -> None:
        """It is."""

    async def hand_over(self, *_: object) -> Handover:
        """As a pool of connections does."""
        reply = await self._oltp.call(self._oltp.stub(EmailServiceStub).BatchStartAttempts, self._late)
        assert reply.results[0].started.email.attempt == 2
        return Handover(self._outcome)


@pytest.mark.parametrize(
    ("outcome", "verdict", "status"),
    [
        (Outcome.SENT, None, "sent"),
        (Outcome.REJECTED, "overtaken", "sending"),
        (Outcome.UNKNOWN, "overtaken", "sending"),
        (Outcome.DEFERRED, "smtp.0", "sending"),
    ],
)
async def test_a_job_whose_claim_was_overtaken_does_not_end_before_its_email(
    real: dict[str, Tier], penguin: Penguin, tenant: UUID, outcome: Outcome, verdict: str | None, status: str
) -> None:
    oltp = real["oltp"]
    resend = tenant_pb.TenantUpdate(unknown_outcome_policy=tenant_pb.UNKNOWN_OUTCOME_POLICY_RESEND)
    request = tenant_pb.UpdateTenantRequest(tenant_id=str(tenant), request_id=str(uuid4()), tenant=resend)
    request.update_mask.paths.append("unknown_outcome_policy")
    await oltp.call(oltp.stub(TenantServiceStub).UpdateTenant, request)
    (email_id,) = await sent(penguin, tenant, ["ada@example.com"])
    said: list[Verdict] = []
    job = Job(
        id=1, tenant_id=tenant, kind="email.send", payload={"email_id": str(email_id)}, lease_token=1,
        lease_until=asyncio.get_running_loop().time() + 60, attempts=0, max_attempts=3, snoozes=0, lost_leases=0,
        created_at=datetime.now(UTC), on_settled=lambda _, what: said.append(what),
    )  # fmt: skip
    smtp: Any = Overtaken(oltp, tenant, email_id, outcome)
    await EmailSending(Bodies(real["content"], 1 << 20), Ledger(oltp), smtp, lambda: False).handle([job])
    assert [each and each.error for each in said] == [verdict]
    assert await statuses(real, tenant, [email_id]) == [status]
