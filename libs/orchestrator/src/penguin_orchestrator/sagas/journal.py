"""The journal as its client has it: sagas begun, claimed, advanced. What is journaled is durable when a call returns."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import grpc
import orjson

from penguin.oltp.v1 import saga_service_pb2 as pb
from penguin.oltp.v1.saga_service_pb2_grpc import SagaServiceStub
from penguin_chassis.wire import number, uuid_of, word
from penguin_orchestrator import keys
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.sagas.definition import ACTION

DEADLINE_S = 10.0
CALL_S = 5.0
# How long a saga is its owner's without word from it (seconds).
LEASE_S = 30.0
# The owner stops this long before its lease ends, by its own clock (seconds).
MARGIN_S = 2.0
DONE = frozenset({"done", "skipped"})
MOVING = frozenset({"running", "compensating"})
FINISHED = frozenset({"succeeded", "compensated", "abandoned"})


class OwnerLostError(Exception):
    """The saga is another process's by now: what it does is none of ours."""


@dataclass
class Record:
    """A step's action or compensation as journaled."""

    step: str
    operation: str
    state: str = "begun"
    keys: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    attempts: int = 0
    last_error: str = ""
    # Who took it for done, where it was skipped.
    actor: str = ""

    def change(self) -> pb.SagaStepChange:
        """To be journaled."""
        return pb.SagaStepChange(
            step=self.step, operation=number(pb.SagaOperation, self.operation),
            state=number(pb.SagaStepState, self.state), keys=orjson.dumps(self.keys) if self.keys else b"",
            result=orjson.dumps(self.result) if self.result else b"", attempts=self.attempts,
            last_error=self.last_error[:200],
        )  # fmt: skip


@dataclass
class Held:
    """A saga as it stands in the journal; its owner's, while the epoch is."""

    id: UUID
    tenant_id: UUID
    kind: str
    version: int
    state: str
    owner: str
    epoch: int
    rounds: int
    last_error: str
    input: dict[str, Any]
    records: dict[tuple[str, str], Record]
    # When the lease ends, by this process's clock.
    until: float = 0.0

    @classmethod
    def of(cls, saga: pb.Saga, since: float | None = None) -> Held:
        """From the wire; `since`: the monotonic time at which the lease was asked for."""
        records = [
            Record(
                each.step, word(pb.SagaOperation, each.operation), word(pb.SagaStepState, each.state),
                orjson.loads(each.keys or b"{}"), orjson.loads(each.result or b"{}"), each.attempts, each.last_error,
                each.actor,
            )
            for each in saga.steps
        ]  # fmt: skip
        state = word(pb.SagaState, saga.state)
        return cls(
            uuid_of(saga.id), uuid_of(saga.tenant_id), saga.kind, saga.version, state,
            saga.owner, saga.owner_epoch, saga.attempts, saga.last_error,
            orjson.loads(saga.input), {(each.step, each.operation): each for each in records},
            (since or time.monotonic()) + LEASE_S,
        )  # fmt: skip

    def named(self, operation: str, states: Iterable[str] | None = None) -> set[str]:
        """Steps of which the action (or compensation) stands in one of these states; none given: in any."""
        wanted = None if states is None else set(states)
        return {r.step for r in self.records.values() if r.operation == operation and (not wanted or r.state in wanted)}

    @property
    def skipped(self) -> dict[str, str]:
        """Steps whose action somebody took for done, and who."""
        return {
            r.step: r.actor or "somebody" for r in self.records.values()
            if r.operation == ACTION and r.state == "skipped"
        }  # fmt: skip

    @property
    def results(self) -> dict[str, Mapping[str, Any]]:
        """What came of the steps that are done."""
        return {r.step: r.result for r in self.records.values() if r.operation == ACTION and r.state in DONE}


