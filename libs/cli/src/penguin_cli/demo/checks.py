"""What must be true after the campaign, asked of the tiers. Each check answers with the problems it found; none is a pass."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

from penguin.content.v1 import content_service_pb2 as content_pb
from penguin.content.v1.content_service_pb2_grpc import ContentServiceStub
from penguin.olap.v1 import facts_service_pb2 as facts_pb
from penguin.oltp.v1 import campaign_service_pb2 as campaign_pb
from penguin.oltp.v1 import email_service_pb2 as email_pb
from penguin.oltp.v1.campaign_service_pb2_grpc import CampaignServiceStub
from penguin.oltp.v1.email_service_pb2_grpc import EmailServiceStub
from penguin.queue.v1 import queue_service_pb2 as queue_pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_cli.demo.events import MEASURES, measure_of
from penguin_cli.knowledge import word_of_job
from penguin_cli.lookups import DEADLINE_S, each
from penguin_cli.status_commands import ask
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.platform import Penguin

SETTLE_S = 30.0
_POLL_S = 0.1
_FETCH = 100
_PARALLEL = 3
_STATUS_MEASURES = {
    email_pb.EMAIL_STATUS_SENT: "sent",
    email_pb.EMAIL_STATUS_FAILED: "failed",
    email_pb.EMAIL_STATUS_OUTCOME_UNKNOWN: "outcome_unknown",
}


async def until_none(find: Callable[[], Awaitable[list[str]]], deadline_s: float = SETTLE_S) -> list[str]:
    """The problems that are still there after the deadline: what settles by itself is given the time to."""
    ends = time.monotonic() + deadline_s
    while True:
        problems = await find()
        if not problems or time.monotonic() > ends:
            return problems
        await asyncio.sleep(_POLL_S)


async def emails_of(penguin: Penguin, tenant_id: UUID, campaign_id: UUID) -> list[email_pb.Email]:
    """Every email of the campaign."""
    oltp = penguin.tiers["oltp"]
    request = email_pb.ListEmailsRequest(tenant_id=str(tenant_id), campaign_id=str(campaign_id), page_size=1000)
    return [email async for email in each(oltp, oltp.stub(EmailServiceStub).ListEmails, request, "emails")]


async def contents_of(penguin: Penguin, tenant_id: UUID, keys: Sequence[str]) -> dict[str, content_pb.Content]:
    """The contents under these keys with their attachments' bytes; keys that Content does not have are left out."""
    content, found = penguin.tiers["content"], dict[str, content_pb.Content]()
    places = asyncio.Semaphore(_PARALLEL)

    async def fetch(wanted: list[str]) -> None:
        while wanted:
            request = content_pb.BatchGetContentsRequest(
                tenant_id=str(tenant_id), storage_keys=wanted, view=content_pb.CONTENT_VIEW_FULL
            )
            method = content.stub(ContentServiceStub).BatchGetContents
            async with places:
                reply = await content.insist(method, request, deadline_s=DEADLINE_S)
            found.update({each.metadata.storage_key: each for each in reply.contents})
            if len(reply.deferred_keys) == len(wanted):
                return
            wanted = list(reply.deferred_keys)

    parts = [list(keys[first : first + _FETCH]) for first in range(0, len(keys), _FETCH)]
    await asyncio.gather(*(fetch(part) for part in parts))
    return found


async def ledger_counts(penguin: Penguin, tenant_id: UUID, campaign_id: UUID) -> Counter[str]:
    """The campaign's progress as the ledger counts it, under OLAP's names; `emails` is how many there are."""
    oltp = penguin.tiers["oltp"]
    request = campaign_pb.GetCampaignProgressRequest(tenant_id=str(tenant_id), campaign_id=str(campaign_id))
    method = oltp.stub(CampaignServiceStub).GetCampaignProgress
    reply = await oltp.insist(method, request, deadline_s=DEADLINE_S)
    counts: Counter[str] = Counter(emails=sum(each.count for each in reply.counts))
    for status in reply.counts:
        if status.status in _STATUS_MEASURES:
            counts[_STATUS_MEASURES[status.status]] += status.count
    for event in reply.events:
        counts[measure_of(event.kind)] += event.count
    return counts


def measures_of(totals: facts_pb.EmailMeasures) -> Counter[str]:
    """A report's totals by name."""
    return Counter({field.name: getattr(totals, field.name) for field in facts_pb.EmailMeasures.DESCRIPTOR.fields})


def differing(names: Sequence[str], left: Counter[str], right: Counter[str], what: tuple[str, str]) -> list[str]:
    """Measures in which two counts differ."""
    return [f"{name}: {what[0]} {left[name]}, {what[1]} {right[name]}" for name in names if left[name] != right[name]]


def counted_like_ledger(facts: Counter[str], ledger: Counter[str]) -> list[str]:
    """Where OLAP and the ledger disagree."""
    return differing(("sent", "failed", "outcome_unknown", *MEASURES), facts, ledger, ("OLAP", "ledger"))


def counted_like_simulation(facts: Counter[str], simulated: Counter[str]) -> list[str]:
    """Where OLAP and the simulated events disagree."""
    return differing(MEASURES, facts, simulated, ("OLAP", "simulated"))


async def orphan_problems(penguin: Penguin, tenant_id: UUID, expected: int) -> list[str]:
    """Contents that nobody has claimed, or a number of contents other than what was stored for keeps."""
    content = penguin.tiers["content"]
    counts: Counter[int] = Counter()
    request = content_pb.ListContentsRequest(tenant_id=str(tenant_id), page_size=1000)
    async for metadata in each(content, content.stub(ContentServiceStub).ListContents, request, "contents"):
        counts[metadata.state] += 1
    claimed = counts.pop(content_pb.CONTENT_STATE_CLAIMED, 0)
    problems = [
        f"{count} contents are {content_pb.ContentState.Name(content_pb.ContentState.ValueType(state)).lower()}"
        for state, count in counts.items()
    ]
    if claimed != expected:
        problems.append(f"{claimed} contents are claimed, and {expected} should be")
    return problems


async def outbox_problems(penguin: Penguin) -> list[str]:
    """Tiers that still owe something, or that do not say."""
    problems = []
    for name, tier in penguin.tiers.items():
        answer = await ask(tier)
        if isinstance(answer, TierError):
            problems.append(f"{name} is away: {answer.code.name} {answer.reason}")
        elif not answer.HasField("outbox_depth") or answer.outbox_depth:
            problems.append(f"{name} has {answer.outbox_depth} rows in its outbox")
    return problems


async def queue_problems(penguin: Penguin, tenant_id: UUID) -> list[str]:
    """Jobs of the tenant that are not completed: dead letters, or still to be done."""
    queue = penguin.tiers["queue"]
    request = queue_pb.GetQueueStatsRequest(tenant_id=str(tenant_id))
    reply = await queue.insist(queue.stub(QueueServiceStub).GetQueueStats, request, deadline_s=DEADLINE_S)
    return [
        f"{count.count} jobs are {word_of_job(count.state)}"
        for count in reply.counts
        if count.count and count.state != queue_pb.JOB_STATE_COMPLETED
    ]
