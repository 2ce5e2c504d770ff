"""Sends spans and metrics to a collector from background threads, bounded everywhere: a full queue drops, a hanging
collector costs nobody a deadline, and the end waits for it no longer than its limit."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from penguin_chassis.settings import TelemetrySettings

EXPORT_TIMEOUT_S = 2
SPAN_QUEUE = 8192
METRIC_INTERVAL_MS = 5_000
SHUTDOWN_S = 2.0


@contextlib.contextmanager
def exporting(settings: TelemetrySettings) -> Iterator[None]:
    """Export what is recorded inside the block to `settings.endpoint`."""
    resource = Resource.create({"service.name": settings.service_name})
    tracers = TracerProvider(resource=resource, sampler=ParentBased(TraceIdRatioBased(settings.sample_ratio)))
    spans = OTLPSpanExporter(endpoint=settings.endpoint, insecure=True, timeout=EXPORT_TIMEOUT_S)
    tracers.add_span_processor(
        BatchSpanProcessor(spans, max_queue_size=SPAN_QUEUE, schedule_delay_millis=500, max_export_batch_size=512)
    )
    reader = PeriodicExportingMetricReader(
        OTLPMetricExporter(endpoint=settings.endpoint, insecure=True, timeout=EXPORT_TIMEOUT_S),
        export_interval_millis=METRIC_INTERVAL_MS,
        export_timeout_millis=EXPORT_TIMEOUT_S * 1000,
    )
    meters = MeterProvider(resource=resource, metric_readers=[reader])
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(meters)
    try:
        yield
    finally:
        closer = threading.Thread(target=_close, args=(tracers, meters), daemon=True)
        closer.start()
        closer.join(SHUTDOWN_S)


def _close(tracers: TracerProvider, meters: MeterProvider) -> None:
    with contextlib.suppress(Exception):
        tracers.shutdown()
    with contextlib.suppress(Exception):
        meters.shutdown(timeout_millis=SHUTDOWN_S * 1000)