class Journal:
    """The journal in OLTP, on behalf of one owner."""

    def __init__(self, oltp: Tier, owner: str = "") -> None:
        self._oltp = oltp
        self._service = oltp.stub(SagaServiceStub)
        # Unlike any other's, so that a saga that stands can be told from one's own.
        self.owner = owner or f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:12]}"

    async def create(
        self, kind: str, version: int, tenant_id: UUID, input_: Mapping[str, Any], *, saga_id: UUID, subject: str
    ) -> tuple[Held, bool]:
        """Begin a saga, or find the one that stands; and whether it is ours. Raises TierError."""
        request = pb.CreateSagaRequest(
            tenant_id=str(tenant_id), request_id=str(keys.request_id("saga.create", saga_id)), saga_id=str(saga_id),
            kind=kind, version=version, subject=subject, input=orjson.dumps(input_, option=orjson.OPT_SORT_KEYS),
            owner=f"{self.owner}-{uuid4().hex[:12]}",
        )  # fmt: skip
        request.lease_duration.FromMilliseconds(int(LEASE_S * 1000))
        since = time.monotonic()
        reply = await self._oltp.insist(self._service.CreateSaga, request, deadline_s=DEADLINE_S, timeout=CALL_S)
        held = Held.of(reply.saga, since)
        return (held, True) if held.owner == request.owner else (await self.get(tenant_id, held.id), False)

    async def get(self, tenant_id: UUID, saga_id: UUID) -> Held:
        """A saga as it stands, to be looked at; raises TierError."""
        request = pb.GetSagaRequest(tenant_id=str(tenant_id), saga_id=str(saga_id))
        reply = await self._oltp.insist(self._service.GetSaga, request, deadline_s=DEADLINE_S, timeout=CALL_S)
        return Held.of(reply.saga)

    async def claim(self, limit: int, definitions: Sequence[str], *, a_tenant: int = 0) -> tuple[list[Held], list[str]]:
        """Take over due sagas of these definitions, until we have `a_tenant` of each tenant (0: no such limit); and which
        others are due. Raises TierError."""
        request = pb.ClaimSagasRequest(
            max_sagas=limit, owner=self.owner, definitions=definitions, max_per_tenant=a_tenant
        )
        request.lease_duration.FromMilliseconds(int(LEASE_S * 1000))
        since = time.monotonic()
        reply = await self._oltp.call(self._service.ClaimSagas, request, timeout=CALL_S)
        return [Held.of(saga, since) for saga in reply.sagas], list(reply.passed_over)

    async def claim_one(self, held: Held) -> Held | None:
        """Take this one over, if it is due and nobody's; raises TierError."""
        request = pb.ClaimSagasRequest(
            max_sagas=1, owner=self.owner, tenant_id=str(held.tenant_id), saga_id=str(held.id)
        )
        request.lease_duration.FromMilliseconds(int(LEASE_S * 1000))
        since = time.monotonic()
        reply = await self._oltp.call(self._service.ClaimSagas, request, timeout=CALL_S)
        return Held.of(reply.sagas[0], since) if reply.sagas else None

    async def advance(
        self, held: Held, state: str, changes: Sequence[Record], *, due_in_s: float | None = None, error: str = ""
    ) -> None:
        """Journal this and keep the saga, or give it back for `due_in_s` seconds.

        Raises OwnerLostError, and TierError where no answer comes while the lease lasts.
        """
        request = pb.AdvanceSagaRequest(
            tenant_id=str(held.tenant_id), request_id=str(keys.new_id()), saga_id=str(held.id),
            owner_epoch=held.epoch, state=number(pb.SagaState, state), changes=[each.change() for each in changes],
            last_error=error[:200],
        )  # fmt: skip
        if due_in_s is None:
            request.lease_duration.FromMilliseconds(int(LEASE_S * 1000))
        else:
            request.due_in.FromMilliseconds(int(due_in_s * 1000))
        since = time.monotonic()
        left = held.until - since - MARGIN_S
        if left <= 0:
            raise OwnerLostError
        try:
            await self._oltp.insist(
                self._service.AdvanceSaga, request, deadline_s=left, timeout=CALL_S, over_rotation=True
            )
        except TierError as failure:
            if failure.reason == "SAGA_OWNER_LOST" or failure.code is grpc.StatusCode.NOT_FOUND:
                raise OwnerLostError from None
            raise
        held.state, held.until = state, since + LEASE_S
        held.last_error = error or held.last_error
