"""More lanes than are kept in mind: who gives way, and that nobody is passed over for ever."""

from __future__ import annotations

from collections import Counter

import pytest
from services.queue.tests.unit.test_lanes import AT, lane, place, told

from penguin_queue.domain import lanes as module
from penguin_queue.domain.crowd import Crowd
from penguin_queue.domain.lanes import TENANT_LANES_MAX, Lanes
from penguin_queue.domain.turns import Head, Lane, Taken

HIGH, LOW = 1, 3


def among(lanes: Lanes, *wanted: Lane) -> list[Lane]:
    """Those of these lanes that are known."""
    known = {turn.lane for turn in lanes.choose((), 1000, AT)}
    return [each for each in wanted if each in known]


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(module, "LANES_MAX", 20)
    return 20


def test_a_high_lane_is_learnt_in_the_place_of_a_low_one(room: int) -> None:
    lanes = told(*(lane(n, LOW) for n in range(room)))
    newcomer = lane(99, HIGH)
    lanes.told(newcomer, place(0))
    assert (len(lanes), lanes.choose((), 1, AT)[0].lane) == (room, newcomer)
    lanes.told(lane(98, LOW), place(0))
    assert among(lanes, lane(98, LOW)) == []


def test_each_priority_keeps_some_places(room: int) -> None:
    low = [lane(n, LOW) for n in range(room)]
    high = [lane(100 + n, HIGH) for n in range(room)]
    lanes = told(*low, *high)
    assert len(among(lanes, *low)) == room // module.RESERVED
    lanes = told(*high, *low)
    assert len(among(lanes, *low)) == room // module.RESERVED
    assert len(lanes) == room


def test_among_alike_whoever_was_served_gives_way_and_all_have_their_turns(room: int) -> None:
    # Twice as many as there is room for, and none is ever empty.
    everybody = [lane(n) for n in range(2 * room)]
    lanes = told(*everybody)
    served: Counter[Lane] = Counter()
    for n in range(4 * len(everybody)):
        mark, turns = lanes.mark, lanes.choose((), 1, AT)
        taken = next(turn.lane for turn in turns if turn.share)
        served[taken] += 1
        lanes.leased(mark, turns, 1, [Taken(taken, 1, place(n))])
        lanes.surveyed(lanes.mark, [Head(each, place(n)) for each in everybody], whole=False)
        assert len(lanes) == room
    assert set(served) == set(everybody)
    assert max(served.values()) <= 3 * min(served.values())


def test_a_tenant_makes_room_for_its_own() -> None:
    lanes = told(*(lane(1, LOW, f"junk{n}") for n in range(TENANT_LANES_MAX)), lane(2, LOW))
    newcomer = lane(1, HIGH, "mail")
    lanes.told(newcomer, place(0))
    assert len(lanes) == TENANT_LANES_MAX + 1
    assert [turn.lane for turn in lanes.choose(("mail", "k"), 10, AT)] == [newcomer, lane(2, LOW)]


def test_nobody_gives_way_to_those_alike_before_he_had_a_turn() -> None:
    crowd: Crowd[Lane] = Crowd()
    one, other, newcomer = lane(1), lane(2), lane(3)
    assert crowd.gives_way(newcomer, 0, alike=True) is None
    crowd.add(one)
    crowd.add(other)
    assert crowd.gives_way(newcomer, 0, alike=True) is None
    crowd.served(other)
    assert crowd.gives_way(newcomer, 0, alike=True) == other
    assert crowd.gives_way(newcomer, 0, alike=False) is None
    assert crowd.gives_way(lane(3, LOW), 0, alike=True) is None
    assert crowd.gives_way(lane(3, HIGH), 0, alike=False) == other
    crowd.served(one)
    assert crowd.gives_way(newcomer, 0, alike=True) == one
    crowd.drop(one)
    assert crowd.gives_way(newcomer, 0, alike=True) == other
