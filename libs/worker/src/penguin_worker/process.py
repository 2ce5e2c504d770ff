"""The composition root: which handler runs which kind, and one worker with all it needs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping

from penguin_chassis import memory
from penguin_orchestrator.clients import Tier
from penguin_worker.bodies import Bodies
from penguin_worker.campaigns import CampaignCompletion
from penguin_worker.config import WorkerConfig
from penguin_worker.kinds import Kind
from penguin_worker.leasing import Worker
from penguin_worker.ledger import Ledger
from penguin_worker.refreshing import KIND as REFRESH
from penguin_worker.refreshing import Refreshing, RefreshTicker
from penguin_worker.sending import EmailSending
from penguin_worker.smtp import SmtpPool, SmtpSettings

log = logging.getLogger(__name__)


async def work(
    tiers: Mapping[str, Tier], config: WorkerConfig, stopped: asyncio.Event, stuck: Callable[[], None] | None = None
) -> None:
    """Run one worker until `stopped`; channels stay open, they are the caller's. For `stuck` see Worker."""
    smtp = SmtpSettings(
        config.smtp_host,
        config.smtp_port,
        config.smtp_connections,
        config.smtp_timeout_s,
        config.smtp_reply_timeout_s,
    )
    async with contextlib.AsyncExitStack() as stack:
        pool = await stack.enter_async_context(SmtpPool(smtp))
        worker = Worker(tiers["queue"], config, stuck=stuck)
        ledger = Ledger(tiers["oltp"])
        stack.callback(ledger.cancel)
        bodies = Bodies(tiers["content"], config.attachment_cache_bytes)
        sending = EmailSending(bodies, ledger, pool, worker.stopping, config.unsubscribe_url)
        kinds = {
            "email.send": Kind(many=sending.handle),
            "campaign.complete": Kind(CampaignCompletion(tiers["oltp"]).handle),
            REFRESH: Kind(Refreshing(tiers).handle),
        }
        if config.etl_interval_s:
            ticking = asyncio.create_task(RefreshTicker(tiers, config.etl_interval_s).run())
            stack.push_async_callback(_ended, ticking)
        log.info("working on %s", ", ".join(kinds))
        memory.settle()
        await worker.run(kinds, stopped)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
