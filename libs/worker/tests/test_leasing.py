"""A worker's kinds against the fake queue: the places they have, and what becomes of jobs that are put off, too slow or ended
early."""

from __future__ import annotations

import asyncio
import time

import grpc
import pytest
from libs.worker.tests.conftest import Configure
from libs.worker.tests.handlers import TENANT, Gate, all_are, nothing, put
from libs.worker.tests.waiting import at_work, eventually

from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import TierError
from penguin_testkit.peers import Peers
from penguin_worker.jobs import Away, Job
from penguin_worker.kinds import Kind
from penguin_worker.leasing import away_for


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


@pytest.mark.parametrize("alone", [True, False])
async def test_a_kind_is_left_alone_where_a_tier_is_restoring_and_not_for_one_tenant_that_waits(
    peers: Peers, tiers: dict[str, Tier], configure: Configure, alone: bool
) -> None:
    waits = {"waits": "tenant"} if alone else {}

    async def refused(_: Job) -> None:
        raise TierError("oltp", UNAVAILABLE, "RESTORE_NOT_REPLAYED", "", metadata=waits, retry_after_s=30.0)

    (job_id,) = put(peers, "noop", 1)
    async with at_work(tiers["queue"], configure(), noop=Kind(refused)) as worker:
        await eventually(lambda: bool(peers.queue.jobs[job_id].reasons))
        assert worker._kind_standing.present(["noop"]) == (["noop"] if alone else [])
    (snooze,) = [snooze for words in peers.queue.spoken for snooze in words.snoozes]
    assert snooze.reason == "oltp.restore_not_replayed"
    assert 30 <= snooze.delay.ToTimedelta().total_seconds() <= 37.5
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
