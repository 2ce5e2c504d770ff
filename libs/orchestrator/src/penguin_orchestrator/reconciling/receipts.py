"""A run's receipt, as OLTP keeps it: begun or taken on, told of every step, ended. Whose receipt it is no more stops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID, uuid4

from penguin.oltp.v1 import reconcile_service_pb2 as pb
from penguin.oltp.v1.reconcile_service_pb2_grpc import ReconcileServiceStub
from penguin_orchestrator import keys
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.reconciling.mending import Found

DEADLINE_S = 20.0
# Findings that one run tells; the rest is counted.
FINDINGS = 1000
FINDINGS_A_CALL = 500
# Counts of what does not agree begin so: they are worth an admin event.
FOUND = "found."


@dataclass(frozen=True)
class Terms:
    """What a run may do: whether it changes anything, for which tenant (None: all), the grace in quarantine, and how many
    contents it may put there, and delete, at most."""

    apply: bool = False
    tenant_id: UUID | None = None
    grace: timedelta = timedelta(days=7)
    cap: int = 1000

    def wire(self) -> pb.ReconcileTerms:
        """As the receipt has them."""
        terms = pb.ReconcileTerms(
            tenant_id=str(self.tenant_id) if self.tenant_id else "", apply=self.apply, cap=self.cap
        )
        terms.grace.FromTimedelta(self.grace)
        return terms


@dataclass
class Part:
    """How far one part of a tenant has come, and what was counted of it. What goes round has a place instead of a generation."""

    tenant_id: UUID
    name: str
    to_generation: int = 0
    done: bool = False
    counts: Counter[str] = field(default_factory=Counter)


class Receipt:
    """One run's receipt in this caller's hands. Methods raise TierError: FAILED_PRECONDITION once it is another's."""

    def __init__(self, oltp: Tier, run: pb.ReconcileRun, owner: str, parts: Sequence[Part]) -> None:
        self._oltp = oltp
        self.run = run
        self._owner = owner
        self._parts = {(part.tenant_id, part.name): part for part in parts}
        self._told = 0

    @classmethod
    async def start(cls, oltp: Tier, terms: Terms, min_interval: timedelta = timedelta()) -> Receipt:
        """Begin a run, or take on one of these terms that was left."""
        owner = str(uuid4())
        request = pb.StartReconcileRunRequest(
            request_id=str(keys.new_id()), id=str(keys.new_id()), owner=owner, terms=terms.wire()
        )
        request.min_interval.FromTimedelta(min_interval)
        reply = await oltp.insist(oltp.stub(ReconcileServiceStub).StartReconcileRun, request, deadline_s=DEADLINE_S)
        parts = [
            Part(UUID(each.tenant_id), each.part, each.to_generation, each.done, Counter(each.counts))
            for each in reply.progress
        ]
        return cls(oltp, reply.run, owner, parts)

    def part(self, tenant_id: UUID, name: str) -> Part:
        """A part of it, as it stands."""
        return self._parts.setdefault((tenant_id, name), Part(tenant_id, name))

    async def left_off(self, tenant_id: UUID, name: str) -> int:
        """The place that the latest run to end this part has come to; 0 where none has."""
        request = pb.GetReconcileProgressRequest(tenant_id=str(tenant_id), part=name)
        method = self._oltp.stub(ReconcileServiceStub).GetReconcileProgress
        reply = await self._oltp.insist(method, request, deadline_s=DEADLINE_S)
        place: int = reply.progress.to_generation
        return place

    def total(self, count: str) -> int:
        """What was counted over all parts so far."""
        return sum(part.counts[count] for part in self._parts.values())

    async def record(self, part: Part, found: Sequence[Found] = ()) -> None:
        """Keep what was done of a part, and what was found, as far as there is room for it. It is what makes the run ours
        still: nothing is changed before this has come back."""
        found = found[: max(0, FINDINGS - self._told)]
        portions = [found[n : n + FINDINGS_A_CALL] for n in range(0, len(found), FINDINGS_A_CALL)] or [[]]
        method = self._oltp.stub(ReconcileServiceStub).RecordReconcileProgress
        for portion in portions:
            request = pb.RecordReconcileProgressRequest(
                request_id=str(keys.new_id()), run_id=self.run.id, owner=self._owner,
                progress=pb.ReconcileProgress(
                    tenant_id=str(part.tenant_id), part=part.name, to_generation=part.to_generation, done=part.done,
                    counts=part.counts,
                ),
                findings=[
                    pb.ReconcileFinding(
                        tenant_id=str(part.tenant_id), kind=each.kind, subject=each.subject, source=each.source,
                        action=each.action,
                    )
                    for each in portion
                ],
            )  # fmt: skip
            await self._oltp.insist(method, request, deadline_s=DEADLINE_S)
        self._told += len(found)

    async def finish(self, refused_reason: str = "") -> pb.ReconcileRun:
        """End the run; returns the receipt as it will be read."""
        request = pb.FinishReconcileRunRequest(
            request_id=str(keys.new_id()), run_id=self.run.id, owner=self._owner, refused_reason=refused_reason[:200]
        )
        method = self._oltp.stub(ReconcileServiceStub).FinishReconcileRun
        run: pb.ReconcileRun = (await self._oltp.insist(method, request, deadline_s=DEADLINE_S)).run
        return run
