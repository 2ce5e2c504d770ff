"""What tenants do, each act in a process of its own that may die in the midst of it, and what they were told of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from tests.simulation.network import Process
from tests.simulation.tiers import World

from penguin.content.v1 import content_service_pb2 as content_pb
from penguin.content.v1.content_service_pb2_grpc import ContentServiceStub
from penguin.oltp.v1 import email_service_pb2 as email_pb
from penguin.oltp.v1 import lead_service_pb2 as lead_pb
from penguin.oltp.v1.email_service_pb2_grpc import EmailServiceStub
from penguin_orchestrator import keys
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.messages import Attachment, OutcomeUnknownError, OutgoingEmail, Refusal, SendError, Sent
from penguin_orchestrator.platform import Penguin
from penguin_orchestrator.sagas.carrying import SagaError, SagaRefusedError

# What a caller knows of an act in the end.
DONE, REFUSED, UNKNOWN = "done", "refused", "unknown"


@dataclass
class Tenant:
    """A tenant of one history: known by `mark`, which stands in every address of its own."""

    id: UUID
    mark: str
    policy: str
    # Addresses that somebody may have asked to be written to.
    recipients: int = 0
    campaign: UUID | None = None
    leads: list[str] = field(default_factory=list)

    def address(self) -> str:
        """A recipient of its own that nobody else has."""
        self.recipients += 1
        return f"{self.mark}-{self.recipients}@example.com"


@dataclass
class Act:
    """One act, and what its caller was told."""

    kind: str
    tenant: Tenant
    told: str = UNKNOWN
    # Of a send: its addresses, and what was acknowledged of them.
    addresses: list[str] = field(default_factory=list)
    sent: dict[str, Sent] = field(default_factory=dict)
    error: str = ""
    # When it was asked for, and told (the loop's time).
    asked: float = 0.0
    at: float = float("inf")
    # Of an import its file, of an erasure whom it is about.
    file: Any = None
    person: str = ""

    def __str__(self) -> str:
        return f"{self.kind} of {self.tenant.mark}: {self.told} {self.error}".strip()


Doing = Callable[["Play", Penguin, Act], Awaitable[None]]


@dataclass
class Play:
    """A history's tenants and acts."""

    world: World
    chance: random.Random
    tenants: list[Tenant] = field(default_factory=list)
    acts: list[Act] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    # Tenants whose onboarding some tier refuses: by the tier.
    unwanted: dict[str, str] = field(default_factory=dict)
    # Addresses whose erasure was asked for.
    erased: set[str] = field(default_factory=set)

    def closes(self, tenant: Tenant) -> bool:
        """Whether somebody closes it."""
        return any(act.kind == "close" and act.tenant is tenant for act in self.acts)

    def refused(self, tenant: Tenant, address: str) -> bool:
        """Whether an email may be refused."""
        return address in self.erased or self.closes(tenant)

    def refuses(self, tier: str, method: str, request: Any) -> bool:
        """What a tier says no to, for good."""
        if method != "ProvisionTenant" or not self.unwanted:
            return False
        return self.unwanted.get(request.tenant_id) == tier and request.saga_step.operation == 1

    async def carry_out(self, act: Act, doing: Doing) -> None:
        """In a process that may die at any moment."""
        self.acts.append(act)
        await asyncio.sleep(self.chance.random() * 5)
        process = self.world.process()
        task = asyncio.create_task(_said(doing(self, Penguin(process.tiers, self.world.ledger), act), act))
        dies_after = self.chance.expovariate(1.0) * 0.4 if self.chance.random() < 0.25 else None
        done, _ = await asyncio.wait([task], timeout=dies_after)
        if not done:
            process.alive = False
            self.world.network.record.append("killed a caller")
            task.cancel()
            await asyncio.wait([task])
            act.error = act.error or "killed"
        elif not task.cancelled():
            task.result()


