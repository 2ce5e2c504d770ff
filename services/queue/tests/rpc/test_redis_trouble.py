"""The tier while its Valkey is flushed, killed, frozen or absent: no job is lost and leases go on. One service without rates asks little
of it: two that share a rate are in tests/failure/test_queue_faults.py."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from uuid import UUID

import orjson
import pytest
import redis
from services.queue.tests.conftest import Serve
from services.queue.tests.rows import enqueue_request, lease_request, new_job, ref_of

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_devstack.valkey import ValkeyServer, temporary_valkey
from penguin_queue.operations.news import CHANNEL
from penguin_testkit.calling import TierClient
from penguin_testkit.databases import Databases

JOBS = 12
# Ten calls and more, of which at most one in a second waits for Redis's time-out.
BOUND_S = 8.0


def flush(server: ValkeyServer) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.flushall()


async def run_through(client: TierClient, tenant: UUID, kind: str, trouble: Callable[[], None]) -> None:
    """Enqueue, bring the trouble about, enqueue again, and have every job leased one by one and completed once."""
    stub = QueueServiceStub(client.channel)
    jobs = [new_job(kind=kind) for _ in range(JOBS)]
    first = await client.call(stub.EnqueueJobs, enqueue_request(tenant, *jobs[: JOBS // 2]))
    trouble()
    started = time.monotonic()
    second = await client.call(stub.EnqueueJobs, enqueue_request(tenant, *jobs[JOBS // 2 :]))
    seen: list[int] = []
    while len(seen) < JOBS:
        reply = await client.call(stub.LeaseJobs, lease_request(kind, max_jobs=1, wait_s=5))
        assert reply.jobs, "a job was lost"
        completed = await client.call(stub.CompleteJobs, pb.CompleteJobsRequest(leases=map(ref_of, reply.jobs)))
        assert completed.completed == len(reply.jobs)
        seen += [leased.job.id for leased in reply.jobs]
    assert sorted(seen) == sorted(r.job_id for r in (*first.results, *second.results))
    assert time.monotonic() - started < BOUND_S


@pytest.mark.parametrize("trouble", ["flush", "kill", "freeze"])
async def test_no_trouble_of_redis_loses_a_job(
    serve: Serve, databases: Databases, tenant: UUID, kind: str, trouble: str
) -> None:
    urls = await databases.clone("queue")
    with temporary_valkey() as server:
        happens = {"flush": lambda: flush(server), "kill": server.kill, "freeze": server.freeze}[trouble]
        async with serve(urls, server.url) as client:
            await run_through(client, tenant, kind, happens)
            if trouble == "freeze":
                server.thaw()
            elif trouble == "kill":
                server.start()
            await run_through(client, tenant, kind, lambda: None)


async def heard_by(server: ValkeyServer, message: bytes) -> None:
    """Publish it on the queue's channel once somebody listens there, and until it has been heard."""
    with redis.Redis.from_url(server.url) as client:
        async with asyncio.timeout(20):
            while True:
                if client.publish(CHANNEL, message):
                    return
                await asyncio.sleep(0.05)


async def test_a_message_that_cannot_be_read_leaves_the_service_listening(
    serve: Serve, databases: Databases, tenant: UUID, kind: str
) -> None:
    urls = await databases.clone("queue")
    with temporary_valkey() as server, redis.Redis.from_url(server.url) as client:
        async with serve(urls, server.url) as service:
            for row in ([2, kind, 5, 0, 0, 1], [2, kind, "0" * 32, 0, 2**62, 1], [7, kind, tenant.hex, 0, 0, 1]):
                await heard_by(server, orjson.dumps(["x", [row]]))
                # What was heard of it fails no lease either.
                await run_through(service, tenant, kind, lambda: None)
                assert client.pubsub_numsub(CHANNEL) == [(CHANNEL.encode(), 1)]


async def test_no_redis_at_all_is_no_trouble(serve: Serve, databases: Databases, tenant: UUID, kind: str) -> None:
    async with serve(await databases.clone("queue"), "") as client:
        await run_through(client, tenant, kind, lambda: None)
