"""The OTLP receiver as a process, fed through the real service stubs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from penguin_devstack import otlp
from penguin_devstack.otlp import Counters, SpanSink, read_counters
from penguin_devstack.ports import free_port
from penguin_devstack.spans import SpanStore, StoredSpan, find_traces, spans_of_trace, traces_linking_to


def text(key: str, value: str) -> KeyValue:
    return KeyValue(key=key, value=AnyValue(string_value=value))


def request(trace: int, email_id: str, spans: int = 2) -> trace_service_pb2.ExportTraceServiceRequest:
    resource = ResourceSpans()
    resource.resource.attributes.append(text("service.name", "penguin-oltp"))
    scope = ScopeSpans()
    for number in range(spans):
        span = Span(
            trace_id=trace.to_bytes(16, "big"),
            span_id=(number + 1).to_bytes(8, "big"),
            parent_span_id=number.to_bytes(8, "big") if number else b"",
            name=f"step {number}",
            kind=Span.SPAN_KIND_SERVER,
            start_time_unix_nano=trace * 1_000_000 + number,
            end_time_unix_nano=trace * 1_000_000 + number + 10,
            status=Status(code=Status.STATUS_CODE_ERROR, message="no"),
        )
        ids = ArrayValue(values=[AnyValue(string_value=email_id), AnyValue(string_value=email_id + "-b")])
        span.attributes.extend([KeyValue(key="penguin.email_id", value=AnyValue(array_value=ids)), text("other", "x")])
        span.events.add(name="retry", time_unix_nano=5).attributes.append(
            KeyValue(key="n", value=AnyValue(int_value=3))
        )
        span.links.add(trace_id=(99).to_bytes(16, "big"), span_id=(98).to_bytes(8, "big"))
        scope.spans.append(span)
    resource.scope_spans.append(scope)
    return trace_service_pb2.ExportTraceServiceRequest(resource_spans=[resource])


def stub(service: Any, channel: grpc.Channel) -> Any:
    return service(channel)


def test_keeps_spans_and_finds_traces_by_penguin_attributes(running: Any, tmp_path: Path) -> None:
    port, store = free_port(), tmp_path / "otlp"
    assert spans_of_trace(store, "ab") == []
    with running("penguin_devstack.otlp", port, "--store", str(store)):
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            traces = stub(trace_service_pb2_grpc.TraceServiceStub, channel)
            for trace in (1, 2, 3):
                traces.Export(request(trace, "email-1" if trace < 3 else "email-3"), timeout=10)
            metrics = metrics_service_pb2.ExportMetricsServiceRequest()
            metrics.resource_metrics.add().scope_metrics.add().metrics.add(name="calls")
            stub(metrics_service_pb2_grpc.MetricsServiceStub, channel).Export(metrics, timeout=10)
            logs = logs_service_pb2.ExportLogsServiceRequest()
            logs.resource_logs.add().scope_logs.add().log_records.add()
            stub(logs_service_pb2_grpc.LogsServiceStub, channel).Export(logs, timeout=10)
        deadline = time.monotonic() + 10
        while not find_traces(store, "penguin.email_id", "email-3") and time.monotonic() < deadline:
            time.sleep(0.02)
        assert find_traces(store, "penguin.email_id", "email-1") == [f"{2:032x}", f"{1:032x}"]
        assert find_traces(store, "penguin.email_id", "email-1-b", limit=1) == [f"{2:032x}"]
    spans = spans_of_trace(store, f"{3:032X}")
    assert [(span.name, span.parent_span_id, span.service, span.kind) for span in spans] == [
        ("step 0", None, "penguin-oltp", "server"),
        ("step 1", f"{1:016x}", "penguin-oltp", "server"),
    ]
    assert spans[0].attributes == {"penguin.email_id": ["email-3", "email-3-b"], "other": "x"}
    assert (spans[0].status, spans[0].status_message) == ("error", "no")
    assert (spans[0].events[0].name, spans[0].events[0].attributes) == ("retry", {"n": 3})
    assert spans[0].links[0].trace_id == f"{99:032x}"
    assert traces_linking_to(store, f"{99:032X}", limit=2) == [f"{3:032x}", f"{2:032x}"]
    assert traces_linking_to(store, f"{3:032x}") == []
    assert read_counters(store) == Counters(spans=6, metrics=1, log_records=1)
    with pytest.raises(ValueError, match="indexed"):
        find_traces(store, "other", "x")


def stored(trace: int, filler: int) -> StoredSpan:
    attributes = {"penguin.email_id": str(trace), "filler": "x" * filler}
    return StoredSpan(f"{trace:032x}", f"{1:016x}", None, "s", "n", "internal", trace, trace + 1, "ok", "", attributes)


def test_stays_bounded_by_dropping_the_oldest(tmp_path: Path) -> None:
    limit = 1_000_000
    store = SpanStore(tmp_path, max_bytes=limit)
    dropped = sum(store.add([stored(trace, 2_000) for trace in range(at, at + 20)]) for at in range(0, 2_000, 20))
    store.close()
    assert 1_000 < dropped < 2_000
    assert sum(path.stat().st_size for path in tmp_path.glob("spans.sqlite3")) < 1.3 * limit
    assert find_traces(tmp_path, "penguin.email_id", "0") == []
    assert spans_of_trace(tmp_path, f"{0:032x}") == []
    assert find_traces(tmp_path, "penguin.email_id", "1999") == [f"{1999:032x}"]


def test_a_stuck_store_slows_nobody_and_the_drops_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "_QUEUED_REQUESTS", 4)
    store, counters = SpanStore(tmp_path), Counters()
    blocker = SpanStore(tmp_path)
    blocker._connection.execute("BEGIN IMMEDIATE")
    sink = SpanSink(store, counters)
    begun = time.monotonic()
    for trace in range(100):
        sink.offer(request(trace, "e", spans=1))
    assert time.monotonic() - begun < 1
    assert counters.spans == 100
    assert counters.dropped_spans >= 100 - 4 - otlp._BATCHED_REQUESTS
    blocker._connection.execute("ROLLBACK")
    blocker.close()
    sink.close()
    store.close()
    kept = sum(1 for trace in range(100) if spans_of_trace(tmp_path, f"{trace:032x}"))
    assert kept == 100 - counters.dropped_spans
