"""For each kind of saga: what it begins with, and what may be found in the tiers' databases when it has ended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson
from libs.orchestrator.tests.sagas.crashes import Probe
from services.oltp.tests.rows import make_tenant

from penguin.oltp.v1 import campaign_service_pb2 as campaign_pb
from penguin.oltp.v1 import lead_service_pb2 as lead_pb
from penguin.oltp.v1.campaign_service_pb2_grpc import CampaignServiceStub
from penguin.queue.v1 import queue_service_pb2 as job_pb
from penguin.queue.v1 import schedule_service_pb2 as schedule_pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin.queue.v1.schedule_service_pb2_grpc import ScheduleServiceStub
from penguin_chassis.pool import Database
from penguin_orchestrator import keys
from penguin_orchestrator.blobs import File, put_file
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.messages import OutgoingEmail
from penguin_orchestrator.platform import Penguin
from penguin_orchestrator.sagas.exports import KEPT
from penguin_orchestrator.sagas.leads import CSV, FILE_KEPT

LEADS = 2


@dataclass
class World:
    """The tiers, their databases, and what becomes of calls."""

    tiers: Mapping[str, Tier]
    dbs: Mapping[str, Database]
    # Past every policy, and in one trip each, to see what there is.
    looking: Mapping[str, asyncpg.Connection[asyncpg.Record]]
    probe: Probe
    # Tenants that scenarios share: by kind.
    known: dict[str, Any] = field(default_factory=dict)

    async def owe_nothing(self) -> None:
        """Forget what the tenants of other tests owe: leases of the outbox span tenants."""
        async with self.dbs["oltp"].maintenance() as connection:
            await connection.execute("DELETE FROM outbox")

    async def know_no_ledger(self) -> None:
        """Forget what tiers were told of other tests' ledgers of erasures: they would lack it."""
        for db in self.dbs.values():
            async with db.maintenance() as connection:
                await connection.execute("UPDATE incarnation SET ledger_sequence = 0, ledger_head = ''")

    async def rows(self, tier: str, tenant: UUID, query: str, *values: object) -> list[Any]:
        """What a tier's database has of the tenant."""
        return list(await self.looking[tier].fetch(query, tenant, *values))

    async def count(self, tier: str, tenant: UUID, query: str, *values: object) -> int:
        """How many."""
        (row,) = await self.rows(tier, tenant, query, *values)
        return int(row[0])


@dataclass(frozen=True)
class Begun:
    """One saga to be: its tenant, input and subject."""

    tenant: UUID
    input: dict[str, Any]
    subject: str = ""


@dataclass(frozen=True)
class Scenario:
    """`check` fails unless all of it stands (`whole`), or nothing does."""

    prepare: Callable[[World], Awaitable[Begun]]
    check: Callable[[World, Begun, bool], Awaitable[None]]


async def _newcomer(world: World) -> Begun:
    return Begun(keys.new_id(), {"name": "Acme"})


async def _known_everywhere(world: World, begun: Begun, whole: bool) -> None:
    known = [
        await world.count(tier, begun.tenant, "SELECT count(*) FROM tier_tenants WHERE tenant_id = $1")
        for tier in world.tiers
    ]
    stands = await world.count("oltp", begun.tenant, "SELECT count(*) FROM tenants WHERE tenant_id = $1")
    assert (known, stands) == (([1] * 5, 1) if whole else ([0] * 5, 0))


