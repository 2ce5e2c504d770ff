"""The queue in several processes on one database and one Redis, and rates that all of them keep to together."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from uuid import uuid4

from libs.worker.tests.waiting import until

from penguin.queue.v1 import queue_admin_service_pb2 as pb
from penguin.queue.v1.queue_admin_service_pb2_grpc import QueueAdminServiceStub
from penguin_devstack.probes import serves_grpc
from penguin_devstack.stack import LocalStack
from penguin_orchestrator.config import PlatformConfig
from penguin_orchestrator.platform import Penguin

ROOT = Path(__file__).parents[1]
# What each service is told of their number.
REPLICAS = 2
# What services are told where nobody looks at their traces: to record few of them, for recording each costs a good part of the work.
SAMPLED = {"OTEL_TRACES_SAMPLER_ARG": "0.01"}


@contextlib.asynccontextmanager
async def another_queue(environment: Mapping[str, str], port: int, clock_off_s: float = 0.0) -> AsyncIterator[None]:
    """One more service of the queue on the same database and Redis, its wall clock wrong by so much. `environment` is that of the
    first."""
    module = ["tests.failure.serving"] if clock_off_s else ["penguin_queue", "serve"]
    own = {"QUEUE_LISTEN": f"127.0.0.1:{port}", "QUEUE_REPLICAS": str(REPLICAS), "CLOCK_OFF_S": str(clock_off_s)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *module, cwd=ROOT, env={**os.environ, **environment, **SAMPLED, **own}
    )
    try:
        await until(lambda: serves_grpc(port))
        yield
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 20) == 0, "the service did not end in order"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def put_rated_queue(stack: LocalStack, name: str, kind: str, per_s: int, burst: int) -> None:
    """A queue with a rate, for this kind alone."""
    config = PlatformConfig(**stack.environment("cli"))  # type: ignore[arg-type]
    rated = pb.Queue(name=name, rate=pb.RateLimit(jobs=per_s, burst=burst))
    rated.rate.per.FromSeconds(1)
    async with Penguin.connect(config) as operator:
        queue = operator.tiers["queue"]
        stub = queue.stub(QueueAdminServiceStub)
        await queue.insist(stub.PutQueue, pb.PutQueueRequest(request_id=str(uuid4()), queue=rated), deadline_s=20)
        moving = pb.MoveKindsRequest(request_id=str(uuid4()), queue=name, kinds=[kind])
        await queue.insist(stub.MoveKinds, moving, deadline_s=20)


def beyond_rate(times: Sequence[float], per_s: float) -> float:
    """How many more there were in some stretch of time, however long, than the rate gives in it. `times` are in order."""
    least, most = float("inf"), 0.0
    for number, at in enumerate(times):
        ahead = number - per_s * at
        least = min(least, ahead)
        most = max(most, ahead - least + 1)
    return most
