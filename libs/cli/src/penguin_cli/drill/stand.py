"""What a drill stands on: its stack with a few tenants, and a look past the services at what is really there: rows of the
databases, and what the SMTP server took."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from penguin.oltp.v1 import lead_service_pb2 as lead_pb
from penguin_cli.drill.acts import Sample, letter
from penguin_devstack.spool import read_messages
from penguin_devstack.stack import LocalStack
from penguin_orchestrator import etl, keys
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.messages import Sent
from penguin_orchestrator.platform import Penguin

TENANTS = 3
AUDIENCE = "all"
POLL_S = 0.1
_SETTLE_S = 60.0


@dataclass(frozen=True)
class Stand:
    """The stack, a client of it, tenants at work, one whose sends are refused, and one that will make a nuisance of itself."""

    stack: LocalStack
    penguin: Penguin
    tenants: tuple[Sample, ...]
    refused: Sample
    noisy: Sample

    @asynccontextmanager
    async def database(self, tier: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        """The tier's database as its superuser, who sees every tenant."""
        connection = await asyncpg.connect(self.stack.cluster(tier).superuser_dsn(f"penguin_{tier}"), timeout=10)
        try:
            yield connection
        finally:
            await connection.close(timeout=5)

    async def rows(self, tier: str, sql: str, *arguments: Any) -> list[asyncpg.Record]:
        """Rows of the tier's database, whatever its services say."""
        async with self.database(tier) as connection:
            return await connection.fetch(sql, *arguments, timeout=20)

    async def received(self) -> Counter[str]:
        """How many messages each recipient got; the server deduplicates none."""
        return await asyncio.to_thread(self._received)

    def _received(self) -> Counter[str]:
        return Counter(r for message in read_messages(self.stack.smtp_store) for r in message.recipients)

    def pids(self) -> dict[str, int]:
        """The processes that live, by component."""
        components = self.stack.status().components
        return {name: each.process.pid for name, each in components.items() if each.process is not None}


async def eventually(holds: Callable[[], Awaitable[bool]], within_s: float, poll_s: float = POLL_S) -> float | None:
    """Seconds until it holds; None when that takes longer, however late the last try began. What it raises for a tier or
    database that is away counts as no."""
    began = time.monotonic()
    while True:
        try:
            async with asyncio.timeout(max(0.0, began + within_s - time.monotonic())):
                if await holds():
                    return time.monotonic() - began
        except (TierError, OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            pass
        if time.monotonic() - began >= within_s:
            return None
        await asyncio.sleep(poll_s)


async def furnish(stack: LocalStack, penguin: Penguin) -> Stand:
    """Bring the tenants into being, each with one email that has been delivered."""
    samples = await asyncio.gather(*(_sample(penguin, f"Drill {number}") for number in range(TENANTS + 2)))
    stand = Stand(stack, penguin, tuple(samples[:TENANTS]), samples[TENANTS], samples[TENANTS + 1])
    emails = [sample.email for sample in samples]

    async def delivered() -> bool:
        found = await stand.rows("oltp", "SELECT FROM emails WHERE id = ANY($1) AND status = 'sent'", emails)
        return len(found) == len(emails)

    if await eventually(delivered, _SETTLE_S) is None:
        raise TimeoutError("the stack did not deliver the first emails")
    await asyncio.gather(*(etl.refresh(penguin.tiers, sample.tenant) for sample in samples))
    return stand


async def _sample(penguin: Penguin, name: str) -> Sample:
    mark = uuid4().hex[:8]
    tenant = await penguin.tenants.onboard(f"{name} {mark}")
    address = f"us-{mark}@sender.example"
    mailbox = await penguin.tenants.add_mailbox(tenant, address, name)
    template = await penguin.tenants.add_template(
        tenant, "Drill", subject="For {{ first_name }}", text="Hello {{ first_name }}", html="<p>Hello</p>"
    )
    (lead,) = await add_leads(penguin, tenant, [f"first-{mark}@example.com"], AUDIENCE)
    sample = Sample(tenant, address, mailbox, template, lead, tenant, "")
    (sent,) = await penguin.send_emails(tenant, [letter(sample, f"first-{mark}@example.com")])
    if not isinstance(sent, Sent):
        raise TypeError(f"the first email was refused: {sent.reason}")
    return Sample(tenant, address, mailbox, template, lead, sent.email_id, sent.storage_key)


async def add_leads(penguin: Penguin, tenant: UUID, addresses: Sequence[str], audience: str) -> list[UUID]:
    """Leads of a list; their ids."""
    leads = [
        lead_pb.NewLead(
            request_id=str(uuid4()), id=str(keys.new_id()), email=address, first_name=f"Name{n}", list=audience
        )
        for n, address in enumerate(addresses)
    ]
    await penguin.tenants.add_leads(tenant, leads)
    return [UUID(lead.id) for lead in leads]


def missing(wanted: Iterable[UUID], rows: Iterable[asyncpg.Record]) -> set[UUID]:
    """Which of the ids no row has."""
    return set(wanted) - {row["id"] for row in rows}
