"""Handlers by kind: what they are given, in which layers they stand, and handlers that block."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest
from libs.worker.tests.waiting import eventually
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

import penguin_worker
from penguin.queue.v1 import queue_service_pb2 as pb
from penguin_worker.jobs import Done, Job, NotDone, Progress, Reject, Retry, Snooze
from penguin_worker.kinds import Kind, Kinds, One, keeping, typed
from penguin_worker.leasing import said_of
from penguin_worker.middleware import around, tracing
from penguin_worker.running import Runner, Single
from penguin_worker.threads import ThreadEnded, in_thread
from penguin_worker.wording import words_of

PRODUCER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@dataclass(frozen=True)
class Report:
    report_id: UUID
    pages: int = 1


def job(**fields: object) -> Job:
    usual = {"id": 7, "tenant_id": uuid4(), "kind": "report.build", "payload": {}, "lease_token": 3}
    return Job(**({"lease_until": time.monotonic() + 30} | usual | fields))  # type: ignore[arg-type]


async def test_a_handler_is_given_its_payload_as_its_type() -> None:
    kinds, seen = Kinds(), list[Report]()

    @kinds.on("report.build", Report, limit=2, timeout_s=5.0)
    async def build(_: Job, report: Report) -> None:
        seen.append(report)

    kind = kinds["report.build"]
    assert (kind.limit, kind.timeout_s, kind.many) == (2, 5.0, None)
    assert kind.one is not None
    report_id = uuid4()
    await kind.one(job(payload={"report_id": str(report_id)}))
    assert seen == [Report(report_id)]
    with pytest.raises(ValueError, match="has a handler"):
        kinds.on("report.build", Report)(build)


@pytest.mark.parametrize("payload", [{}, {"report_id": "x"}, {"report_id": str(uuid4()), "pages": "many"}])
async def test_another_payload_is_a_dead_letter(payload: dict[str, str]) -> None:
    async def build(_: Job, report: Report) -> None:
        raise AssertionError(report)

    with pytest.raises(Reject, match="payload_invalid"):
        await typed(Report, build)(job(payload=payload))


@pytest.mark.parametrize("wrong", [{}, {"limit": 0}, {"timeout_s": 0.0}])
def test_a_kind_that_cannot_be_run_is_refused(wrong: dict[str, float]) -> None:
    async def one(_: Job) -> None:
        return None

    with pytest.raises(ValueError):
        Kind(one if wrong else None, **wrong)  # type: ignore[arg-type]


async def test_the_packages_example_is_a_worker() -> None:
    example = str(penguin_worker.__doc__).split("```python\n")[1].split("```")[0]
    built: list[tuple[UUID, UUID]] = []

    class Reports:
        async def build(self, report_id: UUID, *, request_id: UUID) -> None:
            built.append((report_id, request_id))

    names: dict[str, Any] = {"Report": Report, "reports": Reports(), "asyncio": asyncio}
    exec(example, names)
    each = job(payload={"report_id": str(uuid4())})
    await names["kinds"]["report.build"].one(each)
    assert built == [(UUID(each.payload["report_id"]), each.effect_key("build"))]


def test_progress_is_told_once_and_at_most_every_second() -> None:
    each = job()
    assert each.untold(0.0) is None
    each.progress(1)
    each.progress(2, 5, "x" * 300)
    told = each.untold(0.0)
    assert told == Progress(2, 5, "x" * 200)
    assert told is not None
    each.heard(told, 0.0)
    assert each.untold(5.0) is None
    each.progress(3, 5)
    assert each.untold(0.9) is None
    assert each.untold(1.0) == Progress(3, 5, "")


@pytest.mark.parametrize(("done", "note"), [(-1, "a\0b"), (2**70, "\ud800"), (0.5, "half")])
def test_progress_that_the_queue_could_not_store_harms_no_heartbeat(done: Any, note: str) -> None:
    each = job()
    each.progress(done, done, note)
    told = each.untold(0.0)
    assert told is not None
    words = pb.JobProgress(job_id=1, done=told.done, total=told.total, note=told.note)
    assert "\0" not in words.note
    assert words.done >= 0


@pytest.mark.parametrize(
    ("returned", "result"),
    [(None, ""), ("reports/7", "reports/7"), (Done("reports/7"), "reports/7"), (Done(), ""), (7, "")],
)
async def test_what_a_handler_returns_is_its_jobs_result_whatever_stands_around_it(returned: Any, result: str) -> None:
    async def build(_: Job, report: Report) -> Any:
        return returned

    async def layer(each: Job, go_on: One) -> None:
        await go_on(each)

    each = job(payload={"report_id": str(uuid4())})
    await around(keeping(typed(Report, build)), [layer])(each)
    assert each.result == result
    words = words_of([(each, None)])
    assert [(said.job_id, said.result) for said in words.results] == ([(7, result)] if result else [])
    assert list(words.completed.job_ids) == [7]


@pytest.mark.parametrize("result", ["é" * 251, "a\0b"])
def test_a_result_that_is_no_reference_is_left_out(result: str, caplog: pytest.LogCaptureFixture) -> None:
    words = words_of([(job(result=result), None)])
    assert (len(words.results), list(words.completed.job_ids)) == (0, [7])
    assert "no reference" in caplog.text


def test_a_failure_says_to_people_what_its_handler_says() -> None:
    words = words_of([(job(), Retry("smtp.451", message="m" * 1001)), (job(), Reject("x", "why")), (job(), Retry("y"))])
    assert [failure.message for failure in words.failures] == ["m" * 1000, "why", ""]


async def test_layers_stand_around_a_handler_in_their_order() -> None:
    said: list[str] = []

    def layer(name: str) -> object:
        async def middleware(each: Job, go_on: One) -> None:
            said.append(f"{name} in")
            try:
                await go_on(each)
            except NotDone as error:
                said.append(f"{name} saw {error.error}")
                raise

        return middleware

    async def handle(_: Job) -> None:
        raise Retry("smtp.451")

    with pytest.raises(Retry):
        await around(handle, [layer("outer"), layer("inner")])(job())  # type: ignore[list-item]
    assert said == ["outer in", "inner in", "inner saw smtp.451", "outer saw smtp.451"]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("penguin_worker.middleware._tracer", provider.get_tracer("test"))
    return exporter


@pytest.mark.parametrize(
    ("raised", "status"),
    [(None, StatusCode.UNSET), (Snooze("early", 1), StatusCode.UNSET), (Retry("smtp.451"), StatusCode.ERROR),
     (KeyError("ada@example.com"), StatusCode.ERROR)],
)  # fmt: skip
async def test_an_attempt_is_a_span_of_its_producers_trace(
    spans: InMemorySpanExporter, raised: Exception | None, status: StatusCode
) -> None:
    async def handle(_: Job) -> None:
        if raised:
            raise raised

    traced = around(handle, [tracing])
    for attempts in (0, 1):
        if raised is None:
            await traced(job(traceparent=PRODUCER, attempts=attempts))
        else:
            with pytest.raises(type(raised)):
                await traced(job(traceparent=PRODUCER, attempts=attempts))
    first, later = spans.get_finished_spans()
    assert first.context is not None
    assert later.context is not None
    assert f"{first.context.trace_id:032x}" == PRODUCER[3:35] != f"{later.context.trace_id:032x}"
    assert [f"{link.context.trace_id:032x}" for link in later.links] == [PRODUCER[3:35]]
    assert (first.status.status_code, later.status.status_code) == (status, status)
    assert "ada@example.com" not in first.to_json()


async def test_each_handler_is_within_its_own_span_wherever_it_waits(spans: InMemorySpanExporter) -> None:
    current: dict[int, list[int]] = {}

    async def handle(each: Job) -> None:
        current[each.id] = [trace.get_current_span().get_span_context().span_id]
        if each.id % 2:
            await asyncio.sleep(0.01)
        current[each.id].append(trace.get_current_span().get_span_context().span_id)

    settled: list[int] = []
    runner = Runner({"report.build": Single(around(handle, [tracing]))}, said_of)
    runner.add([job(id=n, traceparent=PRODUCER, on_settled=lambda each, _: settled.append(each.id)) for n in range(6)])
    await eventually(lambda: len(settled) == 6)
    of_jobs = {span.attributes["penguin.job_id"]: span for span in spans.get_finished_spans() if span.attributes}
    assert {n: [span.context.span_id] * 2 for n, span in of_jobs.items() if span.context} == current
    assert len({ids[0] for ids in current.values()}) == 6
    # Siblings: none became another one's child.
    assert {span.parent and span.parent.span_id for span in of_jobs.values()} == {int(PRODUCER[36:52], 16)}
    assert not trace.get_current_span().get_span_context().is_valid


@pytest.mark.parametrize("exports", [False, True])
async def test_what_is_not_sampled_is_not_recorded_and_its_trace_goes_on_all_the_same(
    request: pytest.FixtureRequest, exports: bool
) -> None:
    finished = request.getfixturevalue("spans").get_finished_spans if exports else tuple
    seen: list[trace.SpanContext] = []

    async def handle(_: Job) -> None:
        seen.append(trace.get_current_span().get_span_context())

    await around(handle, [tracing])(job(traceparent=f"{PRODUCER[:-2]}00"))
    assert [f"{context.trace_id:032x}" for context in seen] == [PRODUCER[3:35]]
    assert not seen[0].trace_flags.sampled
    assert not finished()


async def test_a_function_in_a_thread_blocks_nobody_and_tells_what_it_raised() -> None:
    threads: list[str] = []

    def blocking(each: Job) -> None:
        threads.append(threading.current_thread().name)
        time.sleep(0.05)
        if each.id == 8:
            raise Retry("slow_disk")
        if each.id == 9:
            sys.exit("a worker goes on")
        if each.id == 10:
            raise StopIteration

    one = in_thread(blocking)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.005)
            ticks += 1

    ticking = asyncio.create_task(tick())
    results = await asyncio.gather(*(one(job(id=n)) for n in (7, 8, 9, 10)), return_exceptions=True)
    ticking.cancel()
    assert [type(result) for result in results] == [type(None), Retry, ThreadEnded, ThreadEnded]
    assert ticks >= 2
    assert threads == ["job report.build"] * 4


async def test_threads_are_bounded_and_one_that_was_given_up_keeps_its_place() -> None:
    let_go, running, most = threading.Event(), 0, 0
    lock = threading.Lock()

    def blocking(_: Job) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        let_go.wait(10)
        with lock:
            running -= 1

    one = in_thread(blocking, threads=2)
    given_up = [asyncio.ensure_future(one(job(id=n))) for n in (1, 2)]
    await asyncio.sleep(0.05)
    for task in given_up:
        task.cancel()
    others = [asyncio.ensure_future(one(job(id=n))) for n in (3, 4)]
    await asyncio.sleep(0.05)
    assert (running, most) == (2, 2)
    let_go.set()
    await asyncio.wait_for(asyncio.gather(*others), 5)
    assert most == 2
    assert all(task.cancelled() for task in given_up)