async def _busy_tenant(world: World) -> Begun:
    """A tenant with a running campaign, a queued email, jobs that wait and a schedule."""
    tenant = await make_tenant(world.dbs["oltp"])
    async with world.dbs["oltp"].tenant(tenant) as connection:
        campaign = uuid4()
        await connection.execute(
            "INSERT INTO campaigns (tenant_id, id, name, audience_list, status, created_at, updated_at)"
            " VALUES ($1, $2, 'c', 'a', 'running', now(), now())", tenant, campaign,
        )  # fmt: skip
        await connection.execute(
            "INSERT INTO emails (tenant_id, id, recipient, recipient_name, sender, sender_name, subject, status,"
            " priority, content_storage_key, content_generation, message_id, queued_at)"
            " VALUES ($1, $2, 'a@b.example', '', 'c@d.example', '', '', 'queued', 'normal', $3, 1, '', now())",
            tenant, uuid4(), uuid4().hex,
        )  # fmt: skip
    queue = world.tiers["queue"]
    jobs = [job_pb.NewJob(request_id=str(uuid4()), kind="test.noop", payload=b"{}") for _ in range(2)]
    await queue.call(
        queue.stub(QueueServiceStub).EnqueueJobs, job_pb.EnqueueJobsRequest(tenant_id=str(tenant), jobs=jobs)
    )
    schedule = schedule_pb.Schedule(
        name="nightly", cron="0 3 * * *", time_zone="UTC", kind="test.noop", payload=b"{}",
        missed_runs=schedule_pb.MISSED_RUN_POLICY_SKIP, overlap=schedule_pb.OVERLAP_POLICY_SKIP,
    )  # fmt: skip
    schedule.start_deadline.FromSeconds(60)
    put = schedule_pb.PutScheduleRequest(tenant_id=str(tenant), request_id=str(uuid4()), schedule=schedule)
    await queue.call(queue.stub(ScheduleServiceStub).PutSchedule, put)
    return Begun(tenant, {}, "tenant")


async def _waiting(world: World, tenant: UUID) -> tuple[int, int]:
    """Jobs that wait, and schedules that run."""
    queue = world.tiers["queue"]
    jobs = await queue.call(
        queue.stub(QueueServiceStub).ListJobs,
        job_pb.ListJobsRequest(tenant_id=str(tenant), state=job_pb.JOB_STATE_READY),
    )
    schedules = await queue.call(
        queue.stub(ScheduleServiceStub).ListSchedules, schedule_pb.ListSchedulesRequest(tenant_id=str(tenant))
    )
    return len(jobs.jobs), sum(schedule.HasField("next_at") for schedule in schedules.schedules)


async def _closed_everywhere(world: World, begun: Begun, whole: bool) -> None:
    closed = [
        await world.count(
            tier, begun.tenant, "SELECT count(*) FROM tier_tenants WHERE tenant_id = $1 AND state = 'closed'"
        )
        for tier in world.tiers
    ]
    (tenant,) = await world.rows("oltp", begun.tenant, "SELECT status FROM tenants WHERE tenant_id = $1")
    (campaign,) = await world.rows("oltp", begun.tenant, "SELECT status FROM campaigns WHERE tenant_id = $1")
    (email,) = await world.rows("oltp", begun.tenant, "SELECT status FROM emails WHERE tenant_id = $1")
    found = (closed, tenant[0], campaign[0], email[0], await _waiting(world, begun.tenant))
    assert found == (
        ([1] * 5, "closed", "paused", "cancelled", (0, 0)) if whole
        else ([0] * 5, "active", "running", "queued", (2, 1))
    )  # fmt: skip


async def _audience(world: World) -> tuple[UUID, UUID, UUID]:
    """A tenant with leads, a mailbox and a template, made once."""
    if "audience" not in world.known:
        penguin = Penguin(world.tiers)
        tenant = await make_tenant(world.dbs["oltp"])
        leads = [
            lead_pb.NewLead(request_id=str(uuid4()), id=str(keys.new_id()), list="all", email=f"lead{n}@example.com")
            for n in range(LEADS)
        ]
        await penguin.tenants.add_leads(tenant, leads)
        mailbox = await penguin.tenants.add_mailbox(tenant, "us@sender.example", "Us")
        template = await penguin.tenants.add_template(tenant, "t", subject="Hello", text="Dear you", html="")
        world.known["audience"] = (tenant, mailbox, template)
    found: tuple[UUID, UUID, UUID] = world.known["audience"]
    return found


async def _draft(world: World) -> Begun:
    tenant, mailbox, template = await _audience(world)
    campaign = await Penguin(world.tiers).campaigns.create(tenant, "c", "all", template_id=template, mailbox_id=mailbox)
    return Begun(tenant, {"campaign_id": str(campaign)}, str(campaign))


