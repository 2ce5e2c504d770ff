"""Reconcile by the clock: every relay process asks for its turn, and OLTP's receipts let one run at an interval at most."""

from __future__ import annotations

import asyncio
import logging
import random
from datetime import timedelta

from penguin_chassis.defects import places
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.reconciling.receipts import Terms
from penguin_orchestrator.reconciling.running import Reconciler

log = logging.getLogger(__name__)

# The first turn is not asked for at once, that a process which ends again and again does not begin with it each time; and
# none is asked for more often than this (seconds). What another has left is thus taken on within minutes.
ASK_S = 300.0


async def keep_reconciling(reconciler: Reconciler, terms: Terms, every: timedelta, *, ask_s: float = ASK_S) -> None:
    """Run at the interval until cancelled; a run that cannot be begun is asked for again."""
    while True:
        await asyncio.sleep(min(ask_s, every.total_seconds()) * random.uniform(0.5, 1.0))
        try:
            run = await reconciler.run(terms, min_interval=every)
            log.info("reconcile run %s ended%s", run.id, f": {run.refused_reason}" if run.refused_reason else "")
        except TierError as error:
            if error.reason != "STATE_CONFLICT":  # another's turn, or too soon
                log.warning("no reconcile: %s %s", error.code.name, error.reason)
        except Exception as error:  # noqa: BLE001 - relaying must go on, and a turn comes again
            log.error("reconcile: %s", type(error).__name__, extra={"places": places(error)})
