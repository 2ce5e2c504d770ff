"""The autoscaling signal over a real channel, as KEDA asks for it: without a token."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import grpc
import pytest
from services.queue.tests.rows import batch_request, lease_request

from externalscaler import externalscaler_pb2 as pb
from externalscaler.externalscaler_pb2_grpc import ExternalScalerStub
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_chassis.faults import Unavailable
from penguin_queue.store.census import CensusStore
from penguin_testkit.calling import Refused, TierClient


def ref(**metadata: str) -> pb.ScaledObjectRef:
    return pb.ScaledObjectRef(name="worker", namespace="penguin", scalerMetadata=metadata)


async def ask(queue: TierClient, method: str, request: Any) -> Any:
    return await queue.call(getattr(ExternalScalerStub(queue.channel), method), request, anonymous=True)


async def load(client: TierClient, **metadata: str) -> int:
    request = pb.GetMetricsRequest(scaledObjectRef=ref(**metadata), metricName="s0-penguin")
    (value,) = (await ask(client, "GetMetrics", request)).metricValues
    assert (value.metricName, value.metricValueFloat) == ("s0-penguin", value.metricValue)
    return int(value.metricValue)


async def watch(client: TierClient, **metadata: str) -> Any:
    return ExternalScalerStub(client.channel).StreamIsActive(ref(**metadata), timeout=60)


async def test_what_is_ready_or_leased_is_told_and_the_stream_tells_of_the_change(
    queue: TierClient, stub: QueueServiceStub, kind: str
) -> None:
    stream = await watch(queue, kinds=f"other.kind, {kind}", activation="2")
    assert (await stream.read()).result is False
    await queue.call(stub.EnqueueBatch, batch_request(uuid4(), kind, *[b"{}"] * 5))
    await queue.call(stub.LeaseJobs, lease_request(kind, max_jobs=2))
    async with asyncio.timeout(30):
        assert (await stream.read()).result is True
    stream.cancel()
    assert await load(queue, kinds=kind) == 5
    assert await load(queue, kinds=f"{kind}.other") == 0
    assert await load(queue, queue="no.such") == 0
    assert await load(queue, queue="default") >= 5
    assert await load(queue) >= 5
    assert (await ask(queue, "IsActive", ref(kinds=kind, activation="4"))).result is True
    assert (await ask(queue, "IsActive", ref(kinds=kind, activation="5"))).result is False


@pytest.mark.parametrize(("metadata", "target"), [({}, 100), ({"target": "7"}, 7)])
async def test_the_metric_has_a_name_and_a_target(queue: TierClient, metadata: dict[str, str], target: int) -> None:
    (spec,) = (await ask(queue, "GetMetricSpec", ref(**metadata))).metricSpecs
    assert (spec.metricName, spec.targetSize, spec.targetSizeFloat) == ("penguin_queue_jobs", target, target)


@pytest.mark.parametrize(
    ("metadata", "key"),
    [
        ({"target": "0"}, "target"),
        ({"target": "1e3"}, "target"),
        ({"target": "9" * 5000}, "target"),
        ({"activation": "-1"}, "activation"),
        ({"kinds": "a", "queue": "b"}, "queue"),
        ({"kinds": "x" * 10_001}, "kinds"),
    ],
)
async def test_what_cannot_be_meant_is_refused_by_its_entry(
    queue: TierClient, metadata: dict[str, str], key: str
) -> None:
    for method in ("IsActive", "GetMetricSpec"):
        with pytest.raises(Refused) as refused:
            await ask(queue, method, ref(**metadata))
        answer = refused.value.answer
        assert (answer.code, answer.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [f'scalerMetadata["{key}"]'])


async def test_without_a_fresh_count_there_is_none(
    queue: TierClient, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(self: CensusStore, at: object) -> None:
        raise Unavailable("The tier's database does not answer.")

    stream = await watch(queue, kinds=kind)
    assert (await stream.read()).result is False
    monkeypatch.setattr(CensusStore, "count", away)
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await asyncio.wait_for(stream.read(), 40)
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(Refused) as refused:
        await load(queue, kinds=kind)
    assert refused.value.answer.code is grpc.StatusCode.UNAVAILABLE
