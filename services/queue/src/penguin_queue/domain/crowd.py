"""Which of many lanes that are kept in mind gives way to a newcomer when there is room for no more. Pure."""

from __future__ import annotations

import itertools
from collections import OrderedDict, defaultdict
from collections.abc import Collection
from typing import Generic, Protocol, TypeVar
from uuid import UUID

# A tenant that has its share of lanes makes room by one of so many of them, those served last.
LOOKS = 8


class Kept(Protocol):
    """What is kept in mind: priority 1 is the highest."""

    @property
    def priority(self) -> int: ...

    @property
    def tenant_id(self) -> UUID: ...


Item = TypeVar("Item", bound=Kept)


class Crowd(Generic[Item]):
    """Items by priority and by tenant. In both those who had their turn are behind those who had none, the last one at the end."""

    def __init__(self) -> None:
        # With whether they have had a turn.
        self._lines: dict[int, OrderedDict[Item, bool]] = defaultdict(OrderedDict)
        self._own: dict[UUID, dict[Item, None]] = {}

    def of(self, tenant_id: UUID) -> Collection[Item]:
        """A tenant's."""
        return self._own.get(tenant_id, ())

    def add(self, item: Item) -> None:
        """It has come, and had no turn yet."""
        self._own.setdefault(item.tenant_id, {})[item] = None
        self._lines[item.priority][item] = False
        self._lines[item.priority].move_to_end(item, last=False)

    def served(self, item: Item) -> None:
        """It has had a turn."""
        self._lines[item.priority][item] = True
        self._lines[item.priority].move_to_end(item)
        own = self._own[item.tenant_id]
        del own[item]
        own[item] = None

    def drop(self, item: Item) -> None:
        """It has gone."""
        del self._lines[item.priority][item]
        del self._own[item.tenant_id][item]
        if not self._own[item.tenant_id]:
            del self._own[item.tenant_id]

    def gives_way(self, item: Item, reserve: int, *, alike: bool) -> Item | None:
        """Who gives way to a newcomer: one of a lower priority, or, where his own has less than `reserve`, of any other, but for the
        `reserve` of each; else, should those `alike`, the last of his own priority that had a turn, for all others wait longer. None
        where each of them is still to have his."""
        own = self._lines[item.priority]
        for other in sorted(self._lines, reverse=True):
            line = self._lines[other]
            below = other > item.priority or (other != item.priority and len(own) < reserve)
            if below and len(line) > reserve:
                return next(reversed(line))
        last, had_turn = next(reversed(own.items()), (None, False))
        return last if alike and had_turn else None

    def gives_own_way(self, item: Item, *, alike: bool) -> Item | None:
        """Who gives way among the newcomer's own tenant's."""
        last = itertools.islice(reversed(self._own[item.tenant_id]), LOOKS)
        had_turn = self._lines[item.priority]
        return next(
            (
                each
                for each in last
                if each.priority > item.priority or (alike and each.priority == item.priority and had_turn[each])
            ),
            None,
        )
