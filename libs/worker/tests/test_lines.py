"""A worker's streams against the fake queue: opened anew, narrowed and widened, and words that are said until answered."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from libs.worker.tests.conftest import Configure
from libs.worker.tests.handlers import Gate, all_are, nothing, put
from libs.worker.tests.waiting import at_work, eventually

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import TierError
from penguin_testkit.peers import Peers
from penguin_worker import lines
from penguin_worker.jobs import Job, Snooze
from penguin_worker.kinds import Kind
from penguin_worker.streaming import WorkStream


def start(kind: str = "noop", places: int = 10) -> pb.WorkStart:
    asked = pb.WorkStart(kinds=[kind], max_in_flight=places, worker_id="test")
    asked.lease_duration.FromSeconds(5)
    return asked


async def test_words_are_answered_by_their_numbers(peers: Peers, tiers: dict[str, Tier]) -> None:
    ids = put(peers, "noop", 3)
    async with WorkStream.opened(tiers["queue"], start()) as stream:
        lots: asyncio.Queue[pb.LeasedJobs] = asyncio.Queue()
        reading = asyncio.create_task(_read(stream, lots))
        lot = await asyncio.wait_for(lots.get(), 5)
        assert list(lot.job_ids) == ids
        words = [
            pb.WorkJobsRequest(completed=pb.Leases(job_ids=[each], lease_tokens=[lot.lease_token])) for each in ids
        ]
        lost = pb.WorkJobsRequest(released=pb.Leases(job_ids=[ids[0]], lease_tokens=[lot.lease_token]))
        answers = await asyncio.gather(*(stream.say(each) for each in words))
        assert [answer.completed for answer in answers] == [1, 1, 1]
        assert list((await stream.say(lost)).lost_job_ids) == [ids[0]]
        await stream.finish()
        await asyncio.wait_for(reading, 5)
        with pytest.raises(TierError):
            await stream.say(lost)


async def _read(stream: WorkStream, lots: asyncio.Queue[pb.LeasedJobs]) -> None:
    async for lot in stream.lots():
        lots.put_nowait(lot)


async def test_a_stream_that_is_refused_says_why(peers: Peers, tiers: dict[str, Tier]) -> None:
    peers.queue.switch.down = True
    with pytest.raises(TierError) as refused:
        async with WorkStream.opened(tiers["queue"], start()):
            pass
    assert refused.value.code is grpc.StatusCode.UNAVAILABLE
    assert refused.value.reason == "UNREACHABLE"


async def test_words_without_an_answer_break_the_stream(
    peers: Peers, tiers: dict[str, Tier], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penguin_worker.streaming.ANSWER_S", 0.1)
    peers.queue.switch.deaf = {"WorkJobs"}
    async with WorkStream.opened(tiers["queue"], start()) as stream:
        reading = asyncio.create_task(_read(stream, asyncio.Queue()))
        with pytest.raises(TierError) as unanswered:
            await stream.say(pb.WorkJobsRequest())
        assert unanswered.value.outcome_unknown
        with pytest.raises(TierError):
            await asyncio.wait_for(reading, 5)


async def test_jobs_outlive_their_stream_and_are_spoken_of_on_the_next(
    peers: Peers, tiers: dict[str, Tier], configure: Configure
) -> None:
    gate, ids = Gate(), put(peers, "noop", 4)
    peers.queue.life_s = 0.3
    async with at_work(tiers["queue"], configure(), noop=Kind(gate.handle)):
        await eventually(lambda: len(peers.queue.started) > 3)
        assert sorted(gate.begun) == ids
        gate.open.set()
        await eventually(lambda: all_are(peers, ids, "completed"))
    assert sorted(gate.begun) == ids
    assert [peers.queue.jobs[each].job.lost_leases for each in ids] == [0] * 4


async def test_a_stream_is_left_in_order_before_its_life_is_over(
    peers: Peers, tiers: dict[str, Tier], configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "LIFE_S", 0.3)
    monkeypatch.setattr(lines, "FINISH_S", 0.2)
    ids = []
    async with at_work(tiers["queue"], configure(), noop=Kind(nothing)):
        while len(peers.queue.started) < 4:
            ids += put(peers, "noop", 5)
            await asyncio.sleep(0.01)
        await eventually(lambda: all_are(peers, ids, "completed"))
    # What was leased while a stream was being left was worked on all the same.
    assert sum(peers.queue.jobs[each].job.lost_leases for each in ids) == 0


async def test_words_are_said_until_they_are_answered(
    peers: Peers, tiers: dict[str, Tier], configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penguin_worker.streaming.ANSWER_S", 0.2)
    peers.queue.switch.deaf = {"WorkJobs"}
    (job_id,) = put(peers, "noop", 1)
    async with at_work(tiers["queue"], configure(), noop=Kind(nothing)) as worker:
        await eventually(lambda: len(peers.queue.spoken) > 1)
        assert worker.in_hand == 1
        peers.queue.switch.deaf = set()
        await eventually(lambda: worker.in_hand == 0)
    assert peers.queue.state(job_id) == "completed"
    assert len([words for words in peers.queue.spoken if words.completed.job_ids]) > 2


async def test_jobs_in_hand_go_on_while_the_queue_is_away(
    peers: Peers, tiers: dict[str, Tier], configure: Configure
) -> None:
    gate, ids = Gate(), put(peers, "noop", 3)
    async with at_work(tiers["queue"], configure(lease_s=10.0), noop=Kind(gate.handle)) as worker:
        await eventually(lambda: len(gate.begun) == 3)
        peers.queue.switch.down = True
        gate.open.set()
        await asyncio.sleep(1.0)
        assert worker.in_hand == 3
        peers.queue.switch.down = False
        await eventually(lambda: all_are(peers, ids, "completed"))
    assert sorted(gate.begun) == ids


async def test_words_are_given_up_with_their_leases(peers: Peers, tiers: dict[str, Tier], configure: Configure) -> None:
    put(peers, "noop", 1)
    gate = Gate()
    async with at_work(tiers["queue"], configure(lease_s=1.0), noop=Kind(gate.handle)) as worker:
        await eventually(lambda: len(gate.begun) == 1)
        peers.queue.switch.down = True
        gate.open.set()
        await eventually(lambda: worker.in_hand == 0, 5)
        peers.queue.switch.down = False
        # It comes back as every job of a lost lease does.
        await eventually(lambda: len(gate.begun) == 2)


async def test_jobs_in_hand_are_bounded_however_often_the_stream_breaks(
    peers: Peers, tiers: dict[str, Tier], configure: Configure
) -> None:
    gate, ids = Gate(), put(peers, "noop", 40)
    peers.queue.life_s = 0.2
    async with at_work(tiers["queue"], configure(concurrency=8), noop=Kind(gate.handle)) as worker:
        await eventually(lambda: len(peers.queue.started) > 3)
        assert worker.in_hand == gate.most == 8
        peers.queue.life_s = 300.0
        gate.open.set()
        await eventually(lambda: all_are(peers, ids, "completed"))
    assert gate.most <= 8


async def test_a_job_that_comes_again_before_its_word_is_answered_keeps_its_new_lease(
    peers: Peers, tiers: dict[str, Tier], configure: Configure
) -> None:
    gate, tries = Gate(), 0

    async def again(job: Job) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            peers.queue.switch.deaf = {"WorkJobs"}
            raise Snooze("again", 0)
        await gate.handle(job)

    (job_id,) = put(peers, "noop", 1)
    async with at_work(tiers["queue"], configure(lease_s=1.0), noop=Kind(again)) as worker:
        await eventually(lambda: len(gate.begun) == 1)
        assert worker.in_hand == 2
        before = peers.queue.switch.calls["ExtendLeases"]
        await eventually(lambda: peers.queue.switch.calls["ExtendLeases"] > before + 1)
        peers.queue.switch.deaf = set()
        gate.open.set()
        await eventually(lambda: peers.queue.state(job_id) == "completed")
    assert tries == 2


async def test_a_stop_waits_for_what_is_on_its_way(peers: Peers, tiers: dict[str, Tier], configure: Configure) -> None:
    for _ in range(5):
        ids = put(peers, "noop", 20)
        async with at_work(tiers["queue"], configure(), noop=Kind(nothing)):
            await eventually(lambda: bool(peers.queue.started))
            peers.queue.started.clear()
        # Done or given back, at once: none is left to its lease.
        assert {peers.queue.state(each) for each in ids} <= {"completed", "ready"}
    assert all(stored.job.lost_leases == 0 for stored in peers.queue.jobs.values())


async def test_a_narrow_stream_is_widened_when_places_come_free(
    peers: Peers, tiers: dict[str, Tier], configure: Configure
) -> None:
    gate = Gate()
    put(peers, "noop", 8)
    async with at_work(tiers["queue"], configure(concurrency=8), noop=Kind(gate.handle)) as worker:
        await eventually(lambda: len(gate.begun) == 8)
        peers.queue.switch.down = True
        await asyncio.sleep(0.1)
        peers.queue.switch.down = False
        await eventually(lambda: list(peers.queue.started[-1].kinds) == [lines.NOTHING])
        gate.open.set()
        await eventually(lambda: peers.queue.started[-1].max_in_flight == 8)
        await eventually(lambda: worker.in_hand == 0)


async def test_a_worker_moves_on_from_a_process_that_drains_without_losing_a_word(
    peers: Peers, tiers: dict[str, Tier], configure: Configure
) -> None:
    gate, idle, begun = Gate(), Gate(), put(peers, "noop", 2)
    kinds = {"noop": Kind(gate.handle, limit=2), "idle": Kind(idle.handle)}
    idle.open.set()
    async with at_work(tiers["queue"], configure(), **kinds):
        await eventually(lambda: len(gate.begun) == 2 and len(peers.queue.started) == 2)
        peers.queue.drained = 2
        # Neither has anything to say: one has its places full, and the other nothing in hand.
        await eventually(lambda: len(peers.queue.started) >= 4, 5)
        ids = put(peers, "idle", 3)
        await eventually(lambda: all_are(peers, ids, "completed"), 5)
        # And again, in the midst of words.
        peers.queue.drained = before = len(peers.queue.started)
        gate.open.set()
        await eventually(lambda: all_are(peers, begun, "completed"), 5)
        await eventually(lambda: len(peers.queue.started) >= before + 2, 5)
    kept = [peers.queue.jobs[n].job for n in (*begun, *ids)]
    assert [(job.attempts, job.lost_leases, job.snoozes) for job in kept] == [(0, 0, 0)] * 5
    assert sorted(gate.begun) == begun


async def test_where_every_process_drains_streams_are_opened_ever_more_seldom(
    peers: Peers, tiers: dict[str, Tier], configure: Configure
) -> None:
    peers.queue.drained = 10**6
    ids = put(peers, "noop", 2)
    async with at_work(tiers["queue"], configure(), noop=Kind(nothing)):
        await asyncio.sleep(1.5)
        # Of 0.1 to 0.3 s each, and after 0.2, 0.4, 0.8 s at least.
        assert 2 <= len(peers.queue.started) <= 4
        peers.queue.drained = len(peers.queue.started)
        await eventually(lambda: all_are(peers, ids, "completed"))
