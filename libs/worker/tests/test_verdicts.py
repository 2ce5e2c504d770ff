"""Handlers that slip in what they say, or say nothing: what becomes of their jobs, and of those beside them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest
from libs.worker.tests.conftest import Configure
from libs.worker.tests.handlers import TENANT, all_are, put
from libs.worker.tests.waiting import at_work, eventually

from penguin_orchestrator.clients import Tier
from penguin_testkit.peers import Peers
from penguin_worker.jobs import Away, Job, Retry, Snooze
from penguin_worker.kinds import Kind
from penguin_worker.threads import in_thread


async def test_a_slip_in_a_verdict_costs_its_own_job_an_attempt_and_no_other_anything(
    peers: Peers, tiers: dict[str, Tier], configure: Configure
) -> None:
    slip = Away("smtp.unreachable")
    slip.after_s = "soon"  # type: ignore[assignment]
    said = [Retry(ValueError("x")), Away("x", "5"), slip, Snooze("early", None)]  # type: ignore[arg-type]

    async def handle(job: Job) -> None:
        if (n := ids.index(job.id)) < len(said):
            raise said[n]

    ids = put(peers, "noop", 30)
    for job_id in ids[:3]:
        peers.queue.jobs[job_id].job.max_attempts = 1
    async with at_work(tiers["queue"], configure(concurrency=10), noop=Kind(handle)) as worker:
        await eventually(lambda: all_are(peers, ids[4:], "completed"))
        await eventually(lambda: worker.in_hand == 0)
    bad = [peers.queue.jobs[job_id] for job_id in ids[:4]]
    assert [each.job.last_error for each in bad] == ["ValueError", "", "defect.TypeError", ""]
    assert [each.reasons for each in bad] == [[], ["x"], [], ["early"]]


async def test_a_group_whose_handler_ends_as_cancelled_though_nobody_cancelled_it_fails(
    peers: Peers, tiers: dict[str, Tier], configure: Configure
) -> None:
    async def given_up(jobs: Sequence[Job]) -> None:
        if jobs[0].kind == "own":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(60)
        if jobs[0].kind == "several":
            raise BaseExceptionGroup("several", [asyncio.CancelledError()])
        # A fetch that several share, and that one of the others gave up.
        helper = asyncio.create_task(asyncio.sleep(60))
        asyncio.get_running_loop().call_soon(helper.cancel)
        await helper

    ids = {kind: peers.queue.put(TENANT, kind, {}, max_attempts=1) for kind in ("own", "helper", "several")}
    async with at_work(tiers["queue"], configure(), **{kind: Kind(many=given_up) for kind in ids}) as worker:
        await eventually(lambda: all_are(peers, list(ids.values()), "dead"), 5)
        await eventually(lambda: worker.in_hand == 0, 5)
    errors = {kind: peers.queue.jobs[job_id].job.last_error for kind, job_id in ids.items()}
    assert errors.pop("several") == "defect.BaseExceptionGroup"
    assert set(errors.values()) == {"defect.CancelledError"}


async def test_a_group_that_is_cancelled_at_a_stop_is_put_off_and_loses_no_attempt(
    peers: Peers, tiers: dict[str, Tier], configure: Configure
) -> None:
    begun = asyncio.Event()

    async def slow(jobs: Sequence[Job]) -> None:
        begun.set()
        await asyncio.sleep(60)

    (job_id,) = put(peers, "noop", 1)
    async with at_work(tiers["queue"], configure(drain_s=0.2), noop=Kind(many=slow)):
        await asyncio.wait_for(begun.wait(), 5)
    assert (peers.queue.state(job_id), peers.queue.jobs[job_id].job.attempts) == ("ready", 0)


async def test_a_thread_that_cannot_be_started_keeps_no_place(
    peers: Peers, tiers: dict[str, Tier], configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, left = threading.Thread.start, 2

    def fail(thread: threading.Thread) -> None:
        nonlocal left
        if left and thread.name == "job noop":
            left -= 1
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fail)
    ids = put(peers, "noop", 4)
    async with at_work(tiers["queue"], configure(), noop=Kind(in_thread(lambda _: None, threads=2))):
        await eventually(lambda: all_are(peers, ids, "completed"), 5)
    # No fault of theirs.
    kept = [peers.queue.jobs[job_id] for job_id in ids]
    assert [each.job.attempts for each in kept] == [0] * 4
    assert [reason for each in kept for reason in each.reasons] == ["threads.exhausted"] * 2
