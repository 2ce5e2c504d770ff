"""A person with a past in every tier, and a search that leaves no column of any table out."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import zstandard
from google.protobuf.timestamp_pb2 import Timestamp
from libs.orchestrator.tests.subjects.conftest import Town
from redis.asyncio import Redis

from penguin.notifications.v1 import admin_event_service_pb2 as admin_pb
from penguin.notifications.v1 import notification_service_pb2 as notice_pb
from penguin.notifications.v1.admin_event_service_pb2_grpc import AdminEventServiceStub
from penguin.notifications.v1.notification_service_pb2_grpc import NotificationServiceStub
from penguin.oltp.v1 import email_service_pb2 as email_pb
from penguin.oltp.v1 import lead_service_pb2 as lead_pb
from penguin.oltp.v1 import ledger_service_pb2 as ledger_pb
from penguin.oltp.v1 import suppression_service_pb2 as suppression_pb
from penguin.oltp.v1.email_service_pb2_grpc import EmailServiceStub
from penguin.oltp.v1.ledger_service_pb2_grpc import LedgerServiceStub
from penguin.oltp.v1.suppression_service_pb2_grpc import SuppressionServiceStub
from penguin_orchestrator import etl, keys
from penguin_orchestrator.mailsources import Source
from penguin_orchestrator.messages import Attachment, OutgoingEmail, Sent
from penguin_orchestrator.platform import Penguin
from penguin_orchestrator.relay import Relay

# As the lead was written; elsewhere in other cases.
ADDRESS = "Ada.Lovelace+list@Example.com"
OTHER = "bob@example.com"
# Two more people, whose addresses hold hers: not one row of theirs is hers.
NEIGHBOURS = (f"Jo{ADDRESS}", f"{ADDRESS}.au")
MAILBOX = "us@sender.example"
RELAYED = 100
LETTER = f"From: Ada <{ADDRESS}>\r\nTo: {MAILBOX}\r\nSubject: Re: Hello\r\nMessage-ID: <a1@example.com>\r\n\r\nYes.\r\n"
NOTE = "From: {0}\r\nTo: us@sender.example\r\nSubject: By {0}\r\nMessage-ID: <{1}@n.example>\r\n\r\nYours, {0}.\r\n"
GOSSIP = (
    f"From: Bob <{OTHER}>\r\nTo: {MAILBOX}\r\nSubject: Ada\r\nMessage-ID: <b1@example.com>\r\n\r\n"
    f"Write to {ADDRESS.lower()}.\r\n"
)
COLUMNS = """
SELECT c.oid::regclass::text AS table, a.attname AS column, a.atttypid::regtype::text AS type
FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
  AND a.atttypid IN ('text'::regtype, 'bytea'::regtype, 'jsonb'::regtype, 'json'::regtype, 'text[]'::regtype,
                     'varchar'::regtype, 'bpchar'::regtype)"""


@dataclass
class Life:
    """A tenant, and what of the subject's stands in it."""

    tenant: UUID
    emails: list[UUID]
    # A content of somebody else's that mentions the subject.
    mentioned: str


def day() -> str:
    return datetime.now(UTC).date().isoformat()


