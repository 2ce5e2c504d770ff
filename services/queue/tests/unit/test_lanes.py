"""Whose turn it is: priorities and ageing, even shares by weight and load, and what is known of lanes."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penguin_queue.domain.lanes import AGEING, ELDEST_EVERY, LONG, TENANT_LANES_MAX, Lanes, reach
from penguin_queue.domain.limits import BUSY, FULL, PROBED
from penguin_queue.domain.loads import HALF_LIFE_S
from penguin_queue.domain.turns import Head, Lane, Place, Taken

AT = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def lane(tenant: int, priority: int = 2, kind: str = "k") -> Lane:
    return Lane(priority, kind, UUID(int=tenant))


def place(n: int, age: timedelta = timedelta(0)) -> Place:
    return Place(0, AT - age, n)


def told(*names: Lane) -> Lanes:
    lanes = Lanes()
    for name in names:
        lanes.told(name, place(0))
    return lanes


class Line:
    """A database of ready jobs: leases as the real one does, from the floors on and by bands and shares."""

    def __init__(self, jobs: dict[Lane, int]) -> None:
        self.jobs = {name: [place(n) for n in range(count)] for name, count in jobs.items()}

    def lease(self, lanes: Lanes, wanted: int, at: datetime = AT) -> Counter[Lane]:
        mark, turns = lanes.mark, lanes.choose((), wanted, at)
        taken: list[Taken] = []
        for band in (1, 2, 3):
            at_hand = wanted - len(taken)
            for whole in (False, True):
                for turn in turns:
                    left = wanted - len(taken)
                    most = left if whole else min(left, -(-turn.share * at_hand // wanted))
                    if turn.band == band:
                        own = self.jobs.get(turn.lane, [])
                        found = [each for each in own if each >= turn.floor][:most]
                        self.jobs[turn.lane] = [each for each in own if each not in found]
                        taken += [Taken(turn.lane, 1, each) for each in found]
        lanes.leased(mark, turns, wanted, taken)
        return Counter(each.lane for each in taken)


def test_high_priority_goes_first_and_what_it_leaves_is_shared_evenly() -> None:
    urgent, deep, small = lane(1, 1), lane(2), lane(3)
    lanes, line = told(urgent, deep, small), Line({urgent: 2, deep: 500, small: 3})
    assert line.lease(lanes, 10) == {urgent: 2, small: 3, deep: 5}


def test_a_single_job_comes_with_the_very_next_lease_beside_a_long_backlog() -> None:
    noisy, quiet = lane(1), lane(2)
    lanes, line = told(noisy), Line({noisy: 100_000})
    for _ in range(50):
        line.lease(lanes, 10)
    line.jobs[quiet] = [place(1)]
    lanes.told(quiet, place(1))
    assert line.lease(lanes, 1) == {quiet: 1}


def test_shares_go_by_weight() -> None:
    heavy, light = lane(1), lane(2)
    lanes, line = told(heavy, light), Line({heavy: 10_000, light: 10_000})
    lanes.loads.sampled({}, {heavy.tenant_id: 300}, AT)
    served: Counter[Lane] = Counter()
    for _ in range(20):
        served += line.lease(lanes, 40)
    assert 2.8 < served[heavy] / served[light] < 3.2


def test_who_has_much_in_flight_waits_and_is_forgiven_with_time() -> None:
    slow, quick = lane(1), lane(2)
    lanes = told(slow, quick)
    for second in range(10):
        lanes.loads.sampled({slow.tenant_id: 100}, {}, AT + timedelta(seconds=second))
    assert [turn.share for turn in lanes.choose((), 60, AT)] == [60, 0]
    assert lanes.choose((), 60, AT)[0].lane == quick
    # It has nothing in flight any more, but had lately.
    later = AT + timedelta(seconds=9 + HALF_LIFE_S)
    lanes.loads.sampled({}, {}, later)
    assert 30 < lanes.loads.of(slow.tenant_id) < 60
    for n in range(1, 20):
        lanes.loads.sampled({}, {}, later + timedelta(seconds=n * HALF_LIFE_S))
    assert lanes.loads.of(slow.tenant_id) == 0


def test_a_low_lane_is_served_like_a_high_one_once_it_has_waited_long_enough() -> None:
    high, low = lane(1, 1), lane(2, 3)
    lanes = Lanes()
    lanes.told(high, place(1, -2 * AGEING))
    lanes.told(low, place(2))
    for waited, band in ((timedelta(0), 3), (AGEING, 2), (2 * AGEING, 1), (10 * AGEING, 1)):
        assert [turn.band for turn in lanes.choose((), 10, AT + waited) if turn.lane == low] == [band]
    shares = {turn.lane: turn.share for turn in lanes.choose((), 10, AT + 2 * AGEING)}
    assert shares == {high: 5, low: 5}


def test_a_backlog_that_has_grown_old_is_not_before_those_who_have_none() -> None:
    noisy, quiet, lower = lane(1), lane(2), lane(3, 3)
    lanes, line = Lanes(), Line({noisy: 100})
    lanes.told(noisy, place(0, 3 * AGEING))
    line.lease(lanes, 5)
    line.jobs |= {quiet: [place(1)], lower: [place(2)]}
    lanes.told(quiet, place(1))
    lanes.told(lower, place(2, 3 * AGEING))
    bands = {turn.lane: turn.band for turn in lanes.choose((), 10, AT)}
    assert bands == {noisy: 1, quiet: 1, lower: 1}
    assert line.lease(lanes, 2) == {quiet: 1, lower: 1}


def test_a_priority_is_never_behind_a_lower_one() -> None:
    normal, low = lane(1), lane(2, 3)
    lanes = Lanes()
    lanes.told(normal, place(1))
    lanes.told(low, place(2, 5 * AGEING))
    assert {turn.lane: turn.band for turn in lanes.choose((), 10, AT)} == {normal: 1, low: 1}


def test_nobody_is_passed_over_for_ever_whatever_he_has_in_flight() -> None:
    loaded, others = lane(1, 1), [lane(n, 1) for n in range(2, 12)]
    lanes, line = told(loaded, *others), Line({loaded: 5} | dict.fromkeys(others, 1000))
    served: Counter[Lane] = Counter()
    for n in range(20 * ELDEST_EVERY):
        lanes.loads.sampled({loaded.tenant_id: 100, **{each.tenant_id: 4 for each in others}}, {}, AT)
        for name in others:
            lanes.told(name, place(10_000 + n, -LONG))
        served += line.lease(lanes, 4, AT + LONG)
    assert served[loaded] > 0


def test_one_tenants_lanes_leave_room_for_others() -> None:
    lanes = Lanes()
    for n in range(TENANT_LANES_MAX + 50):
        lanes.told(lane(1, kind=f"junk{n}"), place(0))
    lanes.told(lane(2, kind="mail"), place(0))
    assert len(lanes) == TENANT_LANES_MAX + 1
    assert [turn.lane for turn in lanes.choose(("mail",), 10, AT)] == [lane(2, kind="mail")]


def test_an_empty_lane_is_forgotten_and_one_told_of_meanwhile_is_not() -> None:
    one, other = lane(1), lane(2)
    lanes = told(one, other)
    mark, turns = lanes.mark, lanes.choose((), 10, AT)
    lanes.told(other, place(9))
    lanes.leased(mark, turns, 10, [])
    assert [turn.lane for turn in lanes.choose((), 10, AT)] == [other]


def limited_lanes(count: int, room: int) -> Lanes:
    """As many lanes of a queue with so much room, one of whose jobs, number 7, is in a worker's hands."""
    lanes = Lanes()
    lanes.limits.read({"limited": 1})
    lanes.limits.given("limited", [7])
    lanes.surveyed(lanes.mark, [Head(lane(n, kind="limited"), place(n)) for n in range(count)], whole=True)
    lanes.limits.found({1: room}, {}, AT)
    return lanes


