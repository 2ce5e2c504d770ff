"""A line whose order changes while it stands. Who is first costs the logarithm of how many there are; a change costs nothing
until it matters."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")

# So many entries are never cleared away.
_FEW = 64


class Line(Generic[Item]):
    """Items by a key, least first, those alike in their own order. Entries may be out of date: a key that has grown is found
    out when its entry comes to be first; who makes one less says so by `put`."""

    def __init__(self, key: Callable[[Item], Any]) -> None:
        # None for what is not in line.
        self._key = key
        self._entries: list[tuple[Any, Item]] = []
        self._most = _FEW

    def put(self, item: Item) -> None:
        """It has come into the line, or its key is less than it was."""
        if (key := self._key(item)) is None:
            return
        heapq.heappush(self._entries, (key, item))
        if len(self._entries) > self._most:
            self._clear()

    def first(self) -> tuple[Any, Item] | None:
        """The least key and its item, if there is one."""
        entries = self._entries
        while entries:
            known, item = entry = entries[0]
            key = self._key(item)
            if key == known:
                return entry
            if key is None or key < known:
                # What is less has another entry.
                heapq.heappop(entries)
            else:
                heapq.heapreplace(entries, (key, item))
        return None

    def ordered(self) -> Generator[tuple[Any, Item], None, None]:
        """All of them, least first, each once. They are back in line when the iterator is closed; no key may change and nothing
        be put until then."""
        out: list[tuple[Any, Item]] = []
        try:
            while (entry := self.first()) is not None:
                heapq.heappop(self._entries)
                # What was put twice comes twice in a row.
                if not out or out[-1] != entry:
                    out.append(entry)
                    yield entry
        finally:
            for entry in out:
                heapq.heappush(self._entries, entry)

    def _clear(self) -> None:
        """Leave one entry to each, and room for as many again."""
        self._entries = [
            (key, item) for item in {item for _, item in self._entries} if (key := self._key(item)) is not None
        ]
        heapq.heapify(self._entries)
        self._most = 2 * len(self._entries) + _FEW
