"""Handlers that block: who waits for a thread is not begun, however long that takes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from libs.worker.tests.conftest import Configure
from libs.worker.tests.handlers import all_are, put
from libs.worker.tests.test_running import Side
from libs.worker.tests.waiting import at_work, eventually

from penguin_orchestrator.clients import Tier
from penguin_testkit.peers import Peers
from penguin_worker import threads
from penguin_worker.jobs import Job, Outcome, Release
from penguin_worker.kinds import Kind, One
from penguin_worker.threads import in_thread


def directly(one: One) -> One:
    return one


def behind_a_wait(one: One) -> One:
    """As within a layer that has waited before, so that the job's time runs by then."""

    async def waits(job: Job) -> Outcome:
        await asyncio.sleep(0.02)
        return await one(job)

    return waits


@pytest.fixture
def let_go() -> Iterator[threading.Event]:
    """Ends what blocks, in any case with the test."""
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.parametrize("called", [directly, behind_a_wait])
async def test_waiting_for_a_thread_counts_against_no_time_out(called: Callable[[One], One]) -> None:
    done: list[int] = []

    def work(job: Job) -> None:
        done.append(job.id)
        time.sleep(0.15)

    # The last one begins after twice its time.
    side = Side(called(in_thread(work, threads=1)), timeout_s=0.3)
    side.add(range(1, 6))
    assert await side.all(5) == [""] * 5
    assert sorted(done) == [1, 2, 3, 4, 5]
    assert side.deadlines is not None
    assert not len(side.deadlines)


@pytest.mark.parametrize("called", [directly, behind_a_wait])
async def test_the_time_out_runs_from_when_there_is_a_thread(
    called: Callable[[One], One], let_go: threading.Event
) -> None:
    begun: dict[int, float] = {}

    def work(job: Job) -> None:
        begun[job.id] = time.monotonic()
        if job.id == 1:
            time.sleep(0.15)
        else:
            let_go.wait(10)

    side = Side(called(in_thread(work, threads=1)), timeout_s=0.3)
    side.add([1, 2])
    assert await side.all(2) == ["", "timeout"]
    assert 0.3 <= time.monotonic() - begun[2] < 5


async def test_who_waits_too_long_for_a_thread_is_given_back(
    let_go: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "WAIT_S", 0.1)

    def work(_: Job) -> None:
        let_go.wait(10)

    side = Side(in_thread(work, threads=1))
    side.add([1, 2])
    await eventually(lambda: 2 in side.settled, 5)
    assert isinstance(side.settled[2], Release)
    let_go.set()
    assert await side.all(2) == ["", "threads.busy"]


async def test_a_stop_gives_back_untouched_what_waits_for_a_thread(
    peers: Peers, tiers: dict[str, Tier], configure: Configure, let_go: threading.Event
) -> None:
    begun: list[int] = []

    def work(job: Job) -> None:
        begun.append(job.id)
        let_go.wait(10)

    ids = put(peers, "noop", 4)
    async with at_work(tiers["queue"], configure(drain_s=1.0), noop=Kind(in_thread(work, threads=1))) as worker:
        await eventually(lambda: len(begun) == 1 and worker.in_hand == 4)
        await eventually(lambda: len([job for job in worker._jobs() if job.cancel is not None]) == 4)
    assert all_are(peers, ids, "ready")
    told = {n: (peers.queue.jobs[n].job.snoozes, peers.queue.jobs[n].reasons) for n in ids}
    assert told.pop(begun[0]) == (1, ["worker_stopping"])
    assert list(told.values()) == [(0, [])] * 3
    # In the middle of the drain, for others to have them, and not at its end.
    released = [len(words.released.job_ids) for words in peers.queue.spoken]
    assert released.index(3) < [len(words.snoozes) for words in peers.queue.spoken].index(1)
