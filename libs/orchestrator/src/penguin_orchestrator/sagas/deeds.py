"""What the code of a step is given: what the saga knows, and calls that name their step, so that a tier carries each out
once and never after it was undone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from penguin.common.v1 import mutation_pb2
from penguin_orchestrator import keys
from penguin_orchestrator.clients import DEADLINE_S, Tier
from penguin_orchestrator.sagas.definition import ACTION

# How late an action may arrive; each try has its own. What a tier refuses as too late was not done (STEP_EXPIRED).
NOT_AFTER = timedelta(seconds=60)
_OPERATIONS = {
    True: mutation_pb2.STEP_OPERATION_ACTION,
    False: mutation_pb2.STEP_OPERATION_COMPENSATION,
}


class RefusedError(Exception):
    """The step cannot be done as things stand; the text is a short class, its cause what the caller is told."""


@dataclass
class Deed:
    """One try of a step's action or compensation."""

    tiers: Mapping[str, Tier]
    tenant_id: UUID
    saga_id: UUID
    step: str
    operation: str
    input: Mapping[str, Any]
    keys: Mapping[str, Any]
    # What came of the steps that are done, by name.
    results: Mapping[str, Mapping[str, Any]]
    # What has come of this one so far; journaled with each heartbeat, and given to who takes the saga over.
    so_far: dict[str, Any] = field(default_factory=dict)
    progress: Callable[[Mapping[str, Any]], None] | None = None
    # Steps that somebody took for done, and who: what would have come of them is missing in `results`.
    skipped: Mapping[str, str] = field(default_factory=dict)
    # Whether it must be done whatever it is refused for; or else a refusal is final, and the tier is to hold by it.
    must: bool = False

    def result(self, step: str) -> Mapping[str, Any]:
        """What came of a step that this one builds on; raises RefusedError where it was skipped before it had come to anything."""
        if step in self.skipped and not self.results[step]:
            raise RefusedError(f"{step} was skipped")
        return self.results[step]

    def request_id(self, *parts: object) -> str:
        """The idempotency key of one of the step's calls, the same with each try."""
        return str(keys.request_id("saga", self.saga_id, self.step, self.operation, *parts))

    def report(self, **so_far: Any) -> None:
        """Tell how far the step has come."""
        self.so_far.update(so_far)
        if self.progress is not None:
            self.progress(self.so_far)

    async def ask(self, tier: str, stub: Callable[[Any], Any], method: str, request: Any) -> Any:
        """Make the step's call, once; raises TierError. Its saga step goes with it; a step makes one such call a tier."""
        self._name(request)
        here = self.tiers[tier]
        return await here.call(getattr(here.stub(stub), method), request, timeout=DEADLINE_S)

    def _name(self, request: Any) -> None:
        request.saga_step.CopyFrom(
            mutation_pb2.SagaStep(
                saga_id=str(self.saga_id), step=self.step, operation=_OPERATIONS[self.operation == ACTION]
            )
        )
        if self.operation == ACTION:
            request.saga_step.not_after.FromDatetime(datetime.now(UTC) + NOT_AFTER)
            request.saga_step.refusal_stands = not self.must
        if "request_id" in request.DESCRIPTOR.fields_by_name:
            request.request_id = self.request_id()

    async def call(
        self, tier: str, stub: Callable[[Any], Any], method: str, request: Any, *parts: object, as_platform: bool = False
    ) -> Any:  # fmt: skip
        """Make a call that reads, or one of many that are known by `parts` and never undone; raises TierError.

        `as_platform`: by a token of the platform's, so that it is not refused where the tenant was closed.
        """
        here = self.tiers[tier]
        if "request_id" in request.DESCRIPTOR.fields_by_name:
            request.request_id = self.request_id(*parts)
        call = getattr(here.stub(stub), method)
        return await here.call(call, request, timeout=DEADLINE_S, as_platform=as_platform)
