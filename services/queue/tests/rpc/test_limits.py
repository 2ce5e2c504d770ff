"""A queue of which only so many jobs may be in flight, or go in a second, beside others on the same workers."""

from __future__ import annotations

from uuid import UUID

import pytest
from google.protobuf.duration_pb2 import Duration
from services.queue.tests.conftest import Serve
from services.queue.tests.rows import lease_request, ref_of
from services.queue.tests.rpc.test_queues import Admin

from penguin.queue.v1 import queue_admin_service_pb2 as admin_pb
from penguin.queue.v1 import queue_service_pb2 as pb
from penguin_chassis.pool import database
from penguin_chassis.settings import PoolSettings
from penguin_queue.store.leases import LeaseStore
from penguin_testkit.databases import Databases

# Tenants who wait for the one place of a queue; a lease looks into 64 lanes at most.
WAITING = 1000
# One for each lane, straight into the table: by RPC it would take longer than all else.
_WAITING_JOBS = """
    INSERT INTO jobs (id, run_at, created_at, tenant_id, kind_id, priority, max_attempts, state, payload)
    SELECT 1000000000 + n, now(), now(), gen_random_uuid(), k.id, 2, 3, 1, '{}'
    FROM generate_series(1, $1) AS n, kinds AS k WHERE k.name = $2
"""


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many lanes each statement of a lease is for, as they are asked for."""
    asked: list[int] = []
    lease = LeaseStore.lease

    async def counted(self, calls, turns, *rest):  # type: ignore[no-untyped-def]
        asked.append(len(turns))
        return await lease(self, calls, turns, *rest)

    monkeypatch.setattr(LeaseStore, "lease", counted)
    return asked


async def test_who_waits_for_a_full_queue_does_not_slow_the_other_kinds(
    serve: Serve, databases: Databases, tenant: UUID, rounds: list[int]
) -> None:
    urls = await databases.clone("queue")
    async with serve(urls, "") as client:
        limited, free = Admin(client, "limited.k"), Admin(client, "free.k")
        await limited.put(max_in_flight=1)
        async with (
            database(PoolSettings(urls.app_url, urls.maintenance_url, max_size=1)) as db,
            db.maintenance() as owner,
        ):
            await owner.execute(_WAITING_JOBS, WAITING, "limited.k")
        (held,) = await limited.lease(wait_s=5)
        await free.enqueue(tenant, 1000)
        await free.complete(*await free.lease(50, wait_s=5))
        rounds.clear()
        request = lease_request("free.k", "limited.k", max_jobs=10, wait_s=5)
        for _ in range(40):
            leased = list((await client.call(free.jobs.LeaseJobs, request)).jobs)
            assert {each.job.kind for each in leased} == {"free.k"}
            await free.complete(*leased)
        assert len(rounds) <= 60
        # And a place that comes free is taken at once.
        await limited.complete(held)
        leased = list((await client.call(free.jobs.LeaseJobs, request)).jobs)
        assert "limited.k" in {each.job.kind for each in leased}
        refs = pb.CompleteJobsRequest(leases=map(ref_of, leased))
        assert (await client.call(free.jobs.CompleteJobs, refs)).completed == len(leased)


# Tenants who wait for a rate, each with so many jobs; and how many jobs a worker asks for, so often.
TENANTS, EACH = 300, 150
PER_LEASE, LEASES = 20, 40
SELDOM = admin_pb.RateLimit(jobs=1, per=Duration(seconds=600), burst=1)
_RATED_JOBS = """
    INSERT INTO jobs (id, run_at, created_at, tenant_id, kind_id, priority, max_attempts, state, payload, rate_key)
    SELECT 1000000000 + 1000 * n + m, now(), now(), t, k.id, 2, 3, 1, '{}', nullif($4, '')
    FROM (SELECT n, gen_random_uuid() AS t FROM generate_series(1, $1) AS n) AS tenants, generate_series(1, $2) AS m, kinds AS k
    WHERE k.name = $3
"""


@pytest.mark.parametrize("of", ["queue", "key"])
async def test_who_waits_for_a_rate_does_not_slow_the_other_kinds(
    serve: Serve, databases: Databases, tenant: UUID, of: str
) -> None:
    urls = await databases.clone("queue")
    async with serve(urls, "") as client:
        rated, free = Admin(client, "rated.k"), Admin(client, "free.k")
        await rated.put(**{"rate" if of == "queue" else "key_rate": SELDOM})
        async with (
            database(PoolSettings(urls.app_url, urls.maintenance_url, max_size=1)) as db,
            db.maintenance() as owner,
        ):
            await owner.execute(_RATED_JOBS, TENANTS, EACH, "rated.k", "box" if of == "key" else "")
        await rated.complete(*await rated.lease(wait_s=5))
        await free.enqueue(tenant, LEASES * PER_LEASE)
        request = lease_request("free.k", "rated.k", max_jobs=PER_LEASE, wait_s=5)
        kinds: list[str] = []
        for _ in range(LEASES):
            leased = list((await client.call(free.jobs.LeaseJobs, request)).jobs)
            kinds += [each.job.kind for each in leased]
            await free.complete(*leased)
        # The first of each key has a token: that much is theirs.
        most = TENANTS if of == "key" else 1
        assert kinds.count("rated.k") <= most
        assert kinds.count("free.k") >= (LEASES * PER_LEASE - most) // 3
