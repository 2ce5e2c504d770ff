"""Sends spans and metrics to a collector from background threads, bounded everywhere: a full queue drops, a hanging
collector costs nobody a deadline, and the end waits for it no longer than its limit. What is dropped is counted."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence

from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from penguin_chassis.settings import TelemetrySettings
from penguin_chassis.spans import WordlessProvider

EXPORT_TIMEOUT_S = 2
SPAN_QUEUE = 8192
METRIC_INTERVAL_MS = 5_000
SHUTDOWN_S = 2.0
# While spans are dropped the log says so once in this time (seconds).
DROPS_TOLD_EVERY_S = 5.0

log = logging.getLogger(__name__)


class CountingExporter(SpanExporter):
    """Hands spans on, and counts those that were lost: refused by the collector, or by our queue when it was full.

    The count is a metric for when the collector is back, and a line in the log for as long as it is not.
    """

    def __init__(self, exporter: SpanExporter, queue: int = SPAN_QUEUE) -> None:
        self._exporter = exporter
        self._queue = queue
        self._handed = self._taken = self._refused = self._overflow = 0
        self._told = -DROPS_TOLD_EVERY_S

    @property
    def dropped(self) -> int:
        """Spans lost since the start."""
        return self._refused + self._overflow

    def handed(self) -> None:
        """One more span was put into the queue."""
        self._handed += 1

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """As the exporter does. Never raises, for nobody would hear."""
        # What was handed in, and is neither taken nor in the queue, was dropped there.
        self._overflow = max(self._overflow, self._handed - self._taken - self._queue)
        self._taken += len(spans)
        try:
            result = self._exporter.export(spans)
        except Exception:  # noqa: BLE001 - whatever it was, these spans are lost
            result = SpanExportResult.FAILURE
        if result is not SpanExportResult.SUCCESS:
            self._refused += len(spans)
            self._tell()
        return result

    def shutdown(self) -> None:
        """End the exporter."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """As the exporter does."""
        return self._exporter.force_flush(timeout_millis)

    def observe(self, _: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
        """The count, as a metric's reader asks for it."""
        return [metrics.Observation(self.dropped)]

    def _tell(self) -> None:
        if time.monotonic() - self._told >= DROPS_TOLD_EVERY_S:
            self._told = time.monotonic()
            log.warning("the collector takes nothing: %d spans dropped since the start", self.dropped)


class CountedProcessor(BatchSpanProcessor):
    """Tells the exporter of every span that it is to get."""

    def __init__(self, exporter: CountingExporter) -> None:
        super().__init__(exporter, max_queue_size=SPAN_QUEUE, schedule_delay_millis=500, max_export_batch_size=512)
        self._counting = exporter

    def on_end(self, span: ReadableSpan) -> None:
        """Queue it."""
        if span.context is not None and span.context.trace_flags.sampled:
            self._counting.handed()
        super().on_end(span)


@contextlib.contextmanager
def exporting(settings: TelemetrySettings) -> Iterator[None]:
    """Export what is recorded inside the block to `settings.endpoint`."""
    resource = Resource.create({"service.name": settings.service_name})
    tracers = TracerProvider(resource=resource, sampler=ParentBased(TraceIdRatioBased(settings.sample_ratio)))
    spans = CountingExporter(OTLPSpanExporter(endpoint=settings.endpoint, insecure=True, timeout=EXPORT_TIMEOUT_S))
    tracers.add_span_processor(CountedProcessor(spans))
    reader = PeriodicExportingMetricReader(
        OTLPMetricExporter(endpoint=settings.endpoint, insecure=True, timeout=EXPORT_TIMEOUT_S),
        export_interval_millis=METRIC_INTERVAL_MS,
        export_timeout_millis=EXPORT_TIMEOUT_S * 1000,
    )
    meters = MeterProvider(resource=resource, metric_readers=[reader])
    meters.get_meter("penguin").create_observable_counter(
        "telemetry.spans.dropped", [spans.observe], description="Spans that never reached the collector."
    )
    trace.set_tracer_provider(WordlessProvider(tracers))
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
