"""A worker's streams against the fake queue: opened anew, narrowed and widened, and words that are said until answered."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from uuid import UUID

import grpc
import pytest
from libs.worker.tests.conftest import Configure
from libs.worker.tests.waiting import eventually

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import TierError
from penguin_testkit.peers import Peers
from penguin_worker import lines
from penguin_worker.config import WorkerConfig
from penguin_worker.jobs import Away, Job, Snooze
from penguin_worker.kinds import Kind
from penguin_worker.leasing import Worker, away_for
from penguin_worker.streaming import WorkStream

TENANT = UUID("0190a000-0000-7000-8000-00000000000b")


class Gate:
    """A handler that waits until it is let through, and remembers whom it saw."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.begun: list[int] = []
        self.most = 0
        self._now = 0

    async def handle(self, job: Job) -> None:
        self.begun.append(job.id)
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            await self.open.wait()
        finally:
            self._now -= 1


async def nothing(_: Job) -> None:
    return None


@contextlib.asynccontextmanager
async def at_work(queue: Tier, config: WorkerConfig, **kinds: Kind) -> AsyncIterator[Worker]:
    worker, stopped = Worker(queue, config), asyncio.Event()
    task = asyncio.create_task(worker.run(kinds, stopped))
    try:
        yield worker
    finally:
        stopped.set()
        await asyncio.wait_for(task, config.drain_s + 15)


def put(peers: Peers, kind: str, count: int) -> list[int]:
    return [peers.queue.put(TENANT, kind, {}) for _ in range(count)]


def all_are(peers: Peers, ids: list[int], state: str) -> bool:
    return all(peers.queue.state(job_id) == state for job_id in ids)


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


async def test_a_kind_that_is_held_up_is_not_leased_and_hinders_no_other(
    peers: Peers, tiers: dict[str, Tier], configure: Configure
) -> None:
    away = True

    async def fickle(_: Job) -> None:
        if away:
            raise Away("smtp.unreachable")

    held_up = put(peers, "fickle", 2)
    async with at_work(tiers["queue"], configure(), fickle=Kind(fickle), noop=Kind(nothing)):
        await eventually(lambda: any(list(each.kinds) == ["noop"] for each in peers.queue.started))
        ids = put(peers, "noop", 5)
        await eventually(lambda: all_are(peers, ids, "completed"), 5)
        away = False
        await eventually(lambda: all_are(peers, held_up, "completed"))
        await eventually(lambda: list(peers.queue.started[-1].kinds) == ["fickle", "noop"])
    assert all(peers.queue.jobs[each].job.attempts == 0 for each in held_up)


def test_what_is_away_is_waited_for_as_long_as_it_said_within_bounds() -> None:
    day = 24 * 3600.0
    assert [away_for(9, said_s, 0.0) for said_s in (0.0, 1.5, 3600.0, day, 30 * day)] == [0.1, 1.5, 3600.0, day, day]
    assert away_for(0, 2.0, 0.999) == pytest.approx(2.5, abs=0.01)
    assert away_for(0, 3600.0, 0.999) == pytest.approx(3660.0, abs=0.1)
    assert [away_for(snoozes, None, 0.0) for snoozes in (0, 1, 20)] == [0.25, 0.5, 2.5]
    assert away_for(0, None, 0.999) == pytest.approx(0.5, abs=0.01)


UNAVAILABLE, EXHAUSTED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("code", "said_s", "least", "most"),
    [
        (UNAVAILABLE, 7.0, 7.0, 8.75), (UNAVAILABLE, 7200.0, 7200.0, 7260.0), (UNAVAILABLE, None, 0.25, 0.5),
        (EXHAUSTED, 0.1, 0.5, 5.0), (EXHAUSTED, 7200.0, 7200.0, 7260.0), (EXHAUSTED, None, 0.5, 5.0),
    ],
)  # fmt: skip
async def test_a_job_is_put_off_for_as_long_as_the_tier_said_that_it_is_away_or_too_busy(
    peers: Peers,
    tiers: dict[str, Tier],
    configure: Configure,
    code: grpc.StatusCode,
    said_s: float | None,
    least: float,
    most: float,
) -> None:
    async def away(_: Job) -> None:
        raise TierError("oltp", code, "TIER_DB_DOWN", "away", retry_after_s=said_s)

    (job_id,) = put(peers, "noop", 1)
    async with at_work(tiers["queue"], configure(), noop=Kind(away)):
        await eventually(lambda: bool(peers.queue.jobs[job_id].reasons))
    (snooze,) = [snooze for words in peers.queue.spoken for snooze in words.snoozes][:1]
    assert (snooze.reason, snooze.lease.job_id) == ("oltp.tier_db_down", job_id)
    assert least - 0.001 <= snooze.delay.ToTimedelta().total_seconds() <= most
    assert peers.queue.jobs[job_id].job.attempts == 0


