"""A campaign over the real tiers: everybody once, however often it is launched, and failures come out as themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest
from libs.orchestrator.tests.stored import contents, emails

from penguin.oltp.v1 import lead_service_pb2 as lead_pb
from penguin_chassis.pool import Database
from penguin_orchestrator import campaigns, keys, launching
from penguin_orchestrator.campaigns import LaunchError
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.messages import Attachment, OutgoingEmail
from penguin_orchestrator.platform import Penguin
from penguin_orchestrator.rendering import TemplateInvalidError
from penguin_orchestrator.sagas.carrying import SagaUnfinishedError
from penguin_orchestrator.sending import Sender
from penguin_testkit.faults import Break, Code, Faults

CREATE = "BatchCreateEmails"


@pytest.fixture
def penguin(tiers: dict[str, Tier]) -> Penguin:
    return Penguin(tiers)


def impatient(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let launches bear failures for no longer than this."""
    for module in (launching, campaigns):
        monkeypatch.setattr(module, "DEADLINE_S", seconds)


async def prepared(
    penguin: Penguin, tenant: UUID, count: int, *, text: str = "Dear {{ first_name }}", odd: int = 0
) -> UUID:
    """A draft campaign to `count` leads, with an attachment; OLTP refuses the subject of the first `odd` for its length."""
    mailbox = await penguin.tenants.add_mailbox(tenant, f"{uuid4().hex}@sender.example", "Us")
    template = await penguin.tenants.add_template(
        tenant, "t", subject="For {{ first_name }}{{ more }}", text=text, html="<p>{{ first_name }}</p>",
        attachments=[Attachment("a.pdf", "application/pdf", b"%PDF-1.4")],
    )  # fmt: skip
    audience = uuid4().hex
    leads = [
        lead_pb.NewLead(
            request_id=str(uuid4()), id=str(keys.new_id()), list=audience, email=f"lead{n}-{audience}@example.com",
            first_name=f"Name {n}", custom_fields={"more": "x" * 1000 if n < odd else ""},
        )
        for n in range(count)
    ]  # fmt: skip
    results = await penguin.tenants.add_leads(tenant, leads)
    assert all(result.WhichOneof("outcome") != "error" for result in results)
    return await penguin.campaigns.create(tenant, "c", audience, template_id=template, mailbox_id=mailbox)


async def test_a_template_and_its_body_are_of_one_generation(
    penguin: Penguin, tenant: UUID, oltp_db: Database, content_db: Database
) -> None:
    await prepared(penguin, tenant, 1)
    async with oltp_db.tenant(tenant) as oltp, content_db.tenant(tenant) as content:
        rows = await oltp.fetch("SELECT content_storage_key, content_generation FROM templates")
        bodies = await content.fetch("SELECT storage_key, generation FROM content_objects")
    assert [tuple(row) for row in rows] == [tuple(row) for row in bodies]
    assert rows[0]["content_generation"] > 0


async def test_everybody_gets_one_email_however_often_it_is_launched(
    penguin: Penguin, tenant: UUID, oltp_db: Database, content_db: Database
) -> None:
    campaign = await prepared(penguin, tenant, 250)
    launch = await penguin.launch_campaign(tenant, campaign)
    assert (launch.created, launch.refused) == (250, 0)
    rows = await emails(oltp_db, tenant)
    assert len(rows) == 250
    again = await penguin.launch_campaign(tenant, campaign)
    assert (again.created, again.refused) == (0, 0)
    assert await emails(oltp_db, tenant) == rows
    assert set(rows.values()) <= set(await contents(content_db, tenant))
    read = await penguin.get_email(tenant, next(iter(rows)), full=True)
    assert read.email.subject.startswith("For Name ")
    assert read.body.content is not None
    assert read.body.content.text == read.email.subject.replace("For", "Dear")
    assert [a.data for a in read.body.content.attachments] == [b"%PDF-1.4"]


