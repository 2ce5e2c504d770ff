"""What is exported of a call that ended in an exception: never a word of it."""

from __future__ import annotations

from uuid import uuid4

import pytest
from libs.chassis.tests.probe import Probe
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from penguin.oltp.v1 import email_service_pb2 as pb
from penguin_chassis import faults, telemetry
from penguin_chassis.settings import TelemetrySettings
from penguin_chassis.spans import WordlessProvider
from penguin_testkit.calling import Refused

SECRET = "ada@example.com"


@pytest.fixture
def exported() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(exported: InMemorySpanExporter) -> WordlessProvider:
    real = TracerProvider()
    real.add_span_processor(SimpleSpanProcessor(exported))
    return WordlessProvider(real)


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch, provider: WordlessProvider) -> None:
    """Before the server is: it asks once for its tracer."""
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)


async def refuse(*_: object) -> None:
    """As a store does where its driver has quoted the key that was there already."""
    try:
        raise ValueError(f"Key (email)=({SECRET}) already exists.")
    except ValueError:
        raise faults.AlreadyExists("an email") from None


async def break_off(*_: object) -> None:
    raise ValueError(SECRET)


@pytest.mark.parametrize(("act", "code"), [(refuse, 6), (break_off, 13)])
async def test_no_span_of_a_server_says_what_an_exception_said(
    everywhere: None, probe: Probe, exported: InMemorySpanExporter, act: object, code: int
) -> None:
    probe.emails.act = act  # type: ignore[assignment]
    with pytest.raises(Refused):
        await probe.client.call(probe.stub.GetEmail, pb.GetEmailRequest(tenant_id=str(uuid4()), email_id=str(uuid4())))
    # The client has its answer before the span ends.
    await probe.drain()
    (span,) = exported.get_finished_spans()
    assert span.attributes is not None
    assert span.attributes["rpc.grpc.status_code"] == code
    assert not span.events
    assert SECRET not in span.to_json()


@pytest.mark.parametrize("said", [None, "smtp.451"])
def test_a_span_keeps_an_exceptions_class_or_what_was_said_of_it(
    provider: WordlessProvider, exported: InMemorySpanExporter, said: str | None
) -> None:
    tracer = provider.get_tracer("test")

    def one() -> None:
        with tracer.start_as_current_span("one") as span:
            assert trace.get_current_span() is span
            if said:
                span.set_status(StatusCode.ERROR, said)
            span.record_exception(KeyError(SECRET))
            raise KeyError(SECRET)

    def two() -> None:
        with tracer.start_span("two") as span:
            span.add_event("kept")
            raise KeyError(SECRET)

    for act in (one, two):
        with pytest.raises(KeyError):
            act()
    first, second = exported.get_finished_spans()
    assert (first.status.status_code, first.status.description, first.events) == (
        StatusCode.ERROR,
        said or "KeyError",
        (),
    )
    assert [event.name for event in second.events] == ["kept"]
    assert SECRET not in first.to_json() + second.to_json()
    assert not trace.get_current_span().is_recording()


def test_what_a_process_exports_is_wordless(monkeypatch: pytest.MonkeyPatch) -> None:
    providers: list[object] = []
    monkeypatch.setattr(trace, "set_tracer_provider", providers.append)
    monkeypatch.setattr("opentelemetry.metrics.set_meter_provider", lambda _: None)
    with telemetry.telemetry(TelemetrySettings("test", "http://127.0.0.1:9")):
        assert [type(each) for each in providers] == [WordlessProvider]