def test_a_full_queue_is_passed_over_as_a_whole_until_a_job_of_its_own_has_ended() -> None:
    lanes = limited_lanes(500, 0)
    other = lane(1, kind="other")
    lanes.told(other, place(1))
    assert [turn.lane for turn in lanes.choose((), 10, AT)] == [other]
    lanes.surveyed(lanes.mark, [Head(lane(n, kind="limited"), place(n)) for n in range(500)], whole=False)
    assert [turn.lane for turn in lanes.choose((), 10, AT)] == [other]
    assert not lanes.limits.ended([8])
    assert [turn.lane for turn in lanes.choose((), 10, AT)] == [other]
    assert lanes.limits.ended([7]) == {"limited": 1}
    turns = lanes.choose((), 100, AT)
    assert sum(turn.limited for turn in turns) == reach(1)
    assert other in {turn.lane for turn in turns}


def test_a_full_queue_is_looked_at_again_by_and_by() -> None:
    lanes = limited_lanes(500, 0)
    assert lanes.choose((), 100, AT) == []
    assert len(lanes.choose((), 100, AT + FULL)) == reach(PROBED)
    lanes = limited_lanes(500, 0)
    assert len(lanes.choose((), 100, AT - timedelta(hours=1))) == reach(PROBED)


def test_a_place_that_came_free_during_a_lease_is_not_missed() -> None:
    lanes = limited_lanes(10, 1)
    freed = lanes.limits.freed
    lanes.limits.ended([7])
    lanes.limits.found({1: 0}, freed, AT)
    assert lanes.choose((), 100, AT)


