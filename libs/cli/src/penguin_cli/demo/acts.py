"""What a demo does once its campaign stands: launch and deliver, report events, receive replies, load OLAP, be notified."""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import datetime
from pathlib import Path
from uuid import UUID

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from penguin.notifications.v1 import notification_service_pb2 as notification_pb
from penguin.notifications.v1.notification_service_pb2_grpc import NotificationServiceStub
from penguin.olap.v1 import report_service_pb2 as report_pb
from penguin.oltp.v1 import email_service_pb2 as email_pb
from penguin.oltp.v1.email_service_pb2_grpc import EmailServiceStub
from penguin_cli import why
from penguin_cli.campaigns import fetch_report
from penguin_cli.demo import data
from penguin_cli.demo.checks import emails_of, ledger_counts
from penguin_cli.demo.events import Simulation
from penguin_cli.demo.setting import Setting
from penguin_cli.demo.summary import Summary
from penguin_cli.lookups import DEADLINE_S
from penguin_cli.surroundings import CommandError
from penguin_orchestrator import blobs, etl
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.mailsources import Source
from penguin_orchestrator.platform import Penguin

REPLIES = 3
COMPLETED = "campaign.completed"
_POLL_S = 0.15
_EVENTS_PER_CALL = 500
# A thousand emails take seconds; beyond this something is wrong.
_DELIVERY_S = 60.0
_DELIVERY_PER_EMAIL_S = 0.1
_SETTLE_S = 30.0


