"""Token buckets: the same answers from Redis as from memory, and never more than the rate whatever becomes of Redis."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import astuple
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from penguin_devstack.valkey import ValkeyServer, temporary_valkey
from penguin_queue.domain.rates import AHEAD_S, LATER_S, Ask, Buckets, Grant, Rate, Rated
from penguin_queue.domain.turns import Lane, Place, Turn
from penguin_queue.operations.rating import Rating
from penguin_queue.store.rates import Rates
from penguin_queue.store.redis import Guard, redis_at

TEN = Rate(10, 10)


@pytest.fixture
async def redis(valkey: ValkeyServer) -> AsyncIterator[Redis]:
    async with redis_at(valkey.url, timeout_s=10) as client:
        assert client is not None
        yield client


def ask(name: str, count: int, rate: Rate = TEN, **fields: Any) -> Ask:
    return Ask(((name, rate),), count, **fields)


def test_a_bucket_gives_what_it_holds_and_what_it_gains() -> None:
    buckets = Buckets(0)
    assert astuple(buckets.take(ask("k", 15), 100))[:5] == pytest.approx((10, 0.1, 0.1, 0, 0))
    assert buckets.take(ask("k", 15), 100.5).granted == 5
    assert buckets.take(ask("k", 15), 1000).granted == 10


def test_a_job_takes_of_all_its_buckets_or_of_none() -> None:
    buckets = Buckets(0)
    both = Ask((("queue", Rate(100, 100)), ("tenant", Rate(1, 1))), 5)
    assert buckets.take(both, 1000).granted == 1
    assert buckets.take(both, 1000).granted == 0
    assert buckets.take(ask("queue", 200, Rate(100, 100)), 1000).granted == 99


def test_the_line_is_kept_by_who_comes_new_and_the_higher_priority_goes_before() -> None:
    buckets = Buckets(0)
    assert astuple(buckets.take(ask("k", 30, lines=True), 1000))[:5] == pytest.approx((10, 0.1, 0.1, 20, 0))
    late = buckets.take(ask("k", 1, lines=True), 1001)
    assert (late.granted, late.placed) == (0, 1)
    assert late.first_s == pytest.approx(1.1, abs=0.01)
    assert buckets.take(ask("k", 1, priority=1, lines=True), 1001).granted == 1
    assert buckets.take(ask("k", 5, lined=True, lines=True), 1001).granted == 5
    assert buckets.take(ask("k", 1, priority=3, lines=True), 1001).first_s > late.first_s


def test_nobody_is_promised_a_place_long_ahead() -> None:
    buckets = Buckets(0)
    many = buckets.take(ask("k", 5000, lines=True), 1000)
    assert many.granted == 10
    assert many.placed == pytest.approx(AHEAD_S * 10, abs=1)
    assert many.first_s + many.step_s * (many.placed - 1) <= AHEAD_S
    assert AHEAD_S / 2 - 1 < many.later_s <= LATER_S
    far = buckets.take(ask("k", 10, lines=True), 1000)
    assert far.placed <= 1
    assert AHEAD_S / 2 <= far.later_s <= LATER_S


def test_a_bucket_that_is_lost_is_no_fuller_than_time_can_have_made_it() -> None:
    begun_anew = Buckets(1000)
    assert begun_anew.take(ask("k", 10), 1000).granted == 1
    assert begun_anew.take(ask("other", 10), 1000.55).granted == 5


def test_buckets_that_are_full_are_forgotten_and_the_others_are_not() -> None:
    buckets = Buckets(0)
    slow = Rate(1 / 86400, 1)
    assert buckets.take(ask("slow", 1, slow), 1e6).granted == 1
    for n in range(30_000):
        buckets.take(ask(f"k{n}", 1), 1e6 + n)
    assert len(buckets._buckets) < 15_000
    assert buckets.take(ask("slow", 1, slow), 1e6 + 30_000).granted == 0


@given(st.integers(0, 2**32))
def test_no_more_than_the_burst_and_the_rate_ever_go(seed: int) -> None:
    chance = random.Random(seed)
    rate, buckets, now, gone = Rate(chance.choice([0.5, 3, 40]), chance.randint(1, 20)), Buckets(-1000), 0.0, 0
    for _ in range(60):
        now += chance.choice([0, 0.01, 0.3, 2])
        wanted = ask(
            "k", chance.randint(1, 9), rate, priority=chance.randint(1, 3), lined=chance.random() < 0.5, lines=True
        )
        gone += buckets.take(wanted, now).granted
        assert gone <= rate.burst + now * rate.per_s + 1e-6


async def test_redis_answers_as_memory_does(redis: Redis) -> None:
    name = uuid4().hex
    rates, alone = Rates(redis, Guard("rates", 10)), Buckets(-1e9)
    await redis.set("{penguin-queue}:rates", "0")
    # Slow enough for the time between two asks to make no difference.
    slow, slower = Rate(0.001, 50), Rate(0.0005, 30)
    chance = random.Random(7)
    for _ in range(40):
        buckets = ((f"a{name}", slow), (f"b{name}", slower))[: chance.randint(1, 2)]
        wanted = Ask(buckets, chance.randint(1, 8), chance.randint(1, 3), chance.random() < 0.3, chance.random() < 0.5)
        (found,) = await rates.take([wanted])
        meant = alone.take(wanted, 0)
        assert (found.granted, found.placed) == (meant.granted, meant.placed)
        assert found.first_s == pytest.approx(meant.first_s, abs=5)
        assert found.step_s == pytest.approx(meant.step_s)
        assert found.later_s == pytest.approx(meant.later_s, abs=5)
        assert found.head_s == pytest.approx(meant.head_s, abs=5)
    await rates.give_back(f"a{name}", slow, 3, found.source)
    alone.give_back(f"a{name}", slow, 3, 0)
    assert (await rates.take([ask(f"a{name}", 50, slow, lined=True)]))[0].granted == alone.take(
        ask(f"a{name}", 50, slow, lined=True), 0
    ).granted


async def test_asks_of_one_call_take_of_the_same_bucket(redis: Redis) -> None:
    await redis.set("{penguin-queue}:rates", "0")
    one = ask(uuid4().hex, 6)
    first, second = await Rates(redis, Guard("rates", 10)).take([one, one])
    assert (first.granted, second.granted) == (6, 4)


async def test_a_flush_lets_nobody_be_quicker() -> None:
    with temporary_valkey() as server:
        async with redis_at(server.url, timeout_s=10) as client:
            assert client is not None
            rates = Rates(client, Guard("rates", 10))
            slow = Rate(0.01, 10)
            await rates.take([ask("k", 10, slow)])
            await client.flushall()
            (grant,) = await rates.take([ask("k", 10, slow)])
            assert grant.granted == 1


async def test_without_redis_each_process_gives_its_own_part() -> None:
    with temporary_valkey() as server:
        async with redis_at(server.url) as client:
            server.kill()
            rates = Rates(client, Guard("rates"), processes=4)
            (first,) = await rates.take([ask("k", 100, Rate(40, 40))])
            assert first.granted == 0
            assert rates._alone is not None
            rates._alone._buckets["k"].at -= 1000
            (second,) = await rates.take([ask("k", 100, Rate(40, 40))])
            assert second.granted == 10


async def test_a_redis_that_comes_and_goes_lets_nobody_be_quicker(redis: Redis) -> None:
    name, guard = uuid4().hex, Guard("rates", 10)
    await redis.set("{penguin-queue}:rates", "0")
    rates, slow, gone = Rates(redis, guard), Rate(0.01, 20), 0
    for n in range(20):
        guard._closed_until = 1e18 if n % 2 else 0.0
        (grant,) = await rates.take([ask(name, 100, slow)])
        gone += grant.granted
    assert gone == 20


@pytest.mark.parametrize("first", ["alone", "Redis"])
async def test_tokens_go_back_to_where_they_came_from_or_nowhere(redis: Redis, first: str) -> None:
    """Redis comes back, or goes, between a take and what is left of it."""
    name, guard, slow = uuid4().hex, Guard("rates", 10), Rate(0.001, 20)
    await redis.set("{penguin-queue}:rates", "0")
    rates, others = Rates(redis, guard), Rates(redis, Guard("rates", 10))
    # Nothing is left in Redis, and nothing in this process's buckets.
    taken_in_redis = (await rates.take([ask(name, 20, slow)]))[0]
    guard._closed_until = 1e18
    taken_alone = (await rates.take([ask(name, 20, slow)]))[0]
    assert (taken_in_redis.granted, taken_alone.granted) == (20, 0)
    alone = rates._alone
    assert alone is not None
    if first == "alone":
        guard._closed_until = 0.0
        await rates.give_back(name, slow, 5, taken_alone.source)
        assert (await others.take([ask(name, 20, slow)]))[0].granted == 0
    else:
        await rates.give_back(name, slow, 5, taken_in_redis.source)
        assert (await rates.take([ask(name, 20, slow)]))[0].granted == 0
        assert rates._alone is alone
        guard._closed_until = 0.0
        # As long as nobody begins them again Redis's take their own back.
        await rates.give_back(name, slow, 5, taken_in_redis.source)
        assert (await others.take([ask(name, 20, slow)]))[0].granted == 5


async def test_buckets_that_were_begun_again_take_nothing_back() -> None:
    with temporary_valkey() as server:
        async with redis_at(server.url, timeout_s=10) as client:
            assert client is not None
            rates, slow = Rates(client, Guard("rates", 10)), Rate(0.001, 20)
            await client.set("{penguin-queue}:rates", "0")
            (grant,) = await rates.take([ask("k", 20, slow)])
            await client.flushall()
            assert (await rates.take([ask("k", 20, slow)]))[0].granted == 1
            await rates.give_back("k", slow, 19, grant.source)
            assert (await rates.take([ask("k", 20, slow)]))[0].granted == 0


async def test_rates_that_are_read_anew_while_tokens_are_taken_hold_for_the_next_lease() -> None:
    rated = Rated("slow", Rate(1.0, 1), None, None)

    class Slow:
        async def take(self, asks: Sequence[Ask]) -> list[Grant]:
            rating.read({})
            return [Grant(0, 1.0, head_s=1.0) for _ in asks]

    rating = Rating(Slow())  # type: ignore[arg-type]
    rating.read({"k": rated})
    turn = Turn(Lane(2, "k", uuid4()), 2, 1, Place(0, datetime.now(UTC), 1))
    capped = await rating.cap([turn])
    assert (capped.turns, capped.dry) == ([], {"slow": 1.0})
    assert (await rating.cap([turn])).turns == [turn]