def test_lanes_that_had_no_room_are_known_though_a_place_came_free_during_the_lease() -> None:
    lanes = limited_lanes(10, 1)
    mark, turns, freed = lanes.mark, lanes.choose((), 100, AT), lanes.limits.freed
    lanes.limits.ended([7])
    lanes.limits.found({1: 0}, freed, AT)
    lanes.leased(mark, turns, 100, [], rooms={1: 0})
    assert len(lanes) == 10
    # Nor is anything known of them where another process was leasing, or where no more was told.
    lanes.leased(mark, turns, 100, [], rooms={1: None})
    lanes.leased(mark, turns, 100, [])
    assert len(lanes) == 10


def rated_lanes(count: int) -> Lanes:
    """So many lanes of a queue with a rate, and one of another."""
    lanes = told(*(lane(n, kind="rated") for n in range(count)), lane(1, kind="other"))
    lanes.paces.read({"rated": "slow"})
    return lanes


def test_a_queue_without_tokens_is_passed_over_as_a_whole_and_then_looked_into_a_little() -> None:
    lanes, until = rated_lanes(500), AT + SECOND
    assert lanes.paces.ran_dry("slow", until) == ["rated"]
    assert [turn.lane.kind for turn in lanes.choose((), 64, AT)] == ["other"]
    assert lanes.open_kind(["rated"]) is None
    lanes.paces.refilled("slow")
    assert lanes.open_kind(["rated"]) == "rated"
    lanes.paces.ran_dry("slow", until)
    turns = lanes.choose((), 64, until)
    assert Counter(turn.lane.kind for turn in turns) == {"rated": reach(PROBED), "other": 1}
    assert lanes.open_kind(["rated"]) == "rated"
    # With tokens for all it is as any other; and a clock that was put back keeps nothing shut.
    lanes.paces.flowed("slow")
    assert len(lanes.choose((), 64, until)) == reach(64)
    lanes.paces.ran_dry("slow", until)
    assert len(lanes.choose((), 64, AT - timedelta(hours=1))) == reach(PROBED) + 1