async def deliver(penguin: Penguin, setting: Setting, root: Path, count: int, out: Console, summary: Summary) -> None:
    """Launch, and wait until the ledger has every email handed over. Raises CommandError when that takes too long."""
    begun = time.monotonic()
    ends = begun + _DELIVERY_S + count * _DELIVERY_PER_EMAIL_S
    columns = (TextColumn("{task.description}"), BarColumn(30), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as progress:
        created = progress.add_task("created", total=count)
        handed = progress.add_task("handed over", total=count)
        launching = asyncio.create_task(
            penguin.campaigns.launch(
                setting.tenant_a, setting.campaign_id, progress=lambda done: progress.update(created, completed=done)
            )
        )
        try:
            while True:
                counts = await ledger_counts(penguin, setting.tenant_a, setting.campaign_id)
                progress.update(handed, completed=counts["sent"])
                if launching.done() and "launch_s" not in summary.figures:
                    launch = launching.result()
                    summary.figures["launch_s"] = round(time.monotonic() - begun, 2)
                    summary.figures["created"] = launch.created
                if launching.done() and counts["sent"] >= count:
                    break
                if time.monotonic() > ends:
                    await _explain(penguin, setting, root, out)
                    raise CommandError(
                        f"{counts['sent']} of {count} emails have left after {time.monotonic() - begun:.0f} s"
                    )
                await asyncio.sleep(_POLL_S)
        finally:
            launching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await launching
    took = time.monotonic() - begun
    summary.figures["delivered_s"] = round(took, 2)
    summary.figures["emails_per_s"] = round(count / took, 1)


async def _explain(penguin: Penguin, setting: Setting, root: Path, out: Console) -> None:
    """Print what every tier knows of one email that has not left: the stack may be gone when somebody looks."""
    with contextlib.suppress(TierError):
        emails = await emails_of(penguin, setting.tenant_a, setting.campaign_id)
        waiting = next((each for each in emails if each.status != email_pb.EMAIL_STATUS_SENT), None)
        if waiting is not None:
            out.print(f"email {waiting.id} has not left:")
            out.print(why.drawn(await why.gather(penguin, setting.tenant_a, UUID(waiting.id), root)))


async def launch_again(penguin: Penguin, setting: Setting) -> list[str]:
    """Launch once more; what it did besides nothing. A campaign that has ended may refuse."""
    try:
        launch = await penguin.campaigns.launch(setting.tenant_a, setting.campaign_id)
    except TierError as error:
        return [] if error.reason == "STATE_CONFLICT" else [f"launching again was refused oddly: {error}"]
    return [f"launching again created {launch.created} emails"] if launch.created else []


async def report_events(penguin: Penguin, setting: Setting, simulation: Simulation) -> list[str]:
    """Report the simulated events; where the answers on repeats are not what was simulated."""
    oltp, repeats, problems = penguin.tiers["oltp"], 0, list[str]()
    method = oltp.stub(EmailServiceStub).BatchRecordEvents
    for first in range(0, len(simulation.events), _EVENTS_PER_CALL):
        part = simulation.events[first : first + _EVENTS_PER_CALL]
        request = email_pb.BatchRecordEventsRequest(tenant_id=str(setting.tenant_a), events=part)
        for event, result in zip(
            part, (await oltp.insist(method, request, deadline_s=DEADLINE_S)).results, strict=True
        ):
            if result.WhichOneof("outcome") == "error":
                problems.append(f"event {event.provider_event_id}: {result.error.message}")
            else:
                repeats += result.recorded.repeated_event
    if repeats != simulation.repeats:
        problems.append(f"{repeats} events were taken for repeats, and {simulation.repeats} were")
    return problems


async def receive_replies(penguin: Penguin, setting: Setting, replied: list[email_pb.Email]) -> list[str]:
    """Import some leads' answers into the mailbox and read each back by its thread; what differs."""
    answered = replied[:REPLIES]
    raw = {email.message_id: data.reply(email.message_id, email.recipient, setting.mailbox, number)
           for number, email in enumerate(answered)}  # fmt: skip
    sources = [Source(f"reply {number}", each) for number, each in enumerate(raw.values())]
    done = await penguin.inbox.run(setting.tenant_a, setting.mailbox, sources)
    problems = [f"{done.imported} of {len(raw)} replies were imported"] if done.imported != len(raw) else []
    for message_id, source in raw.items():
        thread = await penguin.get_thread(setting.tenant_a, message_id)
        if len(thread) != 1 or thread[0].body.content is None:
            problems.append(f"the thread of {message_id} has {len(thread)} messages, not one with its body")
            continue
        key = thread[0].message.content_storage_key
        if await blobs.download_raw(penguin.tiers["content"], setting.tenant_a, key) != source:
            problems.append(f"the reply to {message_id} is read back other than it came")
    return problems


async def load_facts(penguin: Penguin, setting: Setting, after: datetime) -> report_pb.GetCampaignReportResponse:
    """Run the ETL until OLAP's figures reach beyond `after` (UTC), and read the report. Raises CommandError."""
    ends = time.monotonic() + _SETTLE_S
    while True:
        await etl.refresh(penguin.tiers, setting.tenant_a)
        report = await fetch_report(penguin, setting.tenant_a, setting.campaign_id, days=7)
        through = report.freshness.data_through
        if through.ToDatetime(after.tzinfo) >= after:
            return report
        if time.monotonic() > ends:
            raise CommandError(f"OLAP's data stays at {through.ToJsonString()}")
        await asyncio.sleep(_POLL_S)


async def completion(penguin: Penguin, setting: Setting) -> list[str]:
    """Wait until the tenant has been told that the campaign is completed; told once."""
    notifications, ends = penguin.tiers["notifications"], time.monotonic() + _SETTLE_S
    request = notification_pb.ListNotificationsRequest(tenant_id=str(setting.tenant_a), page_size=100)
    method = notifications.stub(NotificationServiceStub).ListNotifications
    while True:
        reply = await notifications.insist(method, request, deadline_s=DEADLINE_S)
        told = [each for each in reply.notifications if _tells(each, setting.campaign_id)]
        if told or time.monotonic() > ends:
            return [] if len(told) == 1 else [f"the tenant was told {len(told)} times that the campaign is completed"]
        await asyncio.sleep(_POLL_S)


def _tells(notification: notification_pb.Notification, campaign_id: UUID) -> bool:
    return notification.type == COMPLETED and notification.subject_ref == str(campaign_id)
