"""Traces, metrics and correlated JSON logs, out of band: a dead, slow or hanging collector changes no answer.

Spans and metrics leave through bounded background exporters that drop when they are full; log lines leave through a
bounded queue. Nothing here waits for anything in a call.
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import queue
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import orjson
from opentelemetry import metrics, trace

from penguin_chassis import calls
from penguin_chassis.settings import TelemetrySettings

LOG_QUEUE = 10_000
SHUTDOWN_S = 2.0

_meter = metrics.get_meter("penguin")
_duration = _meter.create_histogram("rpc.server.duration", unit="s", description="Time in a method, by outcome.")


def record_call(method: str, outcome: str, seconds: float) -> None:
    """Count one call: never raises, never waits."""
    _duration.record(seconds, {"rpc.method": method, "outcome": outcome})


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with the trace and the tenant of the call it belongs to; no exception text."""

    def __init__(self, service_name: str) -> None:
        super().__init__()
        self._service = service_name

    def format(self, record: logging.LogRecord) -> str:
        """Render the record; unknown kinds of values are written as their names."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": _words(record),
        } | getattr(record, "correlation", {})
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = record.exc_info[0].__name__
        for key in ("places", "detail"):
            if (value := getattr(record, key, None)) is not None:
                line[key] = value
        return orjson.dumps(line, default=lambda v: type(v).__name__).decode()


def _words(record: logging.LogRecord) -> str:
    """The message. The event loop's own goes on, after its first line, with the exception's words: that part is left out."""
    words = record.getMessage()
    return words.partition("\n")[0] if record.name == "asyncio" else words


class _CorrelatedQueueHandler(logging.handlers.QueueHandler):
    """Hands records to the writer's thread with what only the caller's context knows; drops when the queue is full."""

    dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        span = trace.get_current_span().get_span_context()
        correlation: dict[str, str] = {}
        if span.is_valid:
            correlation = {"trace_id": f"{span.trace_id:032x}", "span_id": f"{span.span_id:016x}"}
        call = calls.current_call()
        if call is not None:
            correlation["method"] = call.method
            if call.caller.tenant_id is not None:
                correlation["tenant_id"] = str(call.caller.tenant_id)
        record.correlation = correlation
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            type(self).dropped += 1


class _Listener(logging.handlers.QueueListener):
    """Ends behind the lines that stand before its end; who ends it waits no longer than its limit."""

    def __init__(self, lines: queue.Queue[Any], writer: logging.Handler) -> None:
        super().__init__(lines, writer)
        self._lines = lines

    def enqueue_sentinel(self) -> None:
        self._lines.put(None)


@contextlib.contextmanager
def logs(settings: TelemetrySettings) -> Iterator[None]:
    """JSON logs on stderr, written by a thread of their own."""
    writer = logging.StreamHandler(sys.stderr)
    writer.setFormatter(JsonFormatter(settings.service_name))
    lines: queue.Queue[logging.LogRecord] = queue.Queue(LOG_QUEUE)
    listener = _Listener(lines, writer)
    handler = _CorrelatedQueueHandler(lines)
    root = logging.getLogger()
    previous, level = root.handlers[:], root.level
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    # The exporter's complaints about a dead collector would fill the log; a drop counter says the same.
    for noisy in ("opentelemetry", "grpc"):
        logging.getLogger(noisy).setLevel("CRITICAL")
    listener.start()
    try:
        yield
    finally:
        root.handlers[:] = previous
        root.setLevel(level)
        stopper = threading.Thread(target=listener.stop, daemon=True)
        stopper.start()
        stopper.join(SHUTDOWN_S)


@contextlib.contextmanager
def telemetry(settings: TelemetrySettings) -> Iterator[None]:
    """Traces and metrics to the collector, if there is one, and logs; all bounded on the way and at the end."""
    with logs(settings):
        if not settings.endpoint:
            yield
            return
        # The exporters take half a second to import: only who exports pays for them.
        from penguin_chassis.exporting import exporting

        with exporting(settings):
            yield
