"""What a process that is about to end tells its workers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID

import grpc
import pytest
from services.queue.tests.rows import seconds
from services.queue.tests.rpc.test_work import enqueue, state, working

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_chassis.server import Running
from penguin_devstack.roles import TierDatabase
from penguin_queue.app import serving
from penguin_queue.config import QueueConfig
from penguin_testkit.calling import TierClient
from penguin_testkit.tokens import TokenFactory


@pytest.fixture
async def process(queue_urls: TierDatabase, tokens: TokenFactory) -> AsyncIterator[Running]:
    """A process of the tier for this test alone: it is told that it is to end."""
    config = QueueConfig(
        QUEUE_DB_URL=queue_urls.app_url,
        QUEUE_MAINTENANCE_DB_URL=queue_urls.maintenance_url,
        QUEUE_REDIS_URL="",
        QUEUE_LISTEN="127.0.0.1:0",
        PENGUIN_JWKS_PATH=tokens.jwks_path,
        PENGUIN_DRAIN_SECONDS=0.1,
    )
    async with serving(config) as running:
        yield running


async def test_extensions_and_streams_tell_and_nothing_more_is_leased(
    process: Running, tokens: TokenFactory, tenant: UUID, kind: str
) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{process.port}") as channel:
        queue, stub = TierClient("queue", channel, tokens), QueueServiceStub(channel)
        ids = await enqueue(queue, stub, tenant, kind, 3)
        async with working(queue, stub, kind, places=2) as full, working(queue, stub, f"{kind}.none") as idle:
            await full.until(2)
            refs = [pb.LeaseRef(job_id=n, lease_token=token) for n, token in full.held.items()]
            request = pb.ExtendLeasesRequest(leases=refs, lease_duration=seconds(30))
            extended: pb.ExtendLeasesResponse = await queue.call(stub.ExtendLeases, request)
            assert (extended.draining, list(extended.lost_job_ids)) == (False, [])
            process.state.draining = True
            # Unasked: a worker that has nothing to say learns it no other way.
            for worker in (full, idle):
                told = (await worker.reply()).answer
                assert (told.number, told.draining) == (0, True)
            extended = await queue.call(stub.ExtendLeases, request)
            assert (extended.draining, list(extended.lost_job_ids)) == (True, [])
            (left,) = set(ids).difference(full.held)
            answer = await full.complete(list(full.held))
            assert (answer.draining, answer.completed) == (True, 2)
            await full.call.done_writing()
            assert await full.call.read() is grpc.aio.EOF
        assert (await state(queue, stub, tenant, left)).state == pb.JOB_STATE_READY