async def _moved(world: World, begun: Begun, method: str) -> None:
    oltp = world.tiers["oltp"]
    request = getattr(campaign_pb, f"{method}Request")(
        tenant_id=str(begun.tenant), campaign_id=begun.subject, request_id=str(uuid4())
    )
    await oltp.call(getattr(oltp.stub(CampaignServiceStub), method), request)


async def _running(world: World) -> Begun:
    begun = await _draft(world)
    await _moved(world, begun, "StartCampaign")
    return begun


async def _paused(world: World) -> Begun:
    begun = await _running(world)
    await _moved(world, begun, "PauseCampaign")
    return begun


async def _launched(world: World) -> Begun:
    """It runs, and each of its recipients has an email that waits."""
    begun = await _draft(world)
    await Penguin(world.tiers).campaigns.launch(begun.tenant, UUID(begun.subject))
    return begun


async def _campaign(world: World, begun: Begun) -> tuple[str, bool]:
    (row,) = await world.rows(
        "oltp", begun.tenant, "SELECT status, sealed_at FROM campaigns WHERE tenant_id = $1 AND id = $2",
        UUID(begun.subject),
    )  # fmt: skip
    return row["status"], row["sealed_at"] is not None


async def _sent_once(world: World, begun: Begun, whole: bool) -> None:
    status, sealed = await _campaign(world, begun)
    rows = await world.rows(
        "oltp", begun.tenant, "SELECT lead_id, content_storage_key FROM emails WHERE tenant_id = $1 AND campaign_id = $2",
        UUID(begun.subject),
    )  # fmt: skip
    assert len({row["lead_id"] for row in rows}) == len(rows) == (LEADS if whole else 0)
    if whole:
        assert (status, sealed) == ("running", True)
        owed = await world.rows(
            "oltp", begun.tenant,
            "SELECT kind, convert_from(payload, 'UTF8') AS payload FROM outbox WHERE tenant_id = $1",
        )  # fmt: skip
        for row in rows:
            claims = [each for each in owed if row["content_storage_key"] in each["payload"]]
            assert [each["kind"] for each in claims] == ["claim_contents"]
        completions = [each for each in owed if begun.subject in each["payload"] and "complete" in each["payload"]]
        assert len(completions) == 1
        stored = await world.count(
            "content", begun.tenant,
            "SELECT count(*) FROM content_objects WHERE tenant_id = $1 AND storage_key = ANY ($2::text[])",
            [row["content_storage_key"] for row in rows],
        )  # fmt: skip
        assert stored == LEADS
    else:
        assert (status, sealed) in {("draft", False), ("paused", False)}


def _status(wanted: str, before: str) -> Callable[[World, Begun, bool], Awaitable[None]]:
    async def check(world: World, begun: Begun, whole: bool) -> None:
        status, _ = await _campaign(world, begun)
        assert status == (wanted if whole else before)

    return check


async def _cancelled_with_its_emails(world: World, begun: Begun, whole: bool) -> None:
    status, _ = await _campaign(world, begun)
    rows = await world.rows(
        "oltp", begun.tenant, "SELECT status FROM emails WHERE tenant_id = $1 AND campaign_id = $2",
        UUID(begun.subject),
    )  # fmt: skip
    found = (status, [row["status"] for row in rows])
    assert found == (("cancelled", ["cancelled"] * LEADS) if whole else ("running", ["queued"] * LEADS))


async def _lead_file(world: World) -> Begun:
    """A file in Content: a lead, one that stands already, and a line that is none."""
    tenant, _, _ = await _audience(world)
    key, audience = keys.storage_key(), uuid4().hex
    standing = lead_pb.NewLead(request_id=str(uuid4()), id=str(keys.new_id()), list=audience, email="old@example.com")
    await Penguin(world.tiers).tenants.add_leads(tenant, [standing])
    data = b"email\nnew@example.com\nOld@example.com\nnobody\n"
    await put_file(world.tiers["content"], tenant, key, str(uuid4()), File("leads.csv", CSV, data), FILE_KEPT)
    return Begun(tenant, {"list": audience, "key": key, "columns": {}}, key)