def test_those_with_few_tokens_get_half_of_a_lease_together_beside_others() -> None:
    lanes = rated_lanes(500)
    lanes.loads.granted(UUID(int=1), 50)
    lanes.paces.fell_short("slow")
    turns = lanes.choose((), 64, AT)
    assert sum(turn.cap for turn in turns if turn.lane.kind == "rated") == 32
    lanes = told(*(lane(n, kind="rated") for n in range(500)))
    lanes.paces.read({"rated": "slow"})
    lanes.paces.fell_short("slow")
    # Alone they have all of it.
    assert sum(turn.share for turn in lanes.choose((), 64, AT)) == 64


def test_who_met_another_at_a_queue_comes_back_sooner_than_who_found_it_full() -> None:
    lanes = limited_lanes(10, 1)
    lanes.limits.found({1: None}, {}, AT)
    assert lanes.choose((), 100, AT) == []
    assert lanes.choose((), 100, AT + BUSY)


def test_lanes_are_forgotten_that_gave_nothing_though_there_was_room() -> None:
    for room, left in ((0, 10), (1, 0)):
        lanes = limited_lanes(10, 9)
        mark, turns = lanes.mark, lanes.choose((), 100, AT)
        lanes.limits.found({1: room}, {}, AT)
        lanes.leased(mark, turns, 100, [], rooms={1: room})
        assert len(lanes) == left


def test_a_lane_that_a_lease_did_not_come_to_the_end_of_for_its_bytes_is_not_forgotten() -> None:
    one, other = lane(1), lane(2)
    lanes = told(one, other)
    turns = lanes.choose((), 100, AT)
    lanes.leased(lanes.mark, turns, 100, [Taken(one, 3, place(3))], spent=True)
    assert {turn.lane: turn.floor for turn in lanes.choose((), 100, AT)} == {one: place(3), other: place(0)}


@pytest.mark.parametrize("found", [None, 900])
@pytest.mark.parametrize("spent_first", [True, False])
def test_what_a_lease_left_for_its_bytes_is_known_though_another_met_its_locks(
    *, spent_first: bool, found: int | None
) -> None:
    one = lane(1)
    lanes = told(one)
    # Both begin at once. One locks a thousand, and takes those that make so many bytes; the other skips what is locked, and finds
    # nothing, or what is behind.
    spent, other = ((lanes.mark, lanes.choose((), 1000, AT)) for _ in range(2))
    for first in (spent_first, not spent_first):
        if first:
            lanes.leased(*spent, 1000, [Taken(one, 500, place(500))], spent=True)
        else:
            lanes.leased(*other, 1000, [Taken(one, 1, place(found))] if found else [])
    assert lanes.open_kind(("k",)) == "k"
    (turn,) = lanes.choose((), 1000, AT)
    assert turn.floor <= place(500)


def test_a_survey_finds_what_came_back_behind_the_floor() -> None:
    one = lane(1)
    lanes, line = told(one), Line({one: 10})
    line.lease(lanes, 5)
    line.jobs[one].insert(0, place(2))
    assert line.lease(lanes, 1) == {one: 1}
    assert line.jobs[one][0] == place(2)
    assert lanes.surveyed(lanes.mark, [Head(one, place(2))], whole=True) == []
    line.lease(lanes, 1)
    assert place(2) not in line.jobs[one]


def test_a_survey_that_began_before_the_news_does_not_undo_it() -> None:
    one, other = lane(1), lane(2)
    lanes = told(one)
    mark = lanes.mark
    lanes.told(other, place(1))
    lanes.surveyed(mark, [], whole=True)
    assert [turn.lane for turn in lanes.choose((), 10, AT)] == [other]


