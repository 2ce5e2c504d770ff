"""What the tiers have answered in a history, and when: what tenants were told of their acts is held against it at the end."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from penguin.oltp.v1 import campaign_service_pb2 as campaign_pb
from penguin.oltp.v1 import email_service_pb2 as email_pb
from penguin.oltp.v1 import saga_service_pb2 as saga_pb
from penguin_chassis.wire import word

DRAFT, RUNNING, PAUSED, COMPLETED, CANCELLED = "draft", "running", "paused", "completed", "cancelled"
# What a campaign becomes by each method, and what it may have been before.
BECOMES = {
    "CreateCampaign": (DRAFT, frozenset[str]()),
    "StartCampaign": (RUNNING, frozenset({DRAFT, PAUSED, RUNNING})),
    "PauseCampaign": (PAUSED, frozenset({RUNNING, PAUSED})),
    "SealCampaign": (RUNNING, frozenset({RUNNING})),
    "CompleteCampaign": (COMPLETED, frozenset({RUNNING, COMPLETED})),
    "CancelCampaign": (CANCELLED, frozenset({DRAFT, RUNNING, PAUSED, CANCELLED})),
}
SEND = email_pb.ATTEMPT_DECISION_SEND
FINISHED = frozenset({"succeeded", "compensated", "abandoned"})


@dataclass(frozen=True)
class Move:
    """A campaign as a tier first said that it had become; `at` in the loop's seconds, as all times here."""

    version: int
    status: str
    method: str
    at: float


@dataclass(frozen=True)
class Claim:
    """An email that a worker was told to hand over."""

    email_id: str
    attempt: int
    tenant_id: str
    campaign_id: str
    at: float


@dataclass(frozen=True)
class Written:
    """An email that was accepted."""

    tenant_id: str
    campaign_id: str
    lead_id: str
    recipient: str
    storage_key: str
    at: float


@dataclass
class Life:
    """A saga from its beginning to its end."""

    kind: str
    tenant_id: str
    began: float
    state: str = "running"
    ended: float = float("inf")


class Chronicle:
    """The answers of one history. Time stands still while a tier is at its database: what was answered later began later."""

    def __init__(self) -> None:
        self.sagas: dict[str, Life] = {}
        self.claims: dict[tuple[str, int], Claim] = {}
        self.written: dict[str, Written] = {}
        # By tenant: when a body was accepted.
        self.stored: dict[str, dict[str, float]] = defaultdict(dict)
        # By campaign: what it became, by version, and who waited for an email of it when.
        self._moves: dict[str, dict[int, Move]] = defaultdict(dict)
        self.listed: dict[str, list[tuple[float, frozenset[str]]]] = defaultdict(list)
        self._notes: dict[str, Callable[[Any, Any], None]] = {
            "BatchStartAttempts": self._started, "BatchCreateEmails": self._created, "BatchPutContents": self._put,
            "ListPendingRecipients": self._pending, "CreateSaga": self._begun, "AdvanceSaga": self._advanced,
        }  # fmt: skip

    def note(self, method: str, request: Any, reply: Any) -> None:
        """One more answer."""
        if method in BECOMES:
            self._moved(method, reply.campaign)
        elif (note := self._notes.get(method)) is not None:
            note(request, reply)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    def _moved(self, method: str, campaign: campaign_pb.Campaign) -> None:
        # Nothing was to be undone where it stands as something else.
        status, version = word(campaign_pb.CampaignStatus, campaign.status), int(campaign.etag)
        if status == BECOMES[method][0]:
            self._moves[campaign.id].setdefault(version, Move(version, status, method, self._now()))

    def _started(self, request: email_pb.BatchStartAttemptsRequest, reply: email_pb.BatchStartAttemptsResponse) -> None:
        for result in reply.results:
            if result.WhichOneof("outcome") == "started" and result.started.decision == SEND:
                email = result.started.email
                claim = Claim(email.id, email.attempt, email.tenant_id, email.campaign_id, self._now())
                self.claims.setdefault((email.id, email.attempt), claim)

    def _created(self, request: email_pb.BatchCreateEmailsRequest, reply: email_pb.BatchCreateEmailsResponse) -> None:
        for asked, result in zip(request.emails, reply.results, strict=True):
            if result.WhichOneof("outcome") == "email":
                email = Written(
                    request.tenant_id, asked.campaign_id, asked.lead_id, asked.recipient,
                    result.email.content_storage_key, self._now(),
                )  # fmt: skip
                self.written.setdefault(result.email.id, email)

    def _put(self, request: Any, reply: Any) -> None:
        for result in reply.results:
            if result.WhichOneof("outcome") == "content":
                self.stored[request.tenant_id].setdefault(result.content.storage_key, self._now())

    def _pending(self, request: Any, reply: campaign_pb.ListPendingRecipientsResponse) -> None:
        self.listed[request.campaign_id].append((self._now(), frozenset(lead.id for lead in reply.leads)))

    def _begun(self, request: saga_pb.CreateSagaRequest, reply: saga_pb.CreateSagaResponse) -> None:
        self.sagas.setdefault(reply.saga.id, Life(reply.saga.kind, reply.saga.tenant_id, self._now()))

    def _advanced(self, request: saga_pb.AdvanceSagaRequest, reply: saga_pb.AdvanceSagaResponse) -> None:
        life, state = self.sagas[reply.saga.id], word(saga_pb.SagaState, reply.saga.state)
        if state in FINISHED and life.state not in FINISHED:
            life.state, life.ended = state, self._now()

    def lives(self, kind: str, tenant_id: object) -> list[Life]:
        """A tenant's sagas of a kind."""
        return [life for life in self.sagas.values() if life.kind == kind and life.tenant_id == str(tenant_id)]

    def moves(self, campaign_id: object) -> list[Move]:
        """What a campaign became, in order."""
        return [move for _, move in sorted(self._moves[str(campaign_id)].items())]

    def spans(self, campaign_id: object) -> Iterator[tuple[Move, float]]:
        """What it became, each with when that was over."""
        moves = self.moves(campaign_id)
        yield from zip(moves, [*(move.at for move in moves[1:]), float("inf")], strict=True)