async def test_a_stop_gives_back_what_comes_too_late(
    peers: Peers, tiers: dict[str, Tier], configure: Configure
) -> None:
    gate = Gate()
    (begun,) = put(peers, "noop", 1)
    async with at_work(tiers["queue"], configure(drain_s=1.0), noop=Kind(gate.handle)) as worker:
        await eventually(lambda: len(gate.begun) == 1)
        worker._halted = True
        late = put(peers, "noop", 3)
        await eventually(lambda: any(words.released.job_ids for words in peers.queue.spoken))
    assert all_are(peers, [*late, begun], "ready")
    assert [peers.queue.jobs[each].job.snoozes for each in late] == [0, 0, 0]
    # The one that was begun is told apart: something may have come of it.
    assert peers.queue.jobs[begun].reasons == ["worker_stopping"]


async def test_a_kind_with_a_limit_has_places_of_its_own(
    peers: Peers, tiers: dict[str, Tier], configure: Configure
) -> None:
    few, many = Gate(), Gate()
    limited, shared = put(peers, "few", 10), put(peers, "many", 10)
    kinds = {"few": Kind(few.handle, limit=2), "many": Kind(many.handle)}
    async with at_work(tiers["queue"], configure(concurrency=4), **kinds) as worker:
        await eventually(lambda: worker.in_hand == 6)
        await asyncio.sleep(0.1)
        assert (few.most, many.most) == (2, 4)
        few.open.set()
        await eventually(lambda: all_are(peers, limited, "completed"))
        assert not any(peers.queue.state(each) == "completed" for each in shared)
        many.open.set()
        await eventually(lambda: all_are(peers, shared, "completed"))
    assert (few.most, many.most) == (2, 4)


async def test_an_attempt_that_takes_too_long_fails(peers: Peers, tiers: dict[str, Tier], configure: Configure) -> None:
    gate = Gate()
    job_id = peers.queue.put(TENANT, "noop", {}, max_attempts=2)
    async with at_work(tiers["queue"], configure(), noop=Kind(gate.handle, timeout_s=0.1)):
        await eventually(lambda: peers.queue.state(job_id) == "dead")
    assert peers.queue.jobs[job_id].job.last_error == "timeout"
    assert len(gate.begun) == 2


async def test_a_time_out_of_a_handlers_own_is_its_defect(
    peers: Peers, tiers: dict[str, Tier], configure: Configure
) -> None:
    async def impatient(_: Job) -> None:
        raise TimeoutError

    job_id = peers.queue.put(TENANT, "noop", {}, max_attempts=1)
    async with at_work(tiers["queue"], configure(), noop=Kind(impatient, timeout_s=5.0)):
        await eventually(lambda: peers.queue.state(job_id) == "dead")
    assert peers.queue.jobs[job_id].job.last_error == "defect.TimeoutError"


async def test_a_kind_that_hogs_the_loop_leaves_time_to_one_with_places_of_its_own(
    peers: Peers, tiers: dict[str, Tier], configure: Configure
) -> None:
    begun: list[str] = []

    async def handle(job: Job) -> None:
        begun.append(job.kind)
        time.sleep(0.002)  # noqa: ASYNC251 - what is tried

    kinds = {"heavy": Kind(handle, limit=200), "light": Kind(handle)}
    async with at_work(tiers["queue"], configure(), **kinds):
        await eventually(lambda: len(peers.queue.started) == 2)
        ids = put(peers, "heavy", 200) + put(peers, "light", 1)
        await eventually(lambda: all_are(peers, ids, "completed"))
    assert begun.index("light") < 150
    assert begun.count("heavy") == 200


@pytest.mark.parametrize("ending", ["_lose", "_cancel"])
async def test_what_ends_before_it_is_begun_never_is(
    peers: Peers, tiers: dict[str, Tier], configure: Configure, ending: str
) -> None:
    begun: list[tuple[int, int]] = []
    ended: list[tuple[int, int]] = []

    async def handle(job: Job) -> None:
        begun.append((job.id, job.lease_token))
        if not ended:
            behind = [each for each in worker._jobs() if not each.begun]
            getattr(worker, ending)(behind)
            ended.extend((each.id, each.lease_token) for each in behind)

    ids = put(peers, "noop", 5)
    async with at_work(tiers["queue"], configure(), noop=Kind(handle)) as worker:
        await eventually(lambda: all_are(peers, ids, "completed"))
    # They came again, under other leases.
    assert len(ended) == 4
    assert len(begun) == 5
    assert not set(ended).intersection(begun)