@given(
    st.dictionaries(
        st.tuples(st.integers(1, 3), st.sampled_from("ab"), st.integers(1, 6)), st.integers(0, 30), max_size=12
    ),
    st.integers(1, 25),
)
def test_every_job_is_leased_once_whatever_the_lanes(jobs: dict[tuple[int, str, int], int], wanted: int) -> None:
    line = Line({lane(tenant, priority, kind): count for (priority, kind, tenant), count in jobs.items()})
    lanes = Lanes()
    lanes.surveyed(0, [Head(name, own[0]) for name, own in line.jobs.items() if own], whole=True)
    total = sum(jobs.values())
    leased = 0
    for _ in range(total // wanted + 1):
        served = line.lease(lanes, wanted)
        assert served.total() == min(wanted, total - leased)
        leased += served.total()
    assert leased == total
    assert len(lanes) == 0 or line.lease(lanes, 1).total() == 0


def test_a_tenant_whose_load_has_gone_has_its_turn_before_those_with_more() -> None:
    one, other = lane(1), lane(2)
    lanes = told(one, other)
    lanes.loads.sampled({one.tenant_id: 500, other.tenant_id: 100}, {}, AT)
    assert [turn.lane for turn in lanes.choose((), 1, AT)] == [other, one]
    lanes.loads.sampled({other.tenant_id: 100}, {}, AT + timedelta(seconds=10 * HALF_LIFE_S))
    assert [turn.lane for turn in lanes.choose((), 1, AT)] == [one, other]
    lanes.loads.sampled({other.tenant_id: 100, one.tenant_id: 400}, {one.tenant_id: 1000}, AT)
    assert [turn.lane for turn in lanes.choose((), 1, AT)] == [one, other]


def test_a_lane_that_rests_is_passed_over_until_then() -> None:
    one, other = lane(1), lane(2)
    lanes = told(one, other)
    lanes.rest(one, AT + timedelta(seconds=2))
    lanes.rest(one, AT + timedelta(seconds=5))
    assert [turn.lane for turn in lanes.choose((), 9, AT + timedelta(seconds=4))] == [other]
    assert lanes.open_kind(("k",)) == "k"
    lanes.told(one, place(0))
    assert [turn.lane for turn in lanes.choose((), 9, AT + timedelta(seconds=4))] == [other]
    assert [turn.lane for turn in lanes.choose((), 9, AT + timedelta(seconds=5))] == [one, other]


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 3), st.sampled_from("kl"), st.integers(0, 60)), max_size=80)
)
def test_a_small_lease_looks_into_those_whose_turn_is_first(made: list[tuple[int, int, str, int]]) -> None:
    lanes, loads = Lanes(), {UUID(int=n): n * 7 % 5 for n in range(1, 41)}
    for tenant, priority, kind, age in made:
        lanes.told(lane(tenant, priority, kind), place(tenant, timedelta(seconds=age)))
    lanes.loads.sampled(loads, {}, AT)
    whole = lanes.choose(("k", "l"), 1000, AT)
    names = {lane(tenant, priority, kind) for tenant, priority, kind, _ in made}
    assert {turn.lane for turn in whole} <= names
    assert len(whole) == min(len(names), reach(1000))
    assert [(t.band, loads[t.lane.tenant_id]) for t in whole] == sorted(
        (t.band, loads[t.lane.tenant_id]) for t in whole
    )
    assert [turn.lane for turn in lanes.choose(("k", "l"), 2, AT)] == [turn.lane for turn in whole][: reach(2)]
    assert [turn.lane for turn in lanes.choose(("k", "l"), 1000, AT)] == [turn.lane for turn in whole]


def test_tenants_with_less_than_a_job_at_a_time_take_turns() -> None:
    names = [lane(n) for n in range(1, 21)]
    lanes, line = told(*names), Line(dict.fromkeys(names, 1000))
    served: Counter[Lane] = Counter()
    for n in range(20):
        at = AT + timedelta(seconds=n)
        # The first of them had its job in hand, each time somebody looked.
        lanes.loads.sampled({}, {}, at - timedelta(seconds=0.5))
        lanes.loads.sampled({names[0].tenant_id: 1}, {}, at - timedelta(seconds=0.25))
        lanes.loads.sampled({}, {}, at)
        for _ in range(5):
            served += line.lease(lanes, 2, at)
    assert set(served.values()) == {10}