async def _said(work: Awaitable[None], act: Act) -> None:
    act.asked = asyncio.get_running_loop().time()
    try:
        await work
        act.at = asyncio.get_running_loop().time()
    except OutcomeUnknownError as error:
        act.error = f"{type(error).__name__} {error.cause.reason}"
    except (SagaError, SendError) as error:
        act.told = REFUSED if isinstance(error, SagaRefusedError) else UNKNOWN
        act.error = type(error).__name__
    except TierError as error:
        # A send says so of itself, whatever the error, and of this asking alone; else it is told by the error.
        undone = {"send": not act.error, "onboard": not error.outcome_unknown}
        act.told = REFUSED if undone.get(act.kind) else UNKNOWN
        act.error += f" {error.tier} {error.code.name} {error.reason}"


def email_to(
    tenant: Tenant, address: str, chance: random.Random, attachments: Sequence[Attachment] = ()
) -> OutgoingEmail:
    """One email."""
    return OutgoingEmail(
        recipient=address, sender=f"us@{tenant.mark}.example", subject="Hello", text=f"Dear {address}",
        request_id=keys.new_id(), attachments=tuple(attachments), priority=chance.choice(("high", "normal", "low")),
    )  # fmt: skip


async def send(play: Play, penguin: Penguin, act: Act) -> None:
    """A batch; where its outcome is unknown the caller may ask again, under the same ids."""
    chance, tenant = play.chance, act.tenant
    files = [Attachment("a.txt", "text/plain", b"attached" * 10)] if chance.random() < 0.2 else []
    emails = [email_to(tenant, tenant.address(), chance, files) for _ in range(chance.choice((1, 1, 2, 3, 8)))]
    act.addresses = [email.recipient for email in emails]
    again = chance.random() < 0.7
    try:
        results = await penguin.send_emails(tenant.id, emails, deadline_s=15)
    except OutcomeUnknownError:
        if not again:
            raise
        act.error = "asked again"
        results = await penguin.send_emails(tenant.id, emails, deadline_s=60)
    _acknowledge(play, act, results)


async def send_together(play: Play, penguin: Penguin, act: Act) -> None:
    """Single sends at a time, which travel together."""
    emails = [email_to(act.tenant, act.tenant.address(), play.chance) for _ in range(play.chance.randrange(2, 5))]
    act.addresses = [email.recipient for email in emails]
    results = await asyncio.gather(
        *(penguin.send_email(act.tenant.id, each) for each in emails), return_exceptions=True
    )
    failures = [result for result in results if isinstance(result, BaseException)]
    for email, result in zip(emails, results, strict=True):
        if isinstance(result, Sent):
            act.sent[email.recipient] = result
        elif isinstance(result, SendError) and not play.refused(act.tenant, email.recipient):
            play.broken.append(f"an email was refused for no reason: {result}")
    if failures:
        act.kind = "send some"
        raise failures[0]
    act.told = DONE


async def send_twice(play: Play, penguin: Penguin, act: Act) -> None:
    """One send asked for by two at a time under one id: both are told of the same email."""
    email = email_to(act.tenant, act.tenant.address(), play.chance)
    act.addresses = [email.recipient]
    other = Penguin(penguin.tiers)
    asked = (penguin.send_emails(act.tenant.id, [email]), other.send_emails(act.tenant.id, [email]))
    results = await asyncio.gather(*asked, return_exceptions=True)
    answers = [result[0] for result in results if not isinstance(result, BaseException)]
    if len({answer.email_id for answer in answers if isinstance(answer, Sent)}) > 1:
        play.broken.append("one request_id was answered with two emails")
    if not answers:
        # What one was told does not hold for the other.
        act.kind = "send some"
        raise next(result for result in results if isinstance(result, BaseException))
    _acknowledge(play, act, answers[:1])


def _acknowledge(play: Play, act: Act, results: Sequence[Sent | Refusal]) -> None:
    for address, result in zip(act.addresses, results, strict=True):
        if isinstance(result, Refusal) and play.refused(act.tenant, address):
            act.error = result.reason
        elif isinstance(result, Refusal):
            play.broken.append(f"an email was refused for no reason: {result.reason}")
        else:
            act.sent[address] = result
    act.told = DONE


