"""TierService: the duties that every tier owes in the same way, over the tables that every tier has."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg

from penguin.tier.v1 import tier_service_pb2 as pb
from penguin.tier.v1 import tier_service_pb2_grpc
from penguin_chassis import mutations, outbox, tenancy
from penguin_chassis.faults import Fault, ResourceExhausted
from penguin_chassis.keys import KeySource
from penguin_chassis.pool import Database
from penguin_chassis.server import Registration, State
from penguin_chassis.subjects import SubjectDuties
from penguin_chassis.tier_subjects import NoSubjects, SubjectMethods
from penguin_chassis.wire import number, stamp

SERVICE = "penguin.tier.v1.TierService"
# A database that takes longer to say how it is does not answer (seconds).
STORED_TIMEOUT_S = 1.0
APPLIED = "SELECT max(version) AS version FROM schema_migrations"


@dataclass(frozen=True)
class TierFacts:
    """What a tier says of itself: its name, its version, the newest migration it was built with, and where it holds
    storage keys."""

    tier: str
    version: str
    schema_version: int
    key_sources: tuple[KeySource, ...] = ()


class TierServicer(SubjectMethods, tier_service_pb2_grpc.TierServiceServicer):
    """Status and outbox leases of one tier."""

    def __init__(
        self, facts: TierFacts, db: Database, state: State, subjects: SubjectDuties | None = None, *,
        ending: tenancy.Ending | None = None,
    ) -> None:  # fmt: skip
        self._facts = facts
        self._tier = facts.tier
        self._subjects = subjects or NoSubjects()
        self._ending = ending
        self._db = db
        self._state = state
        self._started_at = datetime.now(UTC)
        # Tenants are served in turn: the next lease begins after the one that was served last.
        self._leased_last: UUID | None = None

    async def GetStatus(self, request: pb.GetStatusRequest, context: Any) -> pb.GetStatusResponse:  # noqa: N802
        """The tier's state; answers while the database is down."""
        facts, db = self._facts, self._db
        reply = pb.GetStatusResponse(
            tier=facts.tier, version=facts.version, schema_version=facts.schema_version,
            database=pb.DATABASE_STATE_UP if db.up else pb.DATABASE_STATE_DOWN,
            pool_size=db.pool_size, pool_idle=db.pool_idle, pool_max=db.pool_max, draining=self._state.draining,
        )  # fmt: skip
        reply.started_at.FromDatetime(self._started_at)
        try:
            async with asyncio.timeout(STORED_TIMEOUT_S):
                await self._add_stored(reply)
        except ResourceExhausted:
            pass  # busy, not down
        except (Fault, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            reply.database = pb.DATABASE_STATE_DOWN
        return reply

    async def _add_stored(self, reply: pb.GetStatusResponse) -> None:
        if not self._db.up:
            return
        async with self._db.maintenance() as connection:
            reply.applied_schema_version = await connection.fetchval(APPLIED) or 0
        await self._state.incarnation.refresh(self._db)
        reply.incarnation = self._state.incarnation.id
        reply.restoring = self._state.incarnation.restoring
        reply.unreplayed_tenants = len(self._state.incarnation.unreplayed)
        reply.outbox_depth, oldest = await outbox.depth(self._db)
        if oldest is not None:
            reply.outbox_oldest_age.FromTimedelta(mutations.now() - oldest)

    async def LeaseOutbox(self, request: pb.LeaseOutboxRequest, context: Any) -> pb.LeaseOutboxResponse:  # noqa: N802
        """Lease due rows to a relay."""
        token, rows = await outbox.lease(
            self._db, max_rows=request.max_rows, max_tenants=request.max_tenants,
            duration_s=request.lease_duration.ToTimedelta().total_seconds(),
            destinations=request.destinations, at=mutations.now(), after=self._leased_last,
        )  # fmt: skip
        self._leased_last = rows[-1].tenant_id if rows else None
        return pb.LeaseOutboxResponse(lease_token=str(token), rows=map(_row, rows))

    async def SettleOutbox(self, request: pb.SettleOutboxRequest, context: Any) -> pb.SettleOutboxResponse:  # noqa: N802
        """Take a relay's word on rows it leased."""
        delivered = [(UUID(r.tenant_id), UUID(r.id)) for r in request.delivered]
        failed = [
            (UUID(r.tenant_id), UUID(r.id), r.retry_delay.ToTimedelta().total_seconds(), r.error)
            for r in request.failed
        ]
        gone, back = await outbox.settle(self._db, UUID(request.lease_token), delivered, failed, mutations.now())
        stale = len(delivered) + len(failed) - gone - back
        return pb.SettleOutboxResponse(delivered=gone, failed=back, stale=stale)

    async def GetKeySources(self, request: pb.GetKeySourcesRequest, context: Any) -> pb.GetKeySourcesResponse:  # noqa: N802
        """Where the tier holds storage keys."""
        facts = self._facts
        async with self._db.maintenance() as connection:
            applied = await connection.fetchval(APPLIED) or 0
        return pb.GetKeySourcesResponse(
            tier=facts.tier, schema_version=facts.schema_version, applied_schema_version=applied,
            sources=[pb.KeySource(name=each.name, role=number(pb.KeyRole, each.role)) for each in facts.key_sources],
        )  # fmt: skip

    async def ProvisionTenant(  # noqa: N802
        self, request: pb.ProvisionTenantRequest, context: Any
    ) -> pb.ProvisionTenantResponse:
        """Make a tenant known here."""
        tenant = await tenancy.provision(self._db, mutations.step_of(request))
        return pb.ProvisionTenantResponse(tenant=_tenant(tenant))

    async def CloseTenant(self, request: pb.CloseTenantRequest, context: Any) -> pb.CloseTenantResponse:  # noqa: N802
        """End a tenant's changes here."""
        tenant = await tenancy.close(self._db, mutations.step_of(request), self._ending)
        await self._state.closed.refresh(self._db)
        return pb.CloseTenantResponse(tenant=_tenant(tenant))

    async def ReopenTenant(self, request: pb.ReopenTenantRequest, context: Any) -> pb.ReopenTenantResponse:  # noqa: N802
        """Let a tenant change things again."""
        tenant = await tenancy.reopen(self._db, mutations.step_of(request), self._ending)
        await self._state.closed.refresh(self._db)
        return pb.ReopenTenantResponse(tenant=_tenant(tenant))


def _tenant(tenant: tenancy.TierTenant) -> pb.TierTenant:
    return pb.TierTenant(
        tenant_id=str(tenant.tenant_id), state=number(pb.TenantState, tenant.state),
        provisioned_at=stamp(tenant.provisioned_at), closed_at=stamp(tenant.closed_at),
    )  # fmt: skip


def _row(row: outbox.LeasedRow) -> pb.OutboxRow:
    wire = pb.OutboxRow(
        id=str(row.id), tenant_id=str(row.tenant_id), destination=row.destination, kind=row.kind,
        payload=row.payload, traceparent=row.traceparent, attempt=row.attempt,
    )  # fmt: skip
    wire.created_at.FromDatetime(row.created_at)
    return wire


def registration(servicer: TierServicer) -> Registration:
    """The servicer as a part of its server."""
    return Registration(SERVICE, tier_service_pb2_grpc.add_TierServiceServicer_to_server, servicer)
