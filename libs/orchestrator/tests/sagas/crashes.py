"""Stops a process at a named call: before it, after its effect and before its reply, or after its reply and before the
journal's next word. Points are found by watching a run, so that a new step, or a new call of one, has its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import grpc

from penguin_chassis import barrier
from penguin_chassis.faults import FailedPrecondition
from penguin_orchestrator.clients import Tier, _rule
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.sagas.deeds import Deed
from penguin_orchestrator.sagas.definition import ACTION, Act, Definition, Step
from penguin_orchestrator.tokens import TokenSource

BEFORE, EFFECT, REPLY = "before the call", "after its effect", "after its reply"
# Where a step, and not the journal, makes the call: its name and operation.
_deed: ContextVar[tuple[str, str]] = ContextVar("deed", default=("", ""))


class Killed(BaseException):
    """The process is gone: nothing of it runs on."""


@dataclass(frozen=True, order=True)
class Place:
    """A call of a run: whose step makes it (nothing: the journal), which method, and which of them by number."""

    step: str
    operation: str
    method: str
    number: int


@dataclass
class Probe:
    """What becomes of calls: counted, refused for a step, or the end of the process."""

    kill: tuple[Place, str] | None = None
    refused: tuple[str, str] | None = None
    # Steps that tell their tiers to hold by a refusal, and the one whose tier refuses it, once.
    finals: set[str] = field(default_factory=set)
    refused_there: str = ""
    # A method that is refused wherever it is called.
    refuses: str = ""
    seen: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    # Where calls were made, and at which moments a process can end there.
    places: dict[Place, tuple[str, ...]] = field(default_factory=dict)
    dead: bool = False
    doomed: bool = False
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def heal(self) -> None:
        """Let calls pass."""
        self.kill, self.refused, self.refuses, self.dead, self.doomed = None, None, "", False, False
        self.refused_there = ""
        self.seen, self.places = Counter(), {}

    def revive(self) -> None:
        """Another process: it is not killed; what refuses goes on refusing."""
        self.kill, self.dead, self.doomed = None, False, False

    def enter(self, path: str) -> Place:
        """A call is about to be made."""
        if self.dead or (self.doomed and not _deed.get()[0]):
            self.dead = True
            raise Killed
        key = (*_deed.get(), path.rsplit("/", 1)[-1])
        place = Place(*key, self.seen[key])
        self.seen[key] += 1
        self.places[place] = () if _rule(path)[0].endswith(".read") else (BEFORE,)
        self._end(place, BEFORE)
        if place.method == self.refuses:
            raise refusal(path)
        return place

    def done(self, place: Place) -> None:
        """It has had its effect, and is answered: unless its caller had given it up."""
        if self.places[place]:
            self.places[place] = (BEFORE, EFFECT, REPLY)
        self._end(place, EFFECT)
        # The journal's next word is the last thing it does not say.
        self.doomed = self.doomed or self.kill == (place, REPLY)

    def _end(self, place: Place, moment: str) -> None:
        if self.kill == (place, moment):
            self.dead = True
            raise Killed


class ProbedTier(Tier):
    """A tier each call of which passes the probe."""

    def __init__(self, name: str, channel: grpc.aio.Channel, tokens: TokenSource, probe: Probe) -> None:
        super().__init__(name, channel, tokens)
        self._probe = probe

    async def call(self, method: Any, request: Any, **how: Any) -> Any:
        """Call, unless the process ends."""
        # One at a time, in the order in which they are made: each run comes by the same places.
        async with self._probe.turn:
            place = self._probe.enter(method._method.decode())
            try:
                reply = await super().call(method, request, **how)
            except TierError:
                # What a tier refuses may leave something, too.
                self._probe.done(place)
                raise
            self._probe.done(place)
            return reply

    async def stream(self, method: Any, request: Any, *, timeout: float) -> AsyncIterator[Any]:
        """All of it in its turn: it changes nothing, and is no place to end at."""
        async with self._probe.turn:
            replies = [reply async for reply in super().stream(method, request, timeout=timeout)]
        for reply in replies:
            yield reply

    async def send_stream(self, *what: Any, **how: Any) -> Any:
        """In its turn: an upload alone is nothing, and the content that refers to it is the next call."""
        async with self._probe.turn:
            return await super().send_stream(*what, **how)


def tiers_that_refuse(probe: Probe) -> Callable[..., Awaitable[Any]]:
    """The barrier's `claim` of tiers that refuse the probe's step, once: what comes of that is theirs to keep."""
    claim = barrier.claim

    async def claimed(connection: Any, step: barrier.Step, kind: Any) -> Any:
        done, name = await claim(connection, step, kind), step.key.rpartition(":")[2]
        if step.refusal_stands:
            probe.finals.add(name)
        if done is None and step.refusal_stands and name == probe.refused_there:
            probe.refused_there = ""
            raise FailedPrecondition("Refused by a test.")
        return done

    return claimed


def refusal(what: str) -> TierError:
    """No, and for good."""
    return TierError(what, grpc.StatusCode.FAILED_PRECONDITION, "STATE_CONFLICT", "refused by a test")


def probed(definition: Definition, probe: Probe) -> Definition:
    """The definition, each of whose steps says who it is, and is refused where the probe says so."""

    def marked(step: Step, act: Act) -> Act:
        async def marked_act(deed: Deed) -> Mapping[str, Any] | None:
            _deed.set((deed.step, deed.operation))
            if probe.refused == (deed.step, deed.operation):
                raise refusal(step.tier)
            return await act(deed)

        return marked_act

    return replace(
        definition,
        steps=tuple(
            replace(step, act=marked(step, step.act), undo=step.undo and marked(step, step.undo))
            for step in definition.steps
        ),
    )


def refusals(definition: Definition) -> list[tuple[str, str] | None]:
    """Each way in which a saga can go: nothing is refused, or one of its actions is."""
    return [None, *((step.name, ACTION) for step in definition.steps)]


def points(places: Mapping[Place, Sequence[str]], moments: Collection[str]) -> list[tuple[Place, str]]:
    """Every place at each of these moments. A call that only reads is none: what is before it is what is after the call
    before it."""
    return [(place, moment) for place in sorted(places) for moment in places[place] if moment in moments]


def told(ends: Mapping[Any, int]) -> str:
    """How many points there were, and how they ended."""
    return f"{sum(ends.values())} crash points, {', '.join(f'{count} {end}' for end, count in sorted(ends.items()))}"


async def killed(work: Any) -> None:
    """Let the work run until it is killed, or to its end."""
    with contextlib.suppress(Killed):
        await asyncio.wait_for(work, 20)
