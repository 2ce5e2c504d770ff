"""What stands around every handler of single jobs, in layers; the first named is the outermost.

A layer gets the job and `go_on`, which calls the layer within it: once, or not at all, and then the job counts as done.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from penguin_worker.jobs import Job, NotDone, Reject, Retry
from penguin_worker.kinds import One

Middleware = Callable[[Job, One], Awaitable[None]]
_tracer = trace.get_tracer("penguin.worker")


def around(one: One, layers: Sequence[Middleware]) -> One:
    """A handler within its layers."""
    for layer in reversed(layers):
        one = _within(layer, one)
    return one


def _within(layer: Middleware, go_on: One) -> One:
    async def one(job: Job) -> None:
        await layer(job, go_on)

    return one


async def tracing(job: Job, go_on: One) -> None:
    """A span for each attempt: the first one continues its producer's trace, a later one begins its own, linked to it."""
    parent, links = job.origin()
    with _tracer.start_as_current_span(
        f"work {job.kind}", context=parent, links=links, kind=SpanKind.CONSUMER, record_exception=False,
        set_status_on_exception=False,
    ) as span:  # fmt: skip
        span.set_attribute("penguin.tenant_id", str(job.tenant_id))
        span.set_attribute("penguin.job_id", job.id)
        span.set_attribute("penguin.attempt", job.attempts + 1)
        try:
            await go_on(job)
        except NotDone as error:
            span.set_attribute("penguin.verdict", type(error).__name__.lower())
            if isinstance(error, Retry | Reject):
                span.set_status(StatusCode.ERROR, error.error)
            raise
        except BaseException as error:
            # The class alone: an exception's text may name people.
            span.set_status(StatusCode.ERROR, type(error).__name__)
            raise
