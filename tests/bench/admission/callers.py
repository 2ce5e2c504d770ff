"""Callers of OLTP in a process of their own: `python -m tests.bench.admission.callers quiet|noisy`, told what to do by JSON on
standard input; answers with JSON.

Raw stubs and tokens made beforehand, so that the measuring costs as little of the machine as it can.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import grpc
import psutil
import uvloop
from google.protobuf.field_mask_pb2 import FieldMask
from tests.bench import spending

from penguin.oltp.v1 import email_service_pb2 as email_pb
from penguin.oltp.v1 import email_service_pb2_grpc as email_grpc
from penguin.oltp.v1 import lead_service_pb2 as lead_pb
from penguin.oltp.v1 import lead_service_pb2_grpc as lead_grpc
from penguin_testkit.calling import answer_of

TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Tenant:
    """A tenant's id, its tokens by scope, and rows of it."""

    id: str
    reading: str
    writing: str
    email: str
    leads: list[str]


@dataclass
class Told:
    """What became of the calls: seconds of those that succeeded, and the others by status."""

    times: list[float] = field(default_factory=list)
    other: Counter[str] = field(default_factory=Counter)
    without_retry_info: int = 0


class Callers:
    """Calls of one process over one channel a tenant; every other one is a write."""

    def __init__(self, address: str, tenants: list[Tenant]) -> None:
        self._channels = [
            grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) for _ in tenants
        ]
        self._stubs = [
            (email_grpc.EmailServiceStub(channel).GetEmail, lead_grpc.LeadServiceStub(channel).UpdateLead)
            for channel in self._channels
        ]
        self._tenants = tenants
        self._turn = itertools.count()
        self.told = Told()

    async def call(self, number: int) -> float:
        """One call of the tenant by that number; seconds that it asks to be left alone for afterwards."""
        tenant, (read, write) = self._tenants[number], self._stubs[number]
        turn = next(self._turn)
        method: Any
        if turn % 2:
            lead = tenant.leads[turn % len(tenant.leads)]
            request: Any = lead_pb.UpdateLeadRequest(
                tenant_id=tenant.id, lead_id=lead, request_id=str(uuid4()), lead=lead_pb.LeadUpdate(company="Some"),
                update_mask=FieldMask(paths=["company"]),
            )  # fmt: skip
            method, token = write, tenant.writing
        else:
            request = email_pb.GetEmailRequest(tenant_id=tenant.id, email_id=tenant.email)
            method, token = read, tenant.reading
        began = time.perf_counter()
        try:
            await method(request, metadata=(("authorization", f"Bearer {token}"),), timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            self.told.other[error.code().name] += 1
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                return 0.01
            asked = answer_of(error).retry_after_s
            self.told.without_retry_info += asked is None
            return asked or 0.01
        self.told.times.append(time.perf_counter() - began)
        return 0.0

    async def close(self) -> None:
        """Let the channels go."""
        for channel in self._channels:
            await channel.close()


async def steadily(callers: Callers, tenants: int, rate: float, seconds: float) -> None:
    """So many calls a second, in turn between the tenants, whatever the answers take."""
    began, tasks = time.perf_counter(), []
    for count in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, began + count / rate - time.perf_counter()))
        tasks.append(asyncio.create_task(callers.call(count % tenants)))
    await asyncio.gather(*tasks)


async def at_once(callers: Callers, calls: int, seconds: float, *, obedient: bool) -> None:
    """So many calls under way all the time; where `obedient`, each waits as long as a refusal says."""
    ends = time.perf_counter() + seconds

    async def one() -> None:
        while time.perf_counter() < ends:
            asked = await callers.call(0)
            if asked and obedient:
                await asyncio.sleep(asked)

    await asyncio.gather(*(one() for _ in range(calls)))


async def _main(kind: str) -> None:
    told = json.loads(sys.stdin.readline())
    tenants = [Tenant(**each) for each in told["tenants"]]
    callers = Callers(told["address"], tenants)
    await asyncio.gather(*(callers.call(number) for number in range(len(tenants))))  # the connections stand
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        wanted = json.loads(line)
        callers.told = Told()
        before = spending.of(psutil.Process())
        if kind == "quiet":
            await steadily(callers, len(tenants), wanted["rate"], wanted["seconds"])
        else:
            await at_once(callers, wanted["calls"], wanted["seconds"], obedient=wanted["obedient"])
        found = callers.told
        print(
            json.dumps({
                "times": found.times, "other": found.other, "without_retry_info": found.without_retry_info,
                "cpu_s": spending.of(psutil.Process()) - before,
            }), flush=True,
        )  # fmt: skip
    await callers.close()


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1]))
