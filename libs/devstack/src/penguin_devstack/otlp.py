"""A local OTLP/gRPC receiver for traces, metrics and logs. It answers at once, keeps spans in a bounded file, only
counts the rest, and drops what it cannot keep up with rather than slow a client."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import queue
import signal
import sqlite3
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from penguin_devstack.ports import LOOPBACK
from penguin_devstack.spans import (
    DEFAULT_MAX_BYTES,
    SpanEvent,
    SpanLink,
    SpanStore,
    StoredSpan,
    find_traces,
    spans_of_trace,
)

__all__ = ["Counters", "find_traces", "read_counters", "serve", "spans_of_trace"]

_QUEUED_REQUESTS = 512
_BATCHED_REQUESTS = 32
_LARGEST_REQUEST = 16 * 1024 * 1024
_COUNTERS_FILE = "counters.json"
_COUNTERS_EVERY_S = 1.0
_KINDS = {
    Span.SPAN_KIND_SERVER: "server",
    Span.SPAN_KIND_CLIENT: "client",
    Span.SPAN_KIND_PRODUCER: "producer",
    Span.SPAN_KIND_CONSUMER: "consumer",
}
_STATUSES = {Status.STATUS_CODE_OK: "ok", Status.STATUS_CODE_ERROR: "error"}


@dataclass(slots=True)
class Counters:
    """What arrived since the receiver started, and what was dropped: full queue, failed write, or file full."""

    spans: int = 0
    metrics: int = 0
    log_records: int = 0
    dropped_spans: int = 0
    aged_out_spans: int = 0


def read_counters(directory: Path) -> Counters:
    """The running (or last) receiver's counters, at most about a second old; zeros where none ran."""
    try:
        return Counters(**json.loads((directory / _COUNTERS_FILE).read_text()))
    except (FileNotFoundError, ValueError):
        return Counters()


class SpanSink:
    """A bounded queue in front of the store and the one thread that drains it."""

    def __init__(self, store: SpanStore, counters: Counters) -> None:
        self._store = store
        self._counters = counters
        self._queue: queue.Queue[trace_service_pb2.ExportTraceServiceRequest | None] = queue.Queue(_QUEUED_REQUESTS)
        self._thread = threading.Thread(target=self._drain, name="span-writer", daemon=True)
        self._thread.start()

    def offer(self, request: trace_service_pb2.ExportTraceServiceRequest) -> None:
        """Take the request or drop it; never wait."""
        count = _count_spans(request)
        self._counters.spans += count
        try:
            self._queue.put_nowait(request)
        except queue.Full:
            self._counters.dropped_spans += count

    def close(self, timeout_s: float = 5.0) -> None:
        """Write what is queued, for at most `timeout_s`."""
        try:
            self._queue.put(None, timeout=timeout_s)
        except queue.Full:
            return
        self._thread.join(timeout_s)

    def _drain(self) -> None:
        while True:
            request = self._queue.get()
            batch = []
            while request is not None:
                batch.append(request)
                if len(batch) >= _BATCHED_REQUESTS or self._queue.empty():
                    break
                request = self._queue.get()
            self._write(batch)
            if request is None:
                return

    def _write(self, batch: list[trace_service_pb2.ExportTraceServiceRequest]) -> None:
        try:
            spans = [span for request in batch for span in _spans(request)]
            self._counters.aged_out_spans += self._store.add(spans)
        except (sqlite3.Error, ValueError, OverflowError):
            logging.getLogger(__name__).exception("a batch of spans was dropped")
            self._counters.dropped_spans += sum(map(_count_spans, batch))


class _Traces(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, sink: SpanSink) -> None:
        self._sink = sink

    async def Export(self, request: Any, context: Any) -> trace_service_pb2.ExportTraceServiceResponse:  # noqa: N802
        self._sink.offer(request)
        return trace_service_pb2.ExportTraceServiceResponse()


