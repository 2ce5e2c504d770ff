"""What stands around every handler of single jobs, in layers; the first named is the outermost.

A layer gets the job and `go_on`, which calls the layer within it: once, or not at all, and then the job counts as done.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from uuid import UUID

from opentelemetry import trace
from opentelemetry.context import attach, detach
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
    def one(job: Job) -> Awaitable[None]:
        return layer(job, go_on)

    return one


async def tracing(job: Job, go_on: One) -> None:
    """A span for each attempt: the first one continues its producer's trace, a later one begins its own, linked to it."""
    parent, links = job.origin()
    span = _tracer.start_span(
        f"work {job.kind}", context=parent, links=links, kind=SpanKind.CONSUMER,
        attributes={
            "penguin.tenant_id": _text_of(job.tenant_id),
            "penguin.job_id": job.id,
            "penguin.attempt": job.attempts + 1,
        },
    )  # fmt: skip
    # By hand: the context managers for this take a third of a job's time.
    token = attach(trace.set_span_in_context(span))
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
    finally:
        detach(token)
        span.end()


@lru_cache(maxsize=1024)
def _text_of(tenant_id: UUID) -> str:
    return str(tenant_id)
