"""Finishes what others began: claims sagas that are due, and carries each on. Several may run side by side."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field

from penguin_chassis.defects import places
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.sagas.engine import Engine
from penguin_orchestrator.sagas.journal import Held, OwnerLostError

log = logging.getLogger(__name__)

# Sagas in hand at once, of kinds that have no places of their own; between looks, and while the journal is away (seconds).
IN_HAND = 16
LOOK_S = 1.0
AWAY_MAX_S = 10.0
# So many tenants have room beside one another: none gets more than its part of the places, however much and slow what it left behind is.
TENANTS = 4
# What fails for so long makes room for others (seconds).
PATIENCE_S = 3.0


@dataclass
class _Part:
    """So many of the places, for sagas of some definitions, and who is in them."""

    definitions: list[str]
    count: int
    taken: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def free(self) -> int:
        """How many are."""
        self.taken = {task for task in self.taken if not task.done()}
        return self.count - len(self.taken)

    @property
    def a_tenant(self) -> int:
        """The most that one tenant has of them."""
        return max(1, self.count // TENANTS)


class Recovery:
    """Claims and runs due sagas."""

    def __init__(self, engine: Engine, in_hand: int = IN_HAND) -> None:
        self._engine = engine
        own = [_Part([each.id], each.places) for each in engine.registry if each.places]
        shared = _Part([each.id for each in engine.registry if not each.places], in_hand)
        self._parts = [each for each in (shared, *own) if each.definitions]
        self._told: set[str] = set()

    async def run(self) -> None:
        """Recover until cancelled."""
        pause = LOOK_S
        try:
            while True:
                try:
                    async for part, found in self._claims():
                        part.taken |= {asyncio.create_task(self._carry(held)) for held in found}
                    pause = LOOK_S
                except TierError as error:
                    if not error.retryable:
                        log.error("the journal refuses the recovery: %s", error.reason)
                    pause = min(pause * 2, AWAY_MAX_S)
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
        finally:
            running = [task for part in self._parts for task in part.taken]
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def turn(self) -> int:
        """Claim once and carry on what was claimed; returns how many that were. Raises TierError."""
        found = [held async for _, claimed in self._claims() for held in claimed]
        await asyncio.gather(*(self._carry(held) for held in found))
        return len(found)

    async def _claims(self) -> AsyncIterator[tuple[_Part, list[Held]]]:
        """What each part has room for. No more is asked for where the answer for one said that nothing else is due."""
        for part in self._parts:
            if not (free := part.free):
                continue
            found, others = await self._engine.journal.claim(free, part.definitions, a_tenant=part.a_tenant)
            self._tell_unknown(others)
            yield part, found
            if len(found) < free and not others:
                return

    def _tell_unknown(self, definitions: Iterable[str]) -> None:
        for definition in set(definitions).difference(self._engine.registry.ids()) - self._told:
            self._told.add(definition)
            log.warning(
                "sagas of %s are due, which this process does not know: they wait for one that does", definition
            )

    async def _carry(self, held: Held) -> None:
        try:
            await self._engine.run(held, patience_s=PATIENCE_S)
        except OwnerLostError:
            log.info("a saga %s went to another owner", held.kind)
        except Exception as error:  # noqa: BLE001 - one saga's defect must not be the others'
            if not isinstance(error, TierError):
                log.error("a saga %s: %s", held.kind, type(error).__name__, extra={"places": places(error)})
                return
            log.warning("a saga %s was left to who comes next: %s", held.kind, error.reason)
