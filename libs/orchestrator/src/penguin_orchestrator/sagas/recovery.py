"""Finishes what others began: claims sagas that are due, and carries each on. Several may run side by side."""

from __future__ import annotations

import asyncio
import logging
import random

from penguin_chassis.defects import places
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.sagas.engine import Engine
from penguin_orchestrator.sagas.journal import Held, OwnerLostError

log = logging.getLogger(__name__)

# Sagas in hand at once; between looks, and while the journal is away (seconds).
IN_HAND = 16
LOOK_S = 1.0
AWAY_MAX_S = 10.0
# What fails for so long makes room for others (seconds).
PATIENCE_S = 3.0


class Recovery:
    """Claims and runs due sagas."""

    def __init__(self, engine: Engine, in_hand: int = IN_HAND) -> None:
        self._engine = engine
        self._in_hand = in_hand
        self._told: set[str] = set()

    async def run(self) -> None:
        """Recover until cancelled."""
        running: set[asyncio.Task[None]] = set()
        pause = LOOK_S
        try:
            while True:
                running = {task for task in running if not task.done()}
                free = self._in_hand - len(running)
                try:
                    found = await self._claim(free) if free else []
                    pause = LOOK_S
                except TierError as error:
                    if not error.retryable:
                        log.error("the journal refuses the recovery: %s", error.reason)
                    found, pause = [], min(pause * 2, AWAY_MAX_S)
                running |= {asyncio.create_task(self._carry(held)) for held in found}
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def turn(self) -> int:
        """Claim once and carry on what was claimed; returns how many that were. Raises TierError."""
        found = await self._claim(self._in_hand)
        await asyncio.gather(*(self._carry(held) for held in found))
        return len(found)

    async def _claim(self, limit: int) -> list[Held]:
        found, passed_over = await self._engine.journal.claim(limit, self._engine.registry.ids())
        for definition in set(passed_over) - self._told:
            self._told.add(definition)
            log.warning(
                "sagas of %s are due, which this process does not know: they wait for one that does", definition
            )
        return found

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
