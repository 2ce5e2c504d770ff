"""Telemetry is out of band: a collector that is dead or hangs costs no call anything, and logs never say what errors say."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import queue
import socket
import statistics
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from libs.chassis.tests.probe import Probe
from opentelemetry.metrics import CallbackOptions
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from penguin.oltp.v1 import email_service_pb2 as pb
from penguin_chassis import calls, telemetry
from penguin_chassis.calls import Call, Caller
from penguin_chassis.exporting import CountingExporter
from penguin_chassis.settings import TelemetrySettings
from penguin_chassis.telemetry import JsonFormatter, logs

TENANT = UUID(int=7)


@contextlib.contextmanager
def hanging_collector() -> Iterator[str]:
    """Accepts connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def lines_of(capfd: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]


def test_a_log_line_is_json_with_its_trace_and_tenant(capfd: pytest.CaptureFixture[str]) -> None:
    tracer = TracerProvider().get_tracer("test")
    call = Call("/a.B/C", Caller("test", TENANT, frozenset()), time.monotonic() + 9)
    with logs(TelemetrySettings("oltp", log_level="INFO")):
        token = calls.enter(call)
        with tracer.start_as_current_span("span") as span:
            logging.getLogger("some.where").info("moved %d rows\nat once", 7)
        calls.leave(token)
        logging.getLogger("some.where").debug("too quiet")
        logging.getLogger("some.where").warning("outside", extra={"detail": {"id": uuid4()}})
    first, second = lines_of(capfd)
    context = span.get_span_context()
    assert first == {
        "time": first["time"], "level": "info", "service": "oltp", "logger": "some.where",
        "message": "moved 7 rows\nat once", "method": "/a.B/C", "tenant_id": str(TENANT),
        "trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}",
    }  # fmt: skip
    assert "trace_id" not in second
    assert "tenant_id" not in second
    assert second["level"] == "warning"


def test_no_line_says_what_an_exception_said(capfd: pytest.CaptureFixture[str]) -> None:
    async def leave_a_failure_behind() -> None:
        async def fail() -> None:
            raise ValueError("the secret of ada@example.com")

        task = asyncio.create_task(fail())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        del task

    with logs(TelemetrySettings("oltp")):
        try:
            raise ValueError("the secret of ada@example.com")
        except ValueError:
            logging.getLogger("any").exception("it failed")
        asyncio.run(leave_a_failure_behind())
    said = lines_of(capfd)
    assert [(line["message"], line.get("exception")) for line in said] == [
        ("it failed", "ValueError"),
        ("Task exception was never retrieved", "ValueError"),
    ]
    assert "secret" not in json.dumps(said)