async def _imported_once(world: World, begun: Begun, whole: bool) -> None:
    rows = await world.rows(
        "oltp", begun.tenant, "SELECT email FROM leads WHERE tenant_id = $1 AND list = $2 ORDER BY email",
        begun.input["list"],
    )  # fmt: skip
    assert [row["email"] for row in rows] == (["new@example.com"] if whole else []) + ["old@example.com"]
    if whole:
        (saga,) = await world.rows(
            "oltp", begun.tenant,
            "SELECT saga_id, convert_from(result, 'UTF8') AS result FROM saga_steps WHERE tenant_id = $1"
            " AND step = 'report' AND saga_id IN (SELECT id FROM sagas WHERE tenant_id = $1 AND subject = $2)",
            begun.subject,
        )  # fmt: skip
        report = await Penguin(world.tiers).leads.report(begun.tenant, saga["saga_id"])
        assert report == (b"line,field,reason,detail,value\r\n4,email,BAD_ADDRESS,is no email address,nobody\r\n")
        stored = "SELECT count(*) FROM content_objects WHERE tenant_id = $1 AND storage_key = $2"
        assert await world.count("content", begun.tenant, stored, begun.input["key"]) == 0
        assert await world.count("content", begun.tenant, stored, orjson.loads(saga["result"])["key"]) == 1


PERSON = "ada@example.com"


async def _person(world: World) -> Begun:
    """An order to export somebody who was written to."""
    if "person" not in world.known:
        tenant = await make_tenant(world.dbs["oltp"])
        emails = [OutgoingEmail(each, "us@sender.example", "Hi", text="Dear") for each in (PERSON, "bob@example.com")]
        await Penguin(world.tiers).send_emails(tenant, emails)
        world.known["person"] = tenant
    key, tenant = keys.storage_key(), world.known["person"]
    order = File("order.txt", "text/plain", PERSON.encode())
    await put_file(world.tiers["content"], tenant, key, str(uuid4()), order, KEPT)
    return Begun(tenant, {"order": key}, key)


async def _exported_once(world: World, begun: Begun, whole: bool) -> None:
    stored = "SELECT count(*) FROM content_objects WHERE tenant_id = $1 AND storage_key = ANY ($2::text[])"
    sagas = "SELECT id FROM sagas WHERE tenant_id = $1 AND subject = $2"
    for saga in await world.rows("oltp", begun.tenant, sagas, begun.subject):
        journal = (
            "SELECT keys, input FROM saga_steps JOIN sagas ON id = saga_id WHERE saga_id = $2 AND $1 = sagas.tenant_id"
        )
        rows = await world.rows("oltp", begun.tenant, journal, saga["id"])
        assert not any(PERSON.encode() in row["keys"] + row["input"] for row in rows), "the journal names the person"
        minted = [key for row in rows for key in orjson.loads(row["keys"]).values()]
        # OLTP's file and Content's: the other tiers hold nothing of hers. The order is gone however it ended.
        assert await world.count("content", begun.tenant, stored, minted) == (2 if whole else 0)
        assert await world.count("content", begun.tenant, stored, [begun.input["order"]]) == 0
        if whole:
            subjects = Penguin(world.tiers).subjects
            found = [(each.table, each.missing) async for each in subjects.exported(begun.tenant, saga["id"])]
            assert found == [("emails", ""), ("content_objects", "")]


SCENARIOS: dict[str, Scenario] = {
    "tenant.onboard": Scenario(_newcomer, _known_everywhere),
    "tenant.close": Scenario(_busy_tenant, _closed_everywhere),
    "campaign.launch": Scenario(_draft, _sent_once),
    "campaign.resume": Scenario(_paused, _sent_once),
    "campaign.pause": Scenario(_running, _status("paused", "running")),
    "leads.import": Scenario(_lead_file, _imported_once),
    "subject.export": Scenario(_person, _exported_once),
    "campaign.cancel": Scenario(_launched, _cancelled_with_its_emails),
}
