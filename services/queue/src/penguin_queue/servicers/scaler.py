"""KEDA's ExternalScaler on the wire. It is open to whoever reaches the port: it tells sums, and nothing of any tenant."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

from externalscaler import externalscaler_pb2 as pb
from externalscaler import externalscaler_pb2_grpc
from penguin_chassis.faults import InvalidArgument
from penguin_queue.operations.scaling import Scaling, Watched

METRIC = "penguin_queue_jobs"
TARGET = 100
MOST = 1_000_000_000
# What is said of a kind or a queue here stands in manifests: longer is a mistake.
NAMES_MAX = 10_000


class ScalerServicer(externalscaler_pb2_grpc.ExternalScalerServicer):
    """Jobs that are ready or leased, as a metric."""

    def __init__(self, scaling: Scaling) -> None:
        self._scaling = scaling

    async def IsActive(self, request: pb.ScaledObjectRef, context: Any) -> pb.IsActiveResponse:
        return pb.IsActiveResponse(result=await self._scaling.active(_watched(request)))

    async def StreamIsActive(self, request: pb.ScaledObjectRef, context: Any) -> AsyncIterator[pb.IsActiveResponse]:
        async with aclosing(self._scaling.changes(_watched(request))) as changes:  # type: ignore[type-var]
            async for active in changes:
                yield pb.IsActiveResponse(result=active)

    async def GetMetricSpec(self, request: pb.ScaledObjectRef, context: Any) -> pb.GetMetricSpecResponse:
        target = _watched(request).target
        return pb.GetMetricSpecResponse(
            metricSpecs=[pb.MetricSpec(metricName=METRIC, targetSize=target, targetSizeFloat=target)]
        )

    async def GetMetrics(self, request: pb.GetMetricsRequest, context: Any) -> pb.GetMetricsResponse:
        load = await self._scaling.load(_watched(request.scaledObjectRef, "scaledObjectRef."))
        # Under the name it is asked for: KEDA may have put one of its own before ours.
        name = request.metricName or METRIC
        return pb.GetMetricsResponse(
            metricValues=[pb.MetricValue(metricName=name, metricValue=load, metricValueFloat=load)]
        )


def _watched(ref: pb.ScaledObjectRef, path: str = "") -> Watched:
    """What is to be counted; raises InvalidArgument naming the entry of scalerMetadata."""
    said = ref.scalerMetadata
    kinds = _text(said, "kinds", path)
    queue = _text(said, "queue", path).strip()
    names = frozenset(kind.strip() for kind in kinds.split(",") if kind.strip())
    if names and queue:
        raise InvalidArgument("There are kinds already; give one of the two.", field=_place(path, "queue"))
    return Watched(names, queue, _number(said, "target", TARGET, 1, path), _number(said, "activation", 0, 0, path))


def _text(said: Mapping[str, str], key: str, path: str) -> str:
    text = said.get(key, "")
    if len(text) > NAMES_MAX:
        raise InvalidArgument(f"It has {NAMES_MAX} characters at most.", field=_place(path, key))
    return text


def _number(said: Mapping[str, str], key: str, default: int, least: int, path: str) -> int:
    text = said.get(key, "").strip()
    if not text:
        return default
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(MOST)) else -1
    if not least <= number <= MOST:
        raise InvalidArgument(f"It is a whole number from {least} to {MOST}.", field=_place(path, key))
    return number


def _place(path: str, key: str) -> str:
    return f'{path}scalerMetadata["{key}"]'