def test_a_full_queue_drops_and_blocks_nobody(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    lines: queue.Queue[logging.LogRecord] = queue.Queue(5)
    handler = telemetry._CorrelatedQueueHandler(lines)
    before = telemetry._CorrelatedQueueHandler.dropped
    logger = logging.getLogger("full")
    logger.propagate = False
    logger.addHandler(handler)
    started = time.perf_counter()
    for _ in range(1000):
        logger.warning("line")
    assert time.perf_counter() - started < 1.0
    assert lines.qsize() == 5
    assert telemetry._CorrelatedQueueHandler.dropped - before == 995
    logger.removeHandler(handler)


def test_a_log_that_nobody_reads_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer stands in a write that never ends, behind a queue that is full."""
    monkeypatch.setattr(telemetry, "LOG_QUEUE", 10)
    monkeypatch.setattr(telemetry, "SHUTDOWN_S", 0.3)
    reading, writing = os.pipe()
    stalled = os.fdopen(writing, "w", buffering=1)
    monkeypatch.setattr(sys, "stderr", stalled)
    try:
        with logs(TelemetrySettings("oltp")):
            started = time.monotonic()
            for _ in range(200):
                logging.getLogger("any").warning("x" * 20_000)
            assert time.monotonic() - started < 2
        assert time.monotonic() - started < 3
    finally:
        monkeypatch.undo()
        with os.fdopen(reading, "rb") as drain:
            stop = time.monotonic() + 5
            os.set_blocking(reading, False)
            while time.monotonic() < stop and drain.read() is not None:
                time.sleep(0.01)
        with contextlib.suppress(OSError):
            stalled.close()


def test_values_that_json_does_not_know_are_written_by_their_names() -> None:
    record = logging.LogRecord("l", logging.INFO, "f", 1, "m", None, None)
    record.detail = {"odd": object()}
    assert json.loads(JsonFormatter("s").format(record))["detail"] == {"odd": "object"}


# Run apart: what a process exports to is set once for its life.
_CALLING = """
import asyncio, statistics, sys, time
from pathlib import Path
from uuid import uuid4
import pytest
from penguin_chassis.settings import TelemetrySettings
from penguin_chassis.telemetry import telemetry
from penguin_testkit.tokens import TokenFactory
from libs.chassis.tests.probe import probing
from penguin.oltp.v1 import email_service_pb2 as pb

async def measure(folder, count):
    tenant = uuid4()
    async with probing(TokenFactory(Path(folder)), pytest.MonkeyPatch()) as probe:
        request = pb.GetEmailRequest(tenant_id=str(tenant), email_id=str(uuid4()))
        taken = []
        for _ in range(count):
            started = time.perf_counter()
            await probe.client.call(probe.stub.GetEmail, request)
            taken.append(time.perf_counter() - started)
        return statistics.median(taken), max(taken)

folder, endpoint, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
without, _ = asyncio.run(measure(folder, count))
with telemetry(TelemetrySettings("test", endpoint)):
    median, worst = asyncio.run(measure(folder, count))
    ended = time.monotonic()
print(without, median, worst, time.monotonic() - ended, time.time())
"""


def start(folder: Path, endpoint: str) -> subprocess.Popen[str]:
    """A process that serves, calls itself and exports to `endpoint`."""
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(_CALLING), str(folder), endpoint, "200"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def figures_of(process: subprocess.Popen[str]) -> tuple[float, ...]:
    """What it said once it has ended, and when that was."""
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return (*map(float, said.split()), time.time())


def test_a_collector_that_does_not_answer_costs_no_call_anything(tmp_path_factory: pytest.TempPathFactory) -> None:
    with hanging_collector() as hanging:
        started = [start(tmp_path_factory.mktemp("keys"), endpoint) for endpoint in (hanging, "http://127.0.0.1:9", "")]
        # Each is waited for by itself: the end of one must not be taken for that of another.
        with ThreadPoolExecutor(len(started)) as waiting:
            figures = list(waiting.map(figures_of, started))
    for without, median, worst, shutdown, at, ended in figures:
        # Two seconds is the exporter's time-out; what it costs to the microsecond is for the benches.
        assert median < without * 3 + 0.1
        assert worst < 1.9
        # Its own patience with the collector is seconds; a minute would be the exporter's.
        assert shutdown < 20.0
        assert ended - at < 20.0


async def test_a_call_is_counted_by_its_outcome(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[tuple[str, str]] = []
    monkeypatch.setattr(telemetry, "record_call", lambda method, outcome, seconds: counted.append((method, outcome)))
    request = pb.GetEmailRequest(tenant_id=str(TENANT), email_id=str(uuid4()))

    async def sleep(request: object, context: object) -> None:
        await asyncio.sleep(30)

    await probe.client.call(probe.stub.GetEmail, request)
    with pytest.raises(Exception, match="INVALID_ARGUMENT"):
        await probe.client.call(probe.stub.GetEmail, pb.GetEmailRequest(tenant_id=str(TENANT)))
    probe.emails.act = sleep
    call = asyncio.create_task(probe.client.call(probe.stub.GetEmail, request))
    await asyncio.sleep(0.1)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await asyncio.sleep(0.1)
    path = "/penguin.oltp.v1.EmailService/GetEmail"
    assert counted == [(path, "OK"), (path, "InvalidArgument"), (path, "CANCELLED")]


def test_logging_is_cheap_enough_to_be_left_on() -> None:
    with logs(TelemetrySettings("oltp")):
        logger, taken = logging.getLogger("cheap"), []
        for _ in range(200):
            started = time.perf_counter()
            logger.info("line")
            taken.append(time.perf_counter() - started)
    assert statistics.median(taken) < 0.002


class _Collector(SpanExporter):
    """Takes what it is given, or nothing, or falls over."""

    def __init__(self) -> None:
        self.result: SpanExportResult | None = SpanExportResult.SUCCESS

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self.result is None:
            raise ConnectionError
        return self.result


def test_what_a_collector_does_not_take_is_counted_and_said_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    collector = _Collector()
    exporter = CountingExporter(collector)
    span = TracerProvider().get_tracer("test").start_span("lost")
    assert isinstance(span, ReadableSpan)
    for result in (SpanExportResult.SUCCESS, SpanExportResult.FAILURE, None):
        collector.result = result
        exporter.export([span, span])
    assert exporter.dropped == 4
    assert [observed.value for observed in exporter.observe(CallbackOptions())] == [4]
    assert [record.getMessage() for record in caplog.records] == [
        "the collector takes nothing: 2 spans dropped since the start"
    ]


def test_what_a_full_queue_drops_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    exporter = CountingExporter(_Collector(), queue=10)
    span = TracerProvider().get_tracer("test").start_span("lost")
    assert isinstance(span, ReadableSpan)
    for _ in range(13):
        exporter.handed()
    exporter.export([span] * 4)
    assert exporter.dropped == 3
    # From here on the queue keeps up: nothing more is lost.
    exporter.export([span] * 6)
    assert exporter.dropped == 3
