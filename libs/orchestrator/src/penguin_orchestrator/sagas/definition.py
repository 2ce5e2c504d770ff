"""What a saga consists of: steps as data, pinned to a version. Steps before the pivot can be undone; the pivot decides;
steps after it only go forward. Nothing here calls anybody."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penguin_orchestrator.sagas.deeds import Deed

ACTION = "action"
COMPENSATION = "compensation"
# What a step does; answers what is to be known of it (JSON-able). It may be called again, and is known by its step then.
Act = Callable[["Deed"], Awaitable[Mapping[str, Any] | None]]


class DefinitionError(Exception):
    """The steps do not fit together."""


@dataclass(frozen=True)
class Step:
    """One step. `after`: the steps that must be done before (none given: the one before it in the definition).

    A step that changes nothing is `pure` and needs no undo. `mints`: keys made for it, by name, journaled before it is
    first asked for. One that `tidies` takes away what nobody needs any more, also where the saga is given up.
    """

    name: str
    tier: str
    act: Act
    undo: Act | None = None
    after: tuple[str, ...] | None = None
    pivot: bool = False
    pure: bool = False
    mints: Mapping[str, Callable[[], str]] = field(default_factory=dict)
    tidies: bool = False


@dataclass(frozen=True)
class Definition:
    """A kind of saga in one version. Raises DefinitionError unless each step but the pivot stands before or after it, and
    each that stands before it, and the pivot, can be undone or is pure.

    `places`: where sagas of this kind wait for one another for long, how many a process recovers at once, in places of their
    own, so that no other kind waits with them (0: in those that the others share).
    """

    kind: str
    version: int
    steps: tuple[Step, ...]
    places: int = 0

    def __post_init__(self) -> None:
        names = [step.name for step in self.steps]
        pivots = [step.name for step in self.steps if step.pivot]
        if len(set(names)) != len(names) or len(pivots) != 1:
            raise DefinitionError(f"{self.id}: steps have names of their own, and one of them is the pivot")
        for n, name in enumerate(names):
            if not self.after(name) <= set(names[:n]):
                raise DefinitionError(f"{self.id}: {name} comes after a step that is not before it")
        for step in self.steps:
            before = step.name in self.ancestors(pivots[0]) or step.pivot
            if not before and pivots[0] not in self.ancestors(step.name):
                raise DefinitionError(f"{self.id}: {step.name} is neither before nor after the pivot")
            if before and step.undo is None and not step.pure:
                raise DefinitionError(f"{self.id}: {step.name} cannot be undone")
            if before and step.tidies:
                raise DefinitionError(f"{self.id}: {step.name} tidies what may still be needed")

    @property
    def id(self) -> str:
        """Kind and version in one word, as the journal is asked for it."""
        return f"{self.kind}/{self.version}"

    def step(self, name: str) -> Step:
        """The step of that name."""
        return next(step for step in self.steps if step.name == name)

    def after(self, name: str) -> set[str]:
        """The steps right before this one."""
        names = [step.name for step in self.steps]
        step = self.step(name)
        if step.after is not None:
            return set(step.after)
        place = names.index(name)
        return {names[place - 1]} if place else set()

    def ancestors(self, name: str) -> set[str]:
        """All the steps that are done before this one."""
        found: set[str] = set()
        waiting = self.after(name)
        while waiting:
            one = waiting.pop()
            found.add(one)
            waiting |= self.after(one) - found
        return found

    def forward(self, done: Collection[str]) -> list[Step]:
        """Steps that can be begun, given those that are done."""
        return [step for step in self.steps if step.name not in done and self.after(step.name) <= set(done)]

    def tidying(self, tried: Collection[str]) -> list[Step]:
        """What is left to do of a saga that is given up, given the steps that were tried."""
        return [step for step in self.steps if step.tidies and step.name not in tried]

    def backward(self, begun: Collection[str], undone: Collection[str]) -> list[Step]:
        """Steps that can be undone now: begun ones, after which no begun one is left. The last comes first."""
        left = [step for step in self.steps if step.name in begun and step.name not in undone and step.undo is not None]
        return [step for step in left if not any(step.name in self.ancestors(other.name) for other in left)]

    def decided(self, name: str) -> bool:
        """Whether the pivot is done by the time this step is asked for."""
        return any(self.step(each).pivot for each in self.ancestors(name))


class Registry:
    """Definitions by kind and version: old ones finish while new ones start."""

    def __init__(self, definitions: Iterable[Definition]) -> None:
        self._known = {(each.kind, each.version): each for each in definitions}

    def find(self, kind: str, version: int) -> Definition | None:
        """The definition, if this process knows it."""
        return self._known.get((kind, version))

    def newest(self, kind: str) -> Definition:
        """What a new saga of the kind is begun by; raises KeyError."""
        return self._known[kind, max(version for known, version in self._known if known == kind)]

    def ids(self) -> list[str]:
        """Every definition, as the journal is asked for them."""
        return sorted(each.id for each in self._known.values())

    def __iter__(self) -> Any:
        return iter(self._known.values())