async def led(town: Town, emails: int) -> Life:
    """Leads, emails (queued, sent, opened, replied to), an attachment, letters, a suppression, notifications."""
    penguin, oltp = town.penguin, town.tiers["oltp"]
    tenant = await penguin.tenants.onboard("Acme")
    people = [
        lead_pb.NewLead(request_id=str(uuid4()), id=str(keys.new_id()), email=ADDRESS, first_name="Ada", list=audience)
        for audience in ("spring", "autumn")
    ] + [
        lead_pb.NewLead(
            request_id=str(uuid4()), id=str(keys.new_id()), email=OTHER, list="spring",
            custom_fields={"referred_by": ADDRESS.upper()},
        )
    ]  # fmt: skip
    await penguin.tenants.add_leads(tenant, people)
    outgoing = [
        OutgoingEmail(
            ADDRESS.lower() if n % 2 else ADDRESS, MAILBOX, f"Hello {n}", text=f"Dear Ada ({ADDRESS}), no. {n}",
            recipient_name="Ada", lead_id=UUID(people[0].id) if n == 0 else None,
            attachments=(Attachment("ada.txt", "text/plain", f"For {ADDRESS}".encode()),) if n % 100 == 0 else (),
            send_at=datetime.now(UTC) + timedelta(days=9) if n % 4 == 3 else None,
        )
        for n in range(emails)
    ]  # fmt: skip
    outgoing.append(OutgoingEmail(OTHER, MAILBOX, f"About {ADDRESS}", text=f"Do you know {ADDRESS.upper()}?"))
    sent = await penguin.send_emails(tenant, outgoing)
    ids = [each.email_id for each in sent if isinstance(each, Sent)]
    assert len(ids) == emails + 1
    last = sent[-1]
    assert isinstance(last, Sent)
    await deliver(town)
    await _handed_over(penguin, tenant, ids[: emails // 2])
    await penguin.inbox.run(tenant, MAILBOX, [Source("letter", LETTER.encode()), Source("gossip", GOSSIP.encode())])
    await deliver(town)
    item = suppression_pb.NewSuppression(request_id=str(uuid4()), id=str(keys.new_id()), address=ADDRESS)
    request = suppression_pb.CreateSuppressionRequest(tenant_id=str(tenant), suppression=item)
    await oltp.call(oltp.stub(SuppressionServiceStub).CreateSuppression, request)
    await _told(town, tenant)
    # A report of what was left out names her, in a row that is no lead.
    rows = f"email,first_name\nnobody {ADDRESS},Ada\n{OTHER},Bob\n"
    imported = await penguin.leads.import_file(tenant, rows.encode(), "imported")
    assert ADDRESS in (await penguin.leads.report(tenant, imported.saga_id)).decode()
    await _neighbours(town, tenant)
    await etl.refresh(town.tiers, tenant)
    return Life(tenant, ids[:emails], last.storage_key)


async def deliver(town: Town) -> None:
    """Carry out what is owed."""
    relay = Relay(town.tiers["oltp"], town.tiers, RELAYED)
    for _ in range(RELAYED):
        if not await relay.turn():
            return


async def _handed_over(penguin: Penguin, tenant: UUID, ids: list[UUID]) -> None:
    """Sent; some of them opened, replied to, bounced."""
    oltp = penguin.tiers["oltp"]
    stub = oltp.stub(EmailServiceStub)
    attempts = [email_pb.StartAttempt(request_id=str(uuid4()), email_id=str(each)) for each in ids]
    for n in range(0, len(attempts), 100):
        part = attempts[n : n + 100]
        started = await oltp.call(
            stub.BatchStartAttempts, email_pb.BatchStartAttemptsRequest(tenant_id=str(tenant), attempts=part)
        )
        outcomes = [
            email_pb.RecordOutcome(
                request_id=str(uuid4()), email_id=each.started.email.id, attempt=1,
                outcome=email_pb.ATTEMPT_OUTCOME_SENT, finished_at=moment(),
            )
            for each in started.results
            if each.started.decision == email_pb.ATTEMPT_DECISION_SEND
        ]  # fmt: skip
        request = email_pb.BatchRecordOutcomesRequest(tenant_id=str(tenant), outcomes=outcomes)
        await oltp.call(stub.BatchRecordOutcomes, request)
    kinds = (email_pb.EMAIL_EVENT_KIND_OPENED, email_pb.EMAIL_EVENT_KIND_REPLIED)
    events = [
        email_pb.EmailEvent(
            email_id=str(each), kind=kind, provider_event_id=f"{ADDRESS.lower()}/{uuid4()}", occurred_at=moment()
        )
        for each in ids[:20]
        if each != ids[3]
        for kind in kinds
    ]
    await oltp.call(stub.BatchRecordEvents, email_pb.BatchRecordEventsRequest(tenant_id=str(tenant), events=events))


def moment() -> Any:
    stamp = Timestamp()
    stamp.FromDatetime(datetime.now(UTC))
    return stamp


async def _neighbours(town: Town, tenant: UUID) -> None:
    """Leads, emails, letters, suppressions, notifications and a report of an import that are two other people's."""
    penguin, oltp = town.penguin, town.tiers["oltp"]
    leads = [
        lead_pb.NewLead(request_id=str(uuid4()), id=str(keys.new_id()), email=each, list="spring")
        for each in NEIGHBOURS
    ]
    await penguin.tenants.add_leads(tenant, leads)
    outgoing = [
        OutgoingEmail(
            each, MAILBOX, f"Hello {each}", text=f"Dear {each}", lead_id=UUID(lead.id),
            attachments=(Attachment("for.txt", "text/plain", f"For {each}".encode()),),
        )
        for each, lead in zip(NEIGHBOURS, leads, strict=True)
    ]  # fmt: skip
    assert not [each for each in await penguin.send_emails(tenant, outgoing) if not isinstance(each, Sent)]
    written = zip((f'"{NEIGHBOURS[0]}" <{NEIGHBOURS[0]}>', f"{NEIGHBOURS[1]} (his)"), NEIGHBOURS, strict=True)
    letters = [Source(who, NOTE.format(sender, n).encode()) for n, (sender, who) in enumerate(written)]
    await penguin.inbox.run(tenant, MAILBOX, letters)
    await deliver(town)
    for each in NEIGHBOURS:
        item = suppression_pb.NewSuppression(request_id=str(uuid4()), id=str(keys.new_id()), address=each)
        request = suppression_pb.CreateSuppressionRequest(tenant_id=str(tenant), suppression=item)
        await oltp.call(oltp.stub(SuppressionServiceStub).CreateSuppression, request)
    await _notified(town, tenant, [f"{each} has replied." for each in NEIGHBOURS])
    rows = "email\n" + "".join(f"nobody {each}\n" for each in NEIGHBOURS)
    assert (await penguin.leads.import_file(tenant, rows.encode(), "imported")).left_out == len(NEIGHBOURS)


async def _notified(town: Town, tenant: UUID, messages: list[str]) -> None:
    here = town.tiers["notifications"]
    notices = [
        notice_pb.NewNotification(
            request_id=str(uuid4()), id=str(keys.new_id()), type="lead.replied", title="A reply", message=message,
            channel=notice_pb.CHANNEL_IN_APP,
        )
        for message in messages
    ]  # fmt: skip
    request = notice_pb.BatchCreateNotificationsRequest(tenant_id=str(tenant), notifications=notices)
    await here.call(here.stub(NotificationServiceStub).BatchCreateNotifications, request)


async def _told(town: Town, tenant: UUID) -> None:
    here = town.tiers["notifications"]
    await _notified(town, tenant, [f"{ADDRESS} has replied.", "All is well."])
    # Operators write what they like, of the tenant and of the platform.
    for concerned in (str(tenant), ""):
        event = admin_pb.CreateAdminEventRequest(
            request_id=str(uuid4()), id=str(keys.new_id()), event_type="mail.complaint", severity=admin_pb.SEVERITY_INFO,
            description=f"{ADDRESS} has complained.", tenant_id=concerned,
        )  # fmt: skip
        event.details["from"] = ADDRESS.upper()
        await here.call(here.stub(AdminEventServiceStub).CreateAdminEvent, event)


async def counted(town: Town, life: Life) -> list[Any]:
    """The day's cells, as the ledger counts them."""
    oltp = town.tiers["oltp"]
    request = ledger_pb.CountDayRequest(tenant_id=str(life.tenant), day=day())
    reply = await oltp.call(oltp.stub(LedgerServiceStub).CountDay, request)
    return sorted(cell.SerializeToString(deterministic=True) for cell in reply.cells)


async def of_neighbours(town: Town) -> dict[str, Counter[str]]:
    """Columns of each tier in which a neighbour stands, and how often."""
    return {
        f"{tier} {who}": Counter(place.split()[0] for place in await found(town, tier, who))
        for tier in ("oltp", "content", "notifications")
        for who in NEIGHBOURS
    }


async def found(town: Town, tier: str, who: str = ADDRESS) -> list[str]:
    """Every place of a tier's database in which the address stands: table, column and key, contents opened."""
    connection = await town.superuser(tier)
    places: list[str] = []
    try:
        for row in await connection.fetch(COLUMNS):
            table, column = row["table"], row["column"]
            async for key, value in _values(connection, table, column):
                if holds(value, who):
                    places.append(f"{table}.{column} {key}")
    finally:
        await connection.close()
    return places


async def _values(
    connection: asyncpg.Connection[asyncpg.Record], table: str, column: str
) -> AsyncIterator[tuple[str, bytes]]:
    name = "storage_key" if table == "content_objects" else "ctid"
    rows = await connection.fetch(f'SELECT {name}::text AS key, "{column}" AS value FROM {table}')
    for row in rows:
        value = row["value"]
        if value is not None:
            yield row["key"], value if isinstance(value, bytes) else str(value).encode()


def holds(data: bytes, who: str = ADDRESS) -> bool:
    """Whether the address, and not a neighbour's alone, stands in these bytes, compressed or not."""
    if data.startswith(b"\x28\xb5\x2f\xfd"):
        data += zstandard.ZstdDecompressor().decompress(data)
    shown = data.lower()
    for other in NEIGHBOURS if who == ADDRESS else ():
        shown = shown.replace(other.lower().encode(), b"")
    return who.lower().encode() in shown


async def found_in_redis(url: str) -> list[str]:
    """Every key of Redis that has the address in its name or its value."""
    redis = Redis.from_url(url)
    try:
        keys_found = []
        async for key in redis.scan_iter(count=1000):
            dumped = await redis.dump(key) or b""
            if holds(key) or holds(bytes(dumped)):
                keys_found.append(repr(key))
        return keys_found
    finally:
        await redis.aclose()
