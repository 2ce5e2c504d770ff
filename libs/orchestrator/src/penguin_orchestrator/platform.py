"""The one object a caller holds: `async with Penguin.connect(config) as penguin: await penguin.send_email(…)`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from uuid import UUID

import aiohttp

from penguin_orchestrator.campaigns import Campaigns, Launch
from penguin_orchestrator.clients import Tier, connect
from penguin_orchestrator.coalescing import SendCoalescer
from penguin_orchestrator.config import PlatformConfig
from penguin_orchestrator.erasure_ledger import ErasureLedger
from penguin_orchestrator.importing import Importer
from penguin_orchestrator.jobs import Jobs
from penguin_orchestrator.leads import Leads
from penguin_orchestrator.messages import OutgoingEmail, SendResult, Sent
from penguin_orchestrator.reading import EmailWithBody, Reader, ThreadMessage
from penguin_orchestrator.reconciling.running import Reconciler
from penguin_orchestrator.sagas.carrying import Sagas
from penguin_orchestrator.sagas.known import known
from penguin_orchestrator.sending import DEADLINE_S, Sender
from penguin_orchestrator.subjects import Subjects
from penguin_orchestrator.tenants import Tenants
from penguin_orchestrator.tokens import ExchangedTokens, TokenSource

# What a caller's tenant tokens may do; the issuer grants what the workload is allowed of it.
SCOPES = (
    "tier.read", "contents.read", "contents.write", "emails.read", "emails.write", "emails.send", "leads.read",
    "leads.write", "campaigns.read", "campaigns.write", "templates.read", "templates.write", "email_accounts.read",
    "email_accounts.write", "domains.read", "domains.write", "companies.read", "companies.write", "users.read",
    "users.write", "tenants.read", "tenants.write", "suppressions.read", "suppressions.write", "inbox.read",
    "inbox.write", "ledger.read", "facts.read", "facts.write", "reports.read", "jobs.read", "jobs.write",
    "jobs.payloads", "notifications.read", "notifications.write", "subjects.erase",
    "subjects.export", "subjects.read", "holds.manage", "holds.read",
)  # fmt: skip


class Penguin:
    """The platform as one: sends, campaigns, imports and composed reads over the five tiers."""

    def __init__(self, tiers: Mapping[str, Tier], ledger: ErasureLedger | None = None) -> None:
        self.tiers = tiers
        # Of erasures; none where this process was told of none.
        self.ledger = ledger
        content, oltp = tiers["content"], tiers["oltp"]
        self._sender = Sender(content, oltp)
        self._coalescer = SendCoalescer(self._sender.send_emails)
        self._reader = Reader(content, oltp)
        self.sagas = Sagas(tiers, known(ledger))
        self.campaigns = Campaigns(oltp, self.sagas)
        self.leads = Leads(content, self.sagas)
        self.inbox = Importer(content, oltp)
        self.tenants = Tenants(content, oltp, self.sagas)
        self.jobs = Jobs(tiers["queue"])
        self.subjects = Subjects(tiers, self.sagas, ledger)
        self.reconciler = Reconciler(tiers, ledger=ledger)

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(
        cls, config: PlatformConfig | None = None, *, tokens: TokenSource | None = None
    ) -> AsyncIterator[Penguin]:
        """Open channels to the tiers; they are used, and may be down, until then."""
        config = config or PlatformConfig()
        async with contextlib.AsyncExitStack() as stack:
            if tokens is None:
                if not config.token_url or config.credential_path is None:
                    raise ValueError("PENGUIN_TOKEN_URL and PENGUIN_WORKLOAD_CREDENTIAL_PATH are needed")
                session = await stack.enter_async_context(aiohttp.ClientSession())
                tokens = ExchangedTokens(config.token_url, config.credential_path, session, SCOPES)
            tiers = await stack.enter_async_context(connect(config.addresses(), tokens))
            penguin = cls(tiers, config.ledger())
            stack.push_async_callback(penguin.close)
            yield penguin

    async def close(self) -> None:
        """Wait for sends on their way; channels are closed by `connect`."""
        await self._coalescer.close()
        await self.jobs.close()

    async def send_email(self, tenant_id: UUID, email: OutgoingEmail) -> Sent:
        """Send one email; concurrent sends of a tenant travel together. Durable when it returns.

        Raises SendError (refused), TierError (nothing done), OutcomeUnknownError (ask again, same request_id).
        """
        return await self._coalescer.send(tenant_id, email)

    async def send_emails(
        self, tenant_id: UUID, emails: Sequence[OutgoingEmail], *, deadline_s: float = DEADLINE_S
    ) -> list[SendResult]:
        """Send many at once; answers one by one, in order. Durable when it returns. Raises as send_email does."""
        return await self._sender.send_emails(tenant_id, emails, deadline_s=deadline_s)

    async def get_email(self, tenant_id: UUID, email_id: UUID, *, full: bool = False) -> EmailWithBody:
        """An email with its body, or with the reason why the body is not to be had."""
        return await self._reader.get_email(tenant_id, email_id, full=full)

    async def get_thread(self, tenant_id: UUID, thread_id: str) -> list[ThreadMessage]:
        """An inbox thread, oldest first, each message with its body or the reason why not."""
        return await self._reader.get_thread(tenant_id, thread_id)

    async def launch_campaign(self, tenant_id: UUID, campaign_id: UUID) -> Launch:
        """Render and send a campaign's first step to its audience; launching twice sends once."""
        return await self.campaigns.launch(tenant_id, campaign_id)
