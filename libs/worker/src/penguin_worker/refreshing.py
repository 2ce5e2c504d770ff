"""Keeps OLAP's facts fresh: runs "olap.refresh", and enqueues one such job per tenant and interval.

However many workers tick, a tenant gets one job for each interval: they mint the same request_id. A closed tenant gets no job any
more: what is recorded of its emails in the days after its close is loaded by the workers themselves, each of them.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from penguin.oltp.v1 import tenant_service_pb2 as tenant_pb
from penguin.oltp.v1.tenant_service_pb2_grpc import TenantServiceStub
from penguin.queue.v1 import queue_service_pb2 as pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_orchestrator import etl, keys
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import TierError
from penguin_worker.jobs import Job
from penguin_worker.standing import Standing

KIND = "olap.refresh"
PAGE = 500
PARALLEL = 8
REMEMBERED = 10_000
# So long after a tenant's close its facts are kept fresh: what becomes of its last emails is known by then.
CLOSED_FOR = timedelta(days=7)


class Refreshing:
    """The handler of "olap.refresh"."""

    def __init__(self, tiers: Mapping[str, Tier]) -> None:
        self._tiers = tiers
        self._begun: OrderedDict[UUID, datetime] = OrderedDict()
        self._locks: dict[UUID, asyncio.Lock] = {}

    async def handle(self, job: Job) -> None:
        """Bring one tenant's facts up to its ledger. Jobs that piled up in an outage are one refresh. Raises TierError."""
        tenant_id = job.tenant_id
        lock = self._locks.setdefault(tenant_id, asyncio.Lock())
        async with lock:
            begun = self._begun.get(tenant_id)
            # The queue's clock stands against ours: a second more, so that a skew never skips a refresh for good.
            if begun is not None and job.created_at.timestamp() + 1.0 < begun.timestamp():
                return
            now = datetime.now(UTC)
            await etl.refresh(self._tiers, tenant_id)
            self._begun[tenant_id] = now
            self._begun.move_to_end(tenant_id)
            while len(self._begun) > REMEMBERED:
                self._locks.pop(self._begun.popitem(last=False)[0], None)


class RefreshTicker:
    """Enqueues a refresh for every tenant once an interval (seconds), and refreshes those closed lately."""

    def __init__(self, tiers: Mapping[str, Tier], interval_s: float) -> None:
        self._tiers = tiers
        self._oltp, self._queue = tiers["oltp"], tiers["queue"]
        self._interval_s = interval_s
        self._standing = Standing("refresh")

    async def run(self) -> None:
        """Tick until cancelled; a tier that is away is asked again at the next tick."""
        while True:
            try:
                await self.tick(int(time.time() // self._interval_s))
                self._standing.answered("ticks")
            except TierError as error:
                self._standing.failed("ticks", f"{error.tier}.{error.reason}")
            left = self._interval_s - time.time() % self._interval_s
            # Not all workers at once: the first to come saves the others nothing but work.
            await asyncio.sleep(left + random.uniform(0, min(1.0, self._interval_s / 10)))

    async def tick(self, bucket: int) -> int:
        """Enqueue the refreshes of one interval; returns for how many tenants. Raises TierError."""
        page_token, ticked, closed = "", 0, list[str]()
        while True:
            request = tenant_pb.ListTenantsRequest(page_size=PAGE, page_token=page_token)
            page = await self._oltp.call(self._oltp.stub(TenantServiceStub).ListTenants, request)
            ids = [t.id for t in page.tenants if t.status != tenant_pb.TENANT_STATUS_CLOSED]
            await _each(ids, lambda tenant_id: self._enqueue(tenant_id, bucket))
            ticked += len(ids)
            closed += [t.id for t in page.tenants if _closed_lately(t)]
            page_token = page.next_page_token
            if not page_token:
                break
        # Last: where OLAP is away, the others have their jobs.
        await _each(closed, lambda tenant_id: etl.refresh(self._tiers, UUID(tenant_id)))
        return ticked

    async def _enqueue(self, tenant_id: str, bucket: int) -> None:
        job = pb.NewJob(
            request_id=str(keys.request_id("etl", tenant_id, self._interval_s, bucket)),
            kind=KIND,
            payload=b"{}",
            priority=pb.JOB_PRIORITY_LOW,
        )
        request = pb.EnqueueJobsRequest(tenant_id=tenant_id, jobs=[job])
        await self._queue.call(self._queue.stub(QueueServiceStub).EnqueueJobs, request)


def _closed_lately(tenant: tenant_pb.Tenant) -> bool:
    closed = tenant.status == tenant_pb.TENANT_STATUS_CLOSED
    return closed and tenant.updated_at.ToDatetime(UTC) > datetime.now(UTC) - CLOSED_FOR


async def _each(tenant_ids: Sequence[str], act: Callable[[str], Awaitable[object]]) -> None:
    """Do so for every tenant, a few at a time; raises the first failure once all were tried."""
    places = asyncio.Semaphore(PARALLEL)

    async def one(tenant_id: str) -> None:
        async with places:
            await act(tenant_id)

    results = await asyncio.gather(*map(one, tenant_ids), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
