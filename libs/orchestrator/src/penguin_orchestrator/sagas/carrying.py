"""Begins a saga and carries it to its end, or joins the one that stands and waits for whoever carries it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

import grpc

from penguin_orchestrator import keys
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.sagas.deeds import RefusedError
from penguin_orchestrator.sagas.definition import ACTION, Registry
from penguin_orchestrator.sagas.engine import Engine
from penguin_orchestrator.sagas.journal import FINISHED, Held, OwnerLostError

# How long failures, or silence of who carries it, are borne before the caller is told that it goes on by itself (seconds).
PATIENCE_S = 30.0
LOOK_MIN_S = 0.05
LOOK_MAX_S = 1.0
Progress = Callable[[Mapping[str, Any]], None]


class SagaError(Exception):
    """The act did not come to its end; `penguin saga show` tells more."""

    words = "has not come to its end"

    def __init__(self, held: Held) -> None:
        at = f" ({held.last_error})" if held.last_error else ""
        super().__init__(f"{held.kind} {self.words}{at}: saga {held.id} of tenant {held.tenant_id}")
        self.held = held


class SagaRefusedError(SagaError):
    """It was refused, and what was begun is undone."""

    words = "was refused, and is undone"


class SagaStuckError(SagaError):
    """It waits for somebody to retry it or to skip a step."""

    words = "is stuck"


class SagaAbandonedError(SagaError):
    """What it did is kept, and nothing more of it is done."""

    words = "was given up, as its tenant was closed"


class SagaUnfinishedError(SagaError):
    """Its outcome is open: it goes on by itself. The same call again waits for it."""

    words = "is not finished, and goes on by itself"


class Sagas:
    """Acts that cross tiers."""

    def __init__(self, tiers: Mapping[str, Tier], registry: Registry) -> None:
        self._tiers = tiers
        self._registry = registry
        self._engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        """What carries them out, made when first needed."""
        if self._engine is None:
            self._engine = Engine(self._tiers, self._registry)
        return self._engine

    async def carry_out(
        self, kind: str, tenant_id: UUID, input_: Mapping[str, Any], *, subject: str = "", saga_id: UUID | None = None,
        patience_s: float = PATIENCE_S, progress: Progress | None = None, begun: Callable[[Held], None] | None = None,
    ) -> Held:  # fmt: skip
        """Carry the act out to its end. An unfinished one of the kind and subject, or one of this id, is joined instead;
        `begun` is told which it is.

        Raises what refused it where that is known here, SagaRefusedError where another process met it, SagaAbandonedError,
        SagaStuckError, SagaUnfinishedError after `patience_s` seconds of failures, and TierError where it could not be begun: with an unknown
        outcome it may have been, and goes on by itself.
        """
        definition = self._registry.newest(kind)
        journal = self.engine.journal
        held, ours = await journal.create(
            kind, definition.version, tenant_id, input_, saga_id=saga_id or keys.new_id(), subject=subject
        )
        if begun is not None:
            begun(held)
        failure: Exception | None = None
        try:
            if ours:
                failure = await self._run(held, patience_s, progress)
            else:
                held, failure = await self._join(held, patience_s, progress)
        except (OwnerLostError, TierError):
            held, failure = await self._join(held, patience_s, progress)
        return _concluded(held, failure)

    async def find(self, kind: str, tenant_id: UUID, saga_id: UUID) -> Held:
        """A saga of the kind as it stands; raises TierError (NOT_FOUND)."""
        held = await self.engine.journal.get(tenant_id, saga_id)
        if held.kind != kind:
            raise TierError("oltp", grpc.StatusCode.NOT_FOUND, "NOT_FOUND", f"No {kind} has this id.", field="saga_id")
        return held

    async def join(
        self,
        kind: str,
        tenant_id: UUID,
        saga_id: UUID,
        *,
        patience_s: float = PATIENCE_S,
        progress: Progress | None = None,
    ) -> Held:
        """Wait for the end of a saga that stands, and carry it on where nobody does; raises as `carry_out`."""
        held = await self.find(kind, tenant_id, saga_id)
        return _concluded(*await self._join(held, patience_s, progress))

    def _known(self, held: Held) -> bool:
        """Whether this process can carry it on: a newer one may have begun it, and then it is for one like that."""
        return self._registry.find(held.kind, held.version) is not None

    async def _run(self, held: Held, patience_s: float, progress: Progress | None) -> Exception | None:
        return (await self.engine.run(held, patience_s=patience_s, progress=progress)).failure

    async def _join(self, held: Held, patience_s: float, progress: Progress | None) -> tuple[Held, Exception | None]:
        """Look until it has ended, or nothing of it has changed for so long; take it over if it is due and nobody's."""
        journal, pause, last = self.engine.journal, LOOK_MIN_S, ""
        ends = time.monotonic() + patience_s
        while True:
            try:
                held = await journal.get(held.tenant_id, held.id)
                if held.state in FINISHED or held.state == "stuck":
                    return held, None
                _tell(held, progress)
                claimed = await journal.claim_one(held) if self._known(held) else None
                if claimed is not None:
                    return claimed, await self._run(claimed, max(0.0, ends - time.monotonic()), progress)
            except (OwnerLostError, TierError) as error:
                if isinstance(error, TierError) and not error.retryable:
                    raise
            standing = repr((held.epoch, held.state, held.records))
            if standing != last:
                last, ends = standing, time.monotonic() + patience_s
            if time.monotonic() >= ends:
                return held, None
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 1.5, LOOK_MAX_S)


def _tell(held: Held, progress: Progress | None) -> None:
    if progress is not None:
        for record in held.records.values():
            if record.operation == ACTION and record.result:
                progress(record.result)


def _concluded(held: Held, failure: Exception | None) -> Held:
    if held.state == "succeeded":
        return held
    if held.state == "compensated":
        if isinstance(failure, RefusedError) and isinstance(failure.__cause__, Exception):
            raise failure.__cause__
        raise failure or SagaRefusedError(held)
    endings = {"stuck": SagaStuckError, "abandoned": SagaAbandonedError}
    raise endings.get(held.state, SagaUnfinishedError)(held) from failure