class _Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    async def Export(self, request: Any, context: Any) -> metrics_service_pb2.ExportMetricsServiceResponse:  # noqa: N802
        self._counters.metrics += sum(
            len(scope.metrics) for resource in request.resource_metrics for scope in resource.scope_metrics
        )
        return metrics_service_pb2.ExportMetricsServiceResponse()


class _Logs(logs_service_pb2_grpc.LogsServiceServicer):
    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    async def Export(self, request: Any, context: Any) -> logs_service_pb2.ExportLogsServiceResponse:  # noqa: N802
        self._counters.log_records += sum(
            len(scope.log_records) for resource in request.resource_logs for scope in resource.scope_logs
        )
        return logs_service_pb2.ExportLogsServiceResponse()


def _count_spans(request: trace_service_pb2.ExportTraceServiceRequest) -> int:
    return sum(len(scope.spans) for resource in request.resource_spans for scope in resource.scope_spans)


def _spans(request: trace_service_pb2.ExportTraceServiceRequest) -> list[StoredSpan]:
    found = []
    for resource in request.resource_spans:
        service = str(_attributes(resource.resource.attributes).get("service.name", "unknown"))
        found += [_stored(span, service) for scope in resource.scope_spans for span in scope.spans]
    return found


def _stored(span: Span, service: str) -> StoredSpan:
    return StoredSpan(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_span_id=span.parent_span_id.hex() or None,
        service=service,
        name=span.name,
        kind=_KINDS.get(span.kind, "internal"),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        status=_STATUSES.get(span.status.code, "unset"),
        status_message=span.status.message,
        attributes=_attributes(span.attributes),
        events=[SpanEvent(event.name, event.time_unix_nano, _attributes(event.attributes)) for event in span.events],
        links=[SpanLink(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
    )


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: _plain(pair.value) for pair in pairs}


def _plain(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_plain(member) for member in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    if kind == "bytes_value":
        return value.bytes_value.hex()
    return None if kind is None else getattr(value, kind)


async def serve(
    port: int, directory: Path, *, max_bytes: int = DEFAULT_MAX_BYTES, stopped: asyncio.Event | None = None
) -> None:
    """Receive on the loopback port until `stopped` is set (or the task is cancelled). RuntimeError if it is taken."""
    counters = Counters()
    store = SpanStore(directory, max_bytes)
    sink = SpanSink(store, counters)
    server = grpc.aio.server(
        options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", _LARGEST_REQUEST)],
        compression=grpc.Compression.NoCompression,
    )
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(_Traces(sink), server)  # type: ignore[no-untyped-call]
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(_Metrics(counters), server)  # type: ignore[no-untyped-call]
    logs_service_pb2_grpc.add_LogsServiceServicer_to_server(_Logs(counters), server)  # type: ignore[no-untyped-call]
    server.add_insecure_port(f"{LOOPBACK}:{port}")
    await server.start()
    stopped = stopped or asyncio.Event()
    try:
        while not stopped.is_set():
            _write_counters(directory, counters)
            try:
                async with asyncio.timeout(_COUNTERS_EVERY_S):
                    await stopped.wait()
            except TimeoutError:
                continue
    finally:
        await server.stop(grace=1.0)
        sink.close()
        store.close()
        _write_counters(directory, counters)


def _write_counters(directory: Path, counters: Counters) -> None:
    fields = {name: getattr(counters, name) for name in Counters.__slots__}
    partial = directory / (_COUNTERS_FILE + ".new")
    partial.write_text(json.dumps(fields))
    partial.replace(directory / _COUNTERS_FILE)


async def _main(arguments: argparse.Namespace) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await serve(arguments.port, arguments.store, max_bytes=arguments.max_mb * 1024 * 1024, stopped=stopped)


def main() -> None:
    """Run as a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m penguin_devstack.otlp", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--store", type=Path, required=True, help="directory of the span file")
    parser.add_argument("--max-mb", type=int, default=DEFAULT_MAX_BYTES // 1024 // 1024)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