async def test_an_interrupted_launch_is_completed_by_the_next(
    penguin: Penguin,
    tenant: UUID,
    faults: dict[str, Faults],
    oltp_db: Database,
    content_db: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    impatient(monkeypatch, 1.0)
    campaign = await prepared(penguin, tenant, 220)
    faults["oltp"].breaks(CREATE, Break(Code.UNAVAILABLE, acted=True), *[Break(Code.UNAVAILABLE)] * 60)
    with pytest.raises(SagaUnfinishedError):
        await penguin.launch_campaign(tenant, campaign)
    faults["oltp"].heal()
    impatient(monkeypatch, 20.0)
    await penguin.launch_campaign(tenant, campaign)
    rows = await emails(oltp_db, tenant)
    assert len(rows) == 220
    # No email without its body.
    assert set(rows.values()) <= set(await contents(content_db, tenant))


async def test_a_launch_that_refuses_some_loses_patience_as_any_other_and_counts_them_once(
    penguin: Penguin, tenant: UUID, oltp_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BATCH", "PARALLEL"):
        monkeypatch.setattr(launching, name, 2 if name == "BATCH" else 1)
    campaign = await prepared(penguin, tenant, 5, odd=2)
    impatient(monkeypatch, 0.5)
    send_emails = Sender.send_emails

    async def away(self: Sender, tenant_id: UUID, batch: Sequence[OutgoingEmail], **more: Any) -> Any:
        if all(len(each.subject) < 1000 for each in batch):
            raise TierError("oltp", Code.UNAVAILABLE, "TIER_DB_DOWN", "The database is away.")
        return await send_emails(self, tenant_id, batch, **more)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(Sender, "send_emails", away)
        with pytest.raises(SagaUnfinishedError):
            await asyncio.wait_for(penguin.launch_campaign(tenant, campaign), 15)
    impatient(monkeypatch, 20.0)
    launch = await penguin.launch_campaign(tenant, campaign)
    assert (launch.created, launch.refused, len(launch.refusals)) == (3, 2, 2)
    assert len(await emails(oltp_db, tenant)) == 3


async def test_a_launch_with_content_away_raises_what_it_met(
    penguin: Penguin, tenant: UUID, faults: dict[str, Faults], oltp_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign = await prepared(penguin, tenant, 150)
    impatient(monkeypatch, 0.5)
    faults["content"].breaks("BatchPutContents", *[Break(Code.UNAVAILABLE, "TIER_DB_DOWN")] * 100)
    with pytest.raises(SagaUnfinishedError) as caught:
        await penguin.launch_campaign(tenant, campaign)
    assert isinstance(caught.value.__cause__, TierError)
    assert caught.value.__cause__.reason == "TIER_DB_DOWN"
    assert await emails(oltp_db, tenant) == {}


async def test_what_cannot_be_launched_says_so(penguin: Penguin, tenant: UUID) -> None:
    with pytest.raises((LaunchError, TierError)):
        await penguin.launch_campaign(tenant, uuid4())
    with pytest.raises(TemplateInvalidError):
        await prepared(penguin, tenant, 1, text="{% for x in y %}{% endfor %}")


async def test_launches_at_the_same_time_are_one(penguin: Penguin, tenant: UUID, oltp_db: Database) -> None:
    campaign = await prepared(penguin, tenant, 120)
    told: list[int] = []
    another = Penguin(penguin.tiers)
    launches = await asyncio.gather(
        penguin.campaigns.launch(tenant, campaign), another.campaigns.launch(tenant, campaign, progress=told.append)
    )
    assert [launch.created for launch in launches] == [120, 120]
    assert len(await emails(oltp_db, tenant)) == 120
    async with oltp_db.tenant(tenant) as connection:
        assert await connection.fetchval("SELECT count(*) FROM sagas WHERE tenant_id = $1", tenant) == 1


async def test_a_paused_launch_stops_and_is_gone_on_with(
    penguin: Penguin, tenant: UUID, oltp_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PAGE", "BATCH", "PARALLEL"):
        monkeypatch.setattr(launching, name, 1 if name == "PARALLEL" else 10)
    campaign = await prepared(penguin, tenant, 60)
    begun, paused = asyncio.Event(), asyncio.Event()
    send_emails = Sender.send_emails

    async def gated(self: Sender, *given: Any, **more: Any) -> Any:
        if begun.is_set():
            await paused.wait()
        return await send_emails(self, *given, **more)

    monkeypatch.setattr(Sender, "send_emails", gated)
    launch = asyncio.create_task(penguin.campaigns.launch(tenant, campaign, progress=lambda _: begun.set()))
    await begun.wait()
    await penguin.campaigns.pause(tenant, campaign)
    paused.set()
    stopped = await launch
    assert stopped.stopped
    assert 0 < stopped.created < 60
    resumed = await penguin.campaigns.resume(tenant, campaign)
    assert (resumed.stopped, stopped.created + resumed.created) == (False, 60)
    assert len(await emails(oltp_db, tenant)) == 60
    await penguin.campaigns.cancel(tenant, campaign)
    async with oltp_db.tenant(tenant) as connection:
        left = await connection.fetch("SELECT DISTINCT status FROM emails WHERE tenant_id = $1", tenant)
    assert [row["status"] for row in left] == ["cancelled"]
    with pytest.raises(TierError) as refused:
        await penguin.campaigns.resume(tenant, campaign)
    assert refused.value.reason == "STATE_CONFLICT"