async def onboard(play: Play, penguin: Penguin, act: Act) -> None:
    """A new tenant, refused by some tier now and then."""
    if play.chance.random() < 0.4:
        play.unwanted[str(act.tenant.id)] = play.chance.choice(("content", "queue", "olap", "notifications", "oltp"))
    await penguin.tenants.onboard(act.tenant.mark, tenant_id=act.tenant.id)
    act.told = DONE


def _of_campaign(name: str) -> Doing:
    """What is done to the tenant's campaign, whatever has been done to it; at times by two at once."""

    async def doing(play: Play, penguin: Penguin, act: Act) -> None:
        assert act.tenant.campaign is not None
        await getattr(penguin.campaigns, name)(act.tenant.id, act.tenant.campaign)
        act.told = DONE

    return doing


launch, cancel, pause, resume = map(_of_campaign, ("launch", "cancel", "pause", "resume"))


async def close(play: Play, penguin: Penguin, act: Act) -> None:
    """The tenant's changes end, in every tier."""
    await penguin.tenants.close(act.tenant.id)
    act.told = DONE


async def pry(play: Play, penguin: Penguin, act: Act) -> None:
    """A tenant names what is another's: it learns nothing and changes nothing."""
    others = [each for each in play.acts if each.tenant is not act.tenant and each.sent]
    if not others:
        return
    theirs = list(play.chance.choice(others).sent.values())
    ids, stored = [str(each.email_id) for each in theirs], [each.storage_key for each in theirs]
    me: dict[str, Any] = {"tenant_id": str(act.tenant.id)}
    oltp, content = penguin.tiers["oltp"], penguin.tiers["content"]
    emails, contents = oltp.stub(EmailServiceStub), content.stub(ContentServiceStub)
    fresh: dict[str, Any] = {"request_id": str(keys.new_id())}
    match play.chance.randrange(4):
        case 0:
            found = await oltp.call(emails.BatchGetEmails, email_pb.BatchGetEmailsRequest(email_ids=ids, **me))
            learnt = bool(found.emails)
        case 1:
            asked = content_pb.BatchGetContentsRequest(storage_keys=stored, view=content_pb.CONTENT_VIEW_BODY, **me)
            learnt = bool((await content.call(contents.BatchGetContents, asked)).contents)
        case 2:
            taken = await oltp.call(emails.CancelEmails, email_pb.CancelEmailsRequest(email_ids=ids, **me, **fresh))
            learnt = bool(taken.cancelled_ids)
        case _:
            gone = content_pb.DeleteContentsRequest(storage_keys=stored, **me, **fresh)
            learnt = bool((await content.call(contents.DeleteContents, gone)).deleted)
    if learnt:
        play.broken.append("a tenant got at what is another's")
    act.told = DONE


async def make_tenant(play: Play, tenant: Tenant) -> None:
    """Let it stand, without a saga."""
    async with play.world.dbs["oltp"].tenant(tenant.id) as connection:
        await connection.execute(
            "INSERT INTO tenants (tenant_id, name, status, unknown_outcome_policy, created_at, updated_at)"
            " VALUES ($1, $2, 'active', $3, $4, $4)",
            tenant.id, tenant.mark, tenant.policy, play.world.dbs["oltp"].now(),
        )  # fmt: skip


async def make_campaign(play: Play, tenant: Tenant) -> None:
    """A draft with an audience. To be called in calm weather."""
    process: Process = play.world.process()
    penguin = Penguin(process.tiers)
    tenant.leads = [tenant.address() for _ in range(play.chance.randrange(2, 6))]
    leads = [
        lead_pb.NewLead(request_id=str(keys.new_id()), id=str(keys.new_id()), list="all", email=each)
        for each in tenant.leads
    ]
    await penguin.tenants.add_leads(tenant.id, leads)
    mailbox = await penguin.tenants.add_mailbox(tenant.id, f"us@{tenant.mark}.example")
    template = await penguin.tenants.add_template(tenant.id, "t", subject="Hello", text="Dear {{ email }}", html="")
    tenant.campaign = await penguin.campaigns.create(tenant.id, "c", "all", template_id=template, mailbox_id=mailbox)
