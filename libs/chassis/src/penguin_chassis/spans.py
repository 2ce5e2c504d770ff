"""Spans that keep nothing of an exception but its class. Its text may name people (a driver quotes the key that was there
already), and a collector's store knows of no erasure. Nor does a refusal cost a rendered traceback, which is milliseconds of
a process that serves others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Span, StatusCode


def _record_nothing(*_: object, **__: object) -> None:
    return None


class WordlessProvider(trace.TracerProvider):
    """Stands before another: every span of the process, a library's too, is begun through it."""

    def __init__(self, provider: trace.TracerProvider) -> None:
        self._provider = provider

    def get_tracer(self, *given: Any, **named: Any) -> trace.Tracer:
        """As the provider behind it."""
        return _WordlessTracer(self._provider.get_tracer(*given, **named))


class _WordlessTracer(trace.Tracer):
    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def start_span(self, *given: Any, **named: Any) -> Span:
        span = self._tracer.start_span(*given, **named | {"record_exception": False, "set_status_on_exception": False})
        if span.is_recording():
            # Instrumentation calls it by itself, too.
            span.record_exception = _record_nothing  # type: ignore[method-assign]
        return span

    @contextlib.contextmanager
    def start_as_current_span(  # type: ignore[override] # theirs decorates functions, too: nobody asks for that
        self, *given: Any, set_status_on_exception: bool = True, end_on_exit: bool = True, **named: Any
    ) -> Iterator[Span]:
        span = self.start_span(*given, **named)
        with trace.use_span(  # noqa: TID251 - here it is kept from doing so
            span, end_on_exit, record_exception=False, set_status_on_exception=False
        ):
            try:
                yield span
            except Exception as error:
                # What was said of it already stands.
                if set_status_on_exception and isinstance(span, ReadableSpan) and span.status.is_unset:
                    span.set_status(StatusCode.ERROR, type(error).__name__)
                raise
