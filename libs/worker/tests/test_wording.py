"""Words on jobs: one that cannot be said, or is refused, costs its own job and none beside it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

import grpc
import pytest

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin_orchestrator.errors import TierError
from penguin_worker.acknowledging import Acknowledger
from penguin_worker.jobs import UNSAID_S, Away, Job, NotDone, Reject, Release, Retry, Snooze, Verdict
from penguin_worker.standing import Standing
from penguin_worker.wording import UNSAYABLE, named, words_of


class Unfinished(Retry):
    """A verdict whose class forgets to make it one."""

    def __init__(self) -> None:
        pass


def job(job_id: int, **fields: Any) -> Job:
    return Job(job_id, uuid4(), "noop", {}, 3, time.monotonic() + 30, **fields)


def changed(verdict: NotDone, **fields: object) -> NotDone:
    vars(verdict).update(fields)
    return verdict


@pytest.mark.parametrize(
    ("verdict", "error", "message"),
    [
        (Retry("test.x", message="a\0b"), "test.x", "ab"),
        (Retry("test.\ud800", message="é\ud800"), "test.?", "é?"),
        (Reject(ValueError("ada@example.com")), "ValueError", ""),  # type: ignore[arg-type]
        (Retry(None, message=None), "unnamed", ""),  # type: ignore[arg-type]
        (Retry("test.x", "soon"), "test.x", ""),  # type: ignore[arg-type]
        (Retry("test.x", math.nan), "test.x", ""),
        (changed(Retry("test.x"), error="a\0b", message="\ud800"), "ab", "?"),
        (changed(Retry("test.x"), message=7), UNSAYABLE, ""),
        (changed(Retry("test.x"), delay_s=math.nan), UNSAYABLE, ""),
        (changed(Snooze("early", 1), delay_s="5"), UNSAYABLE, ""),
        (Unfinished(), UNSAYABLE, ""),
        (NotDone("test.x"), UNSAYABLE, ""),
    ],
)
def test_a_word_is_said_as_well_as_it_can_be_and_those_beside_it_as_they_are(
    verdict: NotDone, error: str, message: str
) -> None:
    words = words_of([(job(1), None), (job(2), verdict), (job(3), Snooze("early", 60)), (job(4), Release("x"))])
    (failure,) = words.failures
    assert (failure.lease.job_id, failure.error, failure.message) == (2, error, message)
    assert not failure.HasField("retry_delay")
    assert [(each.lease.job_id, each.delay.seconds) for each in words.snoozes] == [(3, 60)]
    assert (list(words.completed.job_ids), list(words.released.job_ids)) == ([1], [4])


def test_times_that_are_no_numbers_count_as_not_said() -> None:
    anyhow: Any = "5"
    assert (Snooze("x", anyhow).delay_s, Retry("x", anyhow).delay_s, Away("x", anyhow).after_s) == (5.0, 5.0, 5.0)
    anyhow = object()
    assert (Snooze("x", anyhow).delay_s, Retry("x", anyhow).delay_s) == (UNSAID_S, None)
    assert Away("x", anyhow).after_s is None


def test_a_result_that_is_no_text_is_left_out() -> None:
    words = words_of([(job(1, result=b"x"), None), (job(2, result="reports/2"), None)])
    assert list(words.completed.job_ids) == [1, 2]
    assert [(each.job_id, each.result) for each in words.results] == [(2, "reports/2")]


def test_a_refusal_names_a_word_by_its_field() -> None:
    words = words_of([(job(1), Retry("a")), (job(2), Retry("b")), (job(3), Snooze("c", 1)), (job(4, result="d"), None)])
    fields = ["failures[1].message", "snoozes[0]", "results[0].result", "failures[2].error", "completed.job_ids[0]", ""]
    assert [named(words, field) for field in fields] == [2, 3, 4, None, None, None]


class Queue:
    """A stream that takes what `refuse` does not refuse."""

    def __init__(self, refuse: Callable[[pb.WorkJobsRequest], TierError | None]) -> None:
        self._refuse = refuse
        self.took: list[pb.WorkJobsRequest] = []
        self.tries = 0

    async def opened(self) -> Any:
        return self

    async def say(self, words: pb.WorkJobsRequest) -> pb.WorkAnswer:
        self.tries += 1
        if (refusal := self._refuse(words)) is not None:
            raise refusal
        self.took.append(words)
        return pb.WorkAnswer()


async def told(queue: Queue, *verdicts: Verdict) -> list[Job]:
    """Says these of jobs from 1 on; the jobs that are off our hands then."""
    gone: list[Job] = []

    def off(jobs: Sequence[Job]) -> None:
        gone.extend(jobs)

    words = Acknowledger(queue.opened, Standing("queue"), off)
    for n, verdict in enumerate(verdicts, 1):
        words.say((job(n), verdict))
    await words.drain(5)
    return gone


def refusal(field: str = "", code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT) -> TierError:
    return TierError("queue", code, "INVALID_FIELD", "no", field=field)


async def test_the_word_that_is_named_is_said_without_its_texts() -> None:
    queue = Queue(lambda words: refusal("failures[1].message") if words.failures[1].message else None)
    gone = await told(queue, Retry("a", message="right"), Reject("b", message="wrong"), Snooze("c", 1), None)
    (took,) = queue.took
    assert [(each.error, each.message, each.retryable) for each in took.failures] == [
        ("a", "right", True), (UNSAYABLE, "", False)]  # fmt: skip
    assert (took.snoozes[0].reason, list(took.completed.job_ids)) == ("c", [4])
    assert (queue.tries, len(gone)) == (2, 4)


async def test_a_word_that_is_refused_without_its_texts_too_is_left_out() -> None:
    queue = Queue(lambda words: refusal("snoozes[0].delay") if words.snoozes[0].lease.job_id == 1 else None)
    gone = await told(queue, Snooze("a", 1), Snooze("b", 1), None)
    (took,) = queue.took
    assert [(each.lease.job_id, each.reason) for each in took.snoozes] == [(2, "b")]
    assert (queue.tries, len(gone)) == (3, 3)


@pytest.mark.parametrize("code", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL])
async def test_where_none_is_named_all_are_said_without_their_texts(code: grpc.StatusCode) -> None:
    queue = Queue(lambda words: refusal(code=code) if words.failures[0].message else None)
    await told(queue, Retry("a", 7.0, message="?"), Snooze("b", 60), None)
    (took,) = queue.took
    assert (took.failures[0].error, took.failures[0].retry_delay.seconds) == (UNSAYABLE, 7)
    assert (took.snoozes[0].delay.seconds, list(took.completed.job_ids)) == (60, [3])


async def test_words_that_cannot_be_told_apart_are_given_up() -> None:
    queue = Queue(lambda _: refusal())
    assert len(await told(queue, Snooze("b", 60), None)) == 2
    assert queue.tries == 2
