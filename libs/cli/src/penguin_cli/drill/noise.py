"""A tenant that makes a nuisance of itself: `python -m penguin_cli.drill.noise <tenant> <lead>`. Its calls all change one row,
which somebody has locked. It ends when its input does, and says how many were refused, and how many of these with RetryInfo."""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from uuid import uuid4

import uvloop
from google.protobuf.field_mask_pb2 import FieldMask

from penguin.oltp.v1 import lead_service_pb2 as lead_pb
from penguin.oltp.v1.lead_service_pb2_grpc import LeadServiceStub
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.platform import Penguin

# Of a process's 32 places a tenant's share is eight where four are active; this one's calls are twenty times as many.
CALLS = 160
# Each call's own deadline: they are not to end all at once (seconds).
SHORTEST_S, LONGEST_S = 2.0, 5.0


async def _pester(penguin: Penguin, tenant: str, lead: str, told: Counter[str]) -> None:
    oltp = penguin.tiers["oltp"]
    method = oltp.stub(LeadServiceStub).UpdateLead
    while True:
        request = lead_pb.UpdateLeadRequest(
            tenant_id=tenant, lead_id=lead, request_id=str(uuid4()), lead=lead_pb.LeadUpdate(company="Noise"),
            update_mask=FieldMask(paths=["company"]),
        )  # fmt: skip
        wait = 0.05
        try:
            await oltp.call(method, request, timeout=random.uniform(SHORTEST_S, LONGEST_S))
        except TierError as error:
            if error.code.name == "RESOURCE_EXHAUSTED":
                told["refused"] += 1
                told["informed"] += error.retry_after_s is not None
            wait = error.retry_after_s or wait
        await asyncio.sleep(wait)


async def main(tenant: str, lead: str) -> None:
    """Pester until the input ends."""
    told, ended = Counter[str](), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin, ended.set)
    async with Penguin.connect() as penguin:
        tasks = [asyncio.create_task(_pester(penguin, tenant, lead, told)) for _ in range(CALLS)]
        await asyncio.sleep(1.0)
        print("at it", flush=True)
        await ended.wait()
        loop.remove_reader(sys.stdin)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    print(told["refused"], told["informed"], flush=True)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2]))
