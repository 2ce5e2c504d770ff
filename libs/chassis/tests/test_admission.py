"""Whose calls are begun, and when: by a clock and turns that the test moves by hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from uuid import UUID

import pytest

from penguin_chassis import admission
from penguin_chassis.admission import (
    ACTIVE_S,
    BUSY,
    LEAST_SHARE,
    OWED_S,
    SAVED_S,
    TENANT_IN_FLIGHT,
    TURN_MAX_S,
    TURNS_APART_S,
    Admission,
)
from penguin_chassis.faults import ResourceExhausted

NOISY, QUIET, THIRD, FOURTH = (UUID(int=number) for number in range(1, 5))


class Hall:
    """An admission whose clock stands still between the turns; `calls` are the calls that wait, by name, as they were made."""

    def __init__(self, places: int = 8) -> None:
        self.time = 100.0
        # What the process has had of the processor (seconds).
        self.spent = 7.0
        self.turns: list[tuple[float, Callable[[], None]]] = []
        self.admission = Admission(places, lambda: self.time, self._later, lambda: self.spent)
        self.waiting: list[tuple[str, asyncio.Future[None]]] = []

    def call(self, tenant: UUID, name: str = "") -> bool:
        """One call; whether it was begun."""
        place = self.admission.enter(tenant)
        if place is not None:
            self.waiting.append((name, place))
        return place is None

    def begun(self) -> list[str]:
        """Who of those that waited has been begun since the last look."""
        found = [name for name, place in self.waiting if place.done()]
        self.waiting = [each for each in self.waiting if not each[1].done()]
        return found

    def turn(self, spent_s: float = 0.0) -> float:
        """Take the next turn, which costs so much of the processor; after how many seconds it came."""
        ((after, act),) = self.turns
        self.turns.clear()
        self.time += after
        self.spent += spent_s
        act()
        return after

    def _later(self, after: float, act: Callable[[], None]) -> None:
        self.turns.append((after, act))


async def test_a_message_of_a_stream_waits_for_its_turn_as_a_call_does_and_for_longer() -> None:
    hall = Hall()
    made_noisy(hall, NOISY)
    message = asyncio.create_task(hall.admission.turn(NOISY, timeout_s=60))
    await asyncio.sleep(0)
    assert (message.done(), hall.admission.waiting) == (False, 1)
    # Nobody else is held back by it, and it leaves no place taken.
    assert hall.call(QUIET)
    hall.admission.leave(QUIET)
    hall.turn()
    await message
    assert hall.admission.under_way == 0
    ended = asyncio.create_task(hall.admission.turn(NOISY, timeout_s=0.01))
    with pytest.raises(TimeoutError):
        await ended
    assert hall.admission.under_way == 0


async def test_a_message_of_a_stream_is_not_refused_for_the_calls_beside_it() -> None:
    hall = Hall()
    made_noisy(hall, NOISY)
    for _ in range(TENANT_IN_FLIGHT):
        assert not hall.call(NOISY)
    with pytest.raises(ResourceExhausted):
        hall.call(NOISY)
    message = asyncio.create_task(hall.admission.turn(NOISY, timeout_s=60))
    await asyncio.sleep(0)
    assert not message.done()
    while hall.admission.waiting:
        if not hall.turns:
            hall.admission.leave(NOISY)
        if hall.turns:
            hall.turn()
    await message


def made_noisy(hall: Hall, *noisy: UUID) -> None:
    """They have begun far more than others of late; QUIET and FOURTH are active; nothing is under way."""
    for tenant in (QUIET, FOURTH):
        hall.call(tenant)
        hall.admission.leave(tenant)
    for tenant in noisy * 40:
        if not hall.call(tenant):
            hall.turn()
            assert hall.begun()
        hall.admission.leave(tenant)
    assert hall.admission.under_way == 0


async def test_a_tenant_alone_never_waits() -> None:
    hall = Hall(places=4)
    assert all(hall.call(NOISY) for _ in range(TENANT_IN_FLIGHT))
    assert not hall.turns


async def test_calls_under_way_are_counted_with_those_that_wait() -> None:
    hall = Hall(places=8)
    hall.call(QUIET)
    assert [hall.call(NOISY) for _ in range(TENANT_IN_FLIGHT)].count(True) == 4
    assert (hall.admission.waiting, hall.admission.under_way) == (TENANT_IN_FLIGHT - 4, TENANT_IN_FLIGHT + 1)
    with pytest.raises(ResourceExhausted):
        hall.call(NOISY)
    assert hall.call(QUIET)


async def test_a_share_is_an_even_part_among_the_active_and_never_less_than_the_least() -> None:
    hall = Hall(places=12)
    for number, share in ((1, TENANT_IN_FLIGHT), (2, 6), (3, 4), (4, 3), (5, LEAST_SHARE), (50, LEAST_SHARE)):
        while hall.admission.under_way < number:
            hall.call(UUID(int=100 + hall.admission.under_way))
        assert hall.admission.share == share


async def test_who_has_not_called_for_long_takes_no_share_and_who_is_under_way_does() -> None:
    hall = Hall(places=8)
    hall.call(QUIET)
    hall.call(THIRD)
    hall.admission.leave(THIRD)
    hall.time += ACTIVE_S + 1
    hall.call(NOISY)
    assert hall.admission.share == 4  # NOISY, and QUIET whose call is still under way
    hall.admission.leave(QUIET)
    hall.time += ACTIVE_S + 1
    hall.call(NOISY)
    assert hall.admission.share == TENANT_IN_FLIGHT


async def test_a_call_beyond_the_share_is_begun_when_one_of_its_tenant_ends() -> None:
    hall = Hall(places=4)
    hall.call(QUIET)
    assert [hall.call(NOISY, str(number)) for number in range(4)] == [True, True, False, False]
    assert [hall.call(QUIET), hall.call(QUIET)] == [True, False]
    hall.admission.leave(NOISY)
    assert hall.begun() == ["2"]
    hall.admission.leave(NOISY)
    hall.admission.leave(NOISY)
    assert hall.begun() == ["3"]


async def test_who_is_over_its_share_waits_for_a_turn_and_others_do_not() -> None:
    hall = Hall(places=8)
    made_noisy(hall, NOISY)
    assert not hall.call(NOISY, "noisy")
    for _ in range(20):
        assert hall.call(QUIET)
        hall.admission.leave(QUIET)
    assert hall.begun() == []
    hall.turn()
    assert hall.begun() == ["noisy"]


async def test_who_is_over_its_share_has_what_is_left_of_the_processor() -> None:
    hall = Hall(places=80)
    made_noisy(hall, NOISY)
    for number in range(12):
        assert not hall.call(NOISY, str(number))
    # A call that costs 3 ms comes every 5, whoever spent them; and however much was spent, one comes in the end.
    came = []
    for cost_s in (0.003, 0.003, 0.0, 0.0, 2 * OWED_S, 0.0, 0.0):
        came.append(hall.turn(cost_s))
        assert len(hall.begun()) == 1
    rest = 0.003 / BUSY
    assert came == pytest.approx([0.0, rest, rest, 0.0, 0.0, TURN_MAX_S, TURN_MAX_S])
    # What was not used is kept, for a moment only.
    hall.time += 1.0
    assert [hall.turn(), hall.turn(SAVED_S), hall.turn(0.0)] == pytest.approx([TURN_MAX_S, 0.0, 0.0])


@pytest.mark.parametrize("many", [1, 4, 40])
async def test_of_a_busy_process_each_tenant_over_its_share_has_turns_of_its_own(many: int) -> None:
    hall, over = Hall(places=400), [UUID(int=100 + n) for n in range(many)]
    for n in range(many):
        assert hall.call(UUID(int=1000 + n))
        hall.admission.leave(UUID(int=1000 + n))
    made_noisy(hall, *over)
    for tenant in over:
        for number in range(2):
            assert not hall.call(tenant, f"{number} of {tenant}")
    hall.turn(2 * OWED_S)  # one of them, or somebody else, has made it busy
    began = hall.time
    while "1" not in {name[0] for name in hall.begun()}:
        hall.turn(2 * OWED_S)
    # Each has had one, and the next begin to have another.
    assert hall.time - began == pytest.approx(max(TURN_MAX_S, many * TURNS_APART_S), rel=0.3)


async def test_a_process_with_time_to_spare_lets_nobody_wait_for_a_clock() -> None:
    hall = Hall(places=80)
    made_noisy(hall, NOISY)
    for number in range(20):
        assert not hall.call(NOISY, str(number))
    assert sum(hall.turn() for _ in range(20)) == 0.0
    assert len(hall.begun()) == 20


async def test_no_turn_comes_while_every_line_has_its_share() -> None:
    hall = Hall(places=6)
    made_noisy(hall, NOISY)
    for number in range(3):
        assert not hall.call(NOISY, str(number))
    hall.turn()
    hall.turn()
    assert (hall.begun(), hall.admission.share, hall.turns) == (["0", "1"], 2, [])
    hall.admission.leave(NOISY)
    hall.turn()
    assert hall.begun() == ["2"]


async def test_lines_are_served_by_the_fewest_begun_and_then_in_turn() -> None:
    hall = Hall(places=16)
    made_noisy(hall, NOISY, THIRD)
    for tenant, name in ((NOISY, "n"), (NOISY, "n"), (NOISY, "n"), (THIRD, "t"), (THIRD, "t"), (THIRD, "t")):
        assert not hall.call(tenant, name)
    served: list[str] = []
    while hall.turns:
        hall.turn()
        served += hall.begun()
    assert "".join(served) in ("ntntnt", "tntntn")
    assert not hall.admission.waiting


async def test_equals_are_never_over_their_share() -> None:
    hall = Hall(places=8)
    for _ in range(50):
        for tenant in (NOISY, QUIET, THIRD):
            assert hall.call(tenant)
            hall.admission.leave(tenant)


async def test_who_was_over_its_share_is_forgiven_with_time() -> None:
    hall = Hall(places=8)
    made_noisy(hall, NOISY)
    assert not hall.call(NOISY)
    hall.turn()
    hall.time += 3
    assert hall.call(NOISY)


async def test_refused_callers_are_asked_to_come_back_one_after_another() -> None:
    hall = Hall()
    for _ in range(TENANT_IN_FLIGHT):
        hall.call(NOISY)
    asked: list[float] = []
    for _ in range(300):
        with pytest.raises(ResourceExhausted) as refused:
            hall.call(NOISY)
        assert refused.value.retry_after_s is not None
        asked.append(refused.value.retry_after_s)
    assert asked[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert max(asked) == asked[-1] == pytest.approx(admission.LATEST_S)


async def test_who_waits_too_long_is_refused_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "LINE_S", 0.02)
    hall = Hall(places=2)
    hall.call(QUIET)
    hall.call(NOISY)
    hall.call(NOISY)
    place = hall.admission.enter(NOISY)
    assert place is not None
    with pytest.raises(ResourceExhausted) as refused:
        await hall.admission.wait(NOISY, place, 5.0)
    assert refused.value.retry_after_s
    place = hall.admission.enter(NOISY)
    assert place is not None
    with pytest.raises(TimeoutError):
        await hall.admission.wait(NOISY, place, 0.005)
    assert (hall.admission.waiting, hall.admission.under_way) == (0, 3)


async def test_those_who_came_at_one_moment_are_not_shed_at_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """All others would wait for their refusals."""
    monkeypatch.setattr(admission, "LINE_S", 0.4)
    hall, shed = Hall(places=2), list[float]()
    hall.call(QUIET)
    hall.call(NOISY)
    hall.call(NOISY)

    async def waits() -> None:
        place = hall.admission.enter(NOISY)
        assert place is not None
        with pytest.raises(ResourceExhausted):
            await hall.admission.wait(NOISY, place, 5.0)
        shed.append(time.monotonic())

    await asyncio.gather(*(waits() for _ in range(50)))
    early, late = shed[5], shed[-5]
    assert late - early > 0.05, "most of them within a moment"


async def test_a_place_that_comes_as_its_caller_goes_is_given_back() -> None:
    hall = Hall(places=2)
    hall.call(QUIET)
    hall.call(NOISY)
    hall.call(NOISY)
    place = hall.admission.enter(NOISY)
    assert place is not None
    late = asyncio.create_task(hall.admission.wait(NOISY, place, 5.0))
    await asyncio.sleep(0)
    hall.admission.leave(NOISY)
    assert place.done()
    late.cancel()
    with pytest.raises(asyncio.CancelledError):
        await late
    assert hall.admission.under_way == 2
