"""Handlers of single jobs: who shares a task, who has one alone, and that none feels anything of the others."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from contextvars import ContextVar
from uuid import uuid4

import pytest
from libs.worker.tests.waiting import eventually

from penguin_worker.deadlines import Deadlines
from penguin_worker.jobs import Done, Job, Outcome, Retry, Snooze, Verdict
from penguin_worker.kinds import One
from penguin_worker.leasing import said_of
from penguin_worker.running import Runner, Single

left_behind: ContextVar[object] = ContextVar("left_behind", default="nothing")


class Side:
    """A runner of one kind, and what became of its jobs, in that order."""

    def __init__(self, one: One, timeout_s: float | None = None) -> None:
        self.deadlines = None if timeout_s is None else Deadlines(timeout_s)
        self.runner = Runner({"noop": Single(one, self.deadlines)}, said_of)
        self.settled: dict[int, Verdict] = {}
        self.jobs: list[Job] = []

    def add(self, ids: Sequence[int]) -> list[Job]:
        jobs = [
            Job(
                n, uuid4(), "noop", {}, 3, time.monotonic() + 30, on_settled=lambda j, v: self.settled.update({j.id: v})
            )
            for n in ids
        ]
        self.jobs += jobs
        self.runner.add(jobs)
        return jobs

    async def all(self, count: int) -> list[str]:
        """The errors of so many, in the order of their ids; done is empty."""
        await eventually(lambda: len(self.settled) == count, 5)
        await eventually(lambda: not self.runner.tasks, 5)
        return [verdict.error if (verdict := self.settled[n]) else "" for n in sorted(self.settled)]


async def test_those_that_do_not_wait_share_a_task_and_one_that_waits_has_its_own() -> None:
    tasks: list[asyncio.Task[object] | None] = []

    async def handle(job: Job) -> None:
        tasks.append(asyncio.current_task())
        if job.id == 3:
            await asyncio.sleep(0.01)
            assert asyncio.current_task() is tasks[2]

    side = Side(handle)
    side.add(range(1, 6))
    assert tasks == []
    assert await side.all(5) == [""] * 5
    # Nobody else is given the third one's task once it has waited.
    assert tasks[0] is tasks[1] is tasks[2]
    assert tasks[3] is tasks[4] is not tasks[2]
    # It was the last to end.
    assert list(side.settled) == [1, 2, 4, 5, 3]


async def test_what_is_returned_is_the_result_whether_it_was_waited_for_or_not() -> None:
    async def handle(job: Job) -> Outcome:
        if job.id % 2:
            await asyncio.sleep(0)
        return f"reports/{job.id}" if job.id < 3 else Done(f"reports/{job.id}")

    side = Side(handle)
    jobs = side.add([1, 2, 3, 4])
    await side.all(4)
    assert [job.result for job in jobs] == [f"reports/{n}" for n in range(1, 5)]


async def test_handlers_that_wait_are_all_at_work_at_once() -> None:
    gate, begun = asyncio.Event(), list[int]()

    async def handle(job: Job) -> None:
        begun.append(job.id)
        await gate.wait()

    side = Side(handle)
    side.add(range(500))
    # Each that waits calls two more: it takes no more rounds than that.
    for _ in range(12):
        await asyncio.sleep(0)
    assert begun == list(range(500))
    assert all(job.cancel is not None for job in side.jobs)
    gate.set()
    assert await side.all(500) == [""] * 500
    assert all(job.cancel is None for job in side.jobs)


@pytest.mark.parametrize("waits", [False, True])
async def test_a_time_out_of_a_handlers_own_ends_nobody_else(waits: bool) -> None:
    async def handle(job: Job) -> None:
        if waits:
            await asyncio.sleep(0)
        if job.id == 2:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.01):
                    await asyncio.sleep(30)
            raise Snooze("slow", 1)

    side = Side(handle)
    side.add([1, 2, 3])
    assert await side.all(3) == ["", "slow", ""]


@pytest.mark.parametrize("waits", [False, True])
async def test_what_a_handler_leaves_in_its_context_is_seen_by_no_other(waits: bool) -> None:
    seen: list[object] = []

    class Sulking:
        def __eq__(self, _: object) -> bool:
            raise ValueError("no comparison")

        __hash__ = None  # type: ignore[assignment]

    async def handle(job: Job) -> None:
        seen.append(left_behind.get())
        mine = Sulking() if job.id == 2 else object()
        left_behind.set(mine)
        if waits:
            await asyncio.sleep(0)
            assert left_behind.get() is mine

    left_behind.set("something")
    side = Side(handle)
    side.add([1, 2, 3])
    assert await side.all(3) == [""] * 3
    assert seen == ["something"] * 3


async def test_a_handler_that_cancels_itself_cancels_nobody_else() -> None:
    async def handle(job: Job) -> None:
        task = asyncio.current_task()
        assert task is not None
        if job.id == 1:
            task.cancel()
        if job.id == 2:
            # Not from outside: something that it awaits was cancelled.
            raise asyncio.CancelledError
        if job.id == 3:
            await asyncio.sleep(0)
            given_up = asyncio.get_running_loop().create_future()
            given_up.cancel()
            await given_up
        await asyncio.sleep(0) if job.id == 4 else None

    side = Side(handle)
    side.add([1, 2, 3, 4])
    assert await side.all(4) == ["", "defect.CancelledError", "defect.CancelledError", ""]


@pytest.mark.parametrize("waits", [False, True])
async def test_a_defect_costs_its_own_job_an_attempt(waits: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def handle(job: Job) -> None:
        if waits:
            await asyncio.sleep(0)
        if job.id == 1:
            raise KeyError("x")
        if job.id == 2:
            raise BaseExceptionGroup("several", [asyncio.CancelledError()])
        if job.id == 3:
            raise Retry("smtp.451")

    side = Side(handle)
    side.add([1, 2, 3, 4])
    assert await side.all(4) == ["defect.KeyError", "defect.BaseExceptionGroup", "smtp.451", ""]
    assert len([record for record in caplog.records if record.exc_info]) == 2


class Unfinished(Retry):
    """A verdict whose class forgets to make it one."""

    def __init__(self) -> None:
        pass


@pytest.mark.parametrize("waits", [False, True])
async def test_a_verdict_that_says_nothing_fails_its_job_and_those_behind_it_are_run(waits: bool) -> None:
    async def handle(job: Job) -> None:
        if waits:
            await asyncio.sleep(0)
        if job.id == 1:
            raise Unfinished
        if job.id == 2:
            raise Retry(ValueError("ada@example.com"))  # type: ignore[arg-type]

    side = Side(handle, timeout_s=5.0)
    side.add(range(1, 21))
    assert await side.all(20) == ["defect.Unfinished", "ValueError"] + [""] * 18
    assert side.deadlines is not None
    assert len(side.deadlines) == 0


async def test_jobs_are_run_whatever_befalls_who_is_told_of_the_one_before() -> None:
    def deaf(_: Job, verdict: Verdict) -> None:
        raise ConnectionError

    async def handle(job: Job) -> None:
        if job.id < 3:
            raise Retry("smtp.451")

    side = Side(handle)
    first = [Job(n, uuid4(), "noop", {}, 3, time.monotonic() + 30, on_settled=deaf) for n in (1, 2)]
    side.runner.add(first)
    side.add([3, 4])
    assert await side.all(2) == ["", ""]
    assert all(job.begun for job in first)


async def test_a_handler_that_ends_its_own_task_fails_its_job() -> None:
    async def handle(job: Job) -> None:
        if job.id == 1:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(1)

    side = Side(handle)
    side.add([1, 2])
    assert await side.all(2) == ["defect.CancelledError", ""]


async def test_a_job_that_is_settled_before_its_turn_is_not_begun() -> None:
    begun: list[int] = []

    async def handle(job: Job) -> None:
        begun.append(job.id)
        if job.id == 1:
            side.jobs[1].settle(Retry("lost"))

    side = Side(handle)
    side.add([1, 2, 3])
    assert await side.all(3) == ["", "lost", ""]
    assert begun == [1, 3]
    assert not side.jobs[1].begun


async def test_a_waiting_handler_is_cancelled_alone() -> None:
    ended: list[int] = []

    async def handle(job: Job) -> None:
        try:
            await asyncio.sleep(0.05 if job.id == 2 else 0)
        finally:
            ended.append(job.id)

    side = Side(handle)
    _, second, _ = side.add([1, 2, 3])
    await eventually(lambda: len(ended) == 2)
    assert second.cancel is not None
    second.cancel()
    second.settle(Snooze("cancelled", 0))
    assert await side.all(3) == ["", "cancelled", ""]
    assert ended == [1, 3, 2]


async def test_at_the_end_those_at_work_are_cancelled_and_no_other_is_begun() -> None:
    begun: list[int] = []

    async def handle(job: Job) -> None:
        begun.append(job.id)
        await asyncio.sleep(30)

    side = Side(handle)
    side.add(range(100))
    await asyncio.sleep(0)
    side.runner.forget()
    for task in side.runner.tasks:
        task.cancel()
    await asyncio.wait(side.runner.tasks, timeout=5)
    assert not side.runner.tasks
    assert 0 < len(begun) < 100
    # What is to be said of them is for whoever ends us.
    assert side.settled == {}


async def test_jobs_that_do_not_wait_leave_the_event_loop_to_others_in_between() -> None:
    async def handle(_: Job) -> None:
        time.sleep(0.002)  # noqa: ASYNC251 - what is tried

    side, turns = Side(handle), 0
    side.add(range(100))
    while len(side.settled) < 100:
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 5


async def test_time_outs_go_by_the_handlers_beginning_and_end_those_that_wait() -> None:
    async def handle(job: Job) -> None:
        if job.id == 1:
            # Never waits: there is nothing to be ended.
            time.sleep(0.35)  # noqa: ASYNC251 - what is tried
        elif job.id == 2:
            time.sleep(0.35)  # noqa: ASYNC251 - as above
            await asyncio.sleep(30)
        elif job.id == 3:
            await asyncio.sleep(0)
        elif job.id == 4:
            try:
                await asyncio.sleep(30)
            finally:
                await asyncio.sleep(0.01)
        elif job.id == 5:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(30)
        elif job.id == 6:
            raise TimeoutError
        elif job.id == 7:
            job.settle()
            await asyncio.sleep(30)

    side = Side(handle, timeout_s=0.3)
    side.add(range(1, 8))
    assert await side.all(7) == ["", "timeout", "", "timeout", "", "defect.TimeoutError", ""]
    assert side.deadlines is not None
    assert len(side.deadlines) == 0


class Guest:
    def __init__(self, name: str, told: list[str]) -> None:
        self._name, self._told = name, told

    def expire(self) -> None:
        self._told.append(self._name)


async def test_deadlines_tell_those_that_are_still_here_in_their_order() -> None:
    told: list[str] = []
    deadlines, now = Deadlines(0.05), time.monotonic()
    early, gone, late = (Guest(name, told) for name in ("early", "gone", "late"))
    deadlines.add(early, now - 0.02)
    deadlines.add(gone, now)
    deadlines.add(late, now + 0.05)
    deadlines.discard(gone)
    await eventually(lambda: bool(told), 1)
    assert (told, len(deadlines)) == (["early"], 1)
    await eventually(lambda: len(told) == 2, 1)
    assert time.monotonic() >= now + 0.099
    assert told == ["early", "late"]
    # The timer is set anew for who comes after all have gone.
    deadlines.add(gone, time.monotonic())
    await eventually(lambda: told == ["early", "late", "gone"], 1)
