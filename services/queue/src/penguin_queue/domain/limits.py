"""What room there is believed to be in queues of which only so many jobs may be in flight. Pure: times are passed in.

A full queue is passed over as a whole: its lanes cost nothing until places come free, and then as few of them are looked into as
there are places. The database alone says how many there are.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

# Other processes' jobs end as well: a queue that is believed to be full is looked at again after so long, and one that another
# process is leasing from much sooner.
FULL = timedelta(milliseconds=50)
BUSY = timedelta(milliseconds=10)
# Places that such a look is for.
PROBED = 1
# Jobs of limited queues in workers' hands that are kept in mind: of the others it is not known whose places they leave.
IN_HAND_MAX = 100_000

# What a lease found: how many places each queue has left, None where another was leasing from it.
Rooms = Mapping[int, int | None]


class Limits:
    """Rooms of the queues that have a limit, by their numbers."""

    def __init__(self) -> None:
        self._queues: Mapping[str, int] = {}
        # What is not there is not known.
        self._rooms: dict[int, int] = {}
        self._shut_until: dict[int, datetime] = {}
        self._in_hand: dict[int, int] = {}
        self._freed: Counter[int] = Counter()

    @property
    def freed(self) -> Mapping[int, int]:
        """Places that have come free of each queue, in all."""
        return Counter(self._freed)

    def read(self, queues: Mapping[str, int]) -> None:
        """These kinds are of these queues, which have a limit; no others are."""
        if queues == self._queues:
            return
        self._queues = queues
        self._rooms.clear()
        self._shut_until.clear()
        limited = set(queues.values())
        self._in_hand = {job_id: queue for job_id, queue in self._in_hand.items() if queue in limited}

    def wake(self, at: datetime) -> None:
        """Full queues may have room again by now; or the clock was put back."""
        for queue in [queue for queue, until in self._shut_until.items() if not at < until <= at + FULL]:
            del self._shut_until[queue]
            self._rooms[queue] = PROBED

    def queue(self, kind: str) -> int | None:
        """The number of a kind's queue, where that has a limit."""
        return self._queues.get(kind)

    def kinds(self, queues: Iterable[int]) -> list[str]:
        """All kinds of these queues."""
        among = set(queues)
        return [kind for kind, queue in self._queues.items() if queue in among] if among else []

    def full(self, kind: str) -> bool:
        """Whether nothing of the kind is believed to be had just now, whatever is ready."""
        return self._rooms.get(self._queues.get(kind, -1)) == 0

    def room(self, queue: int) -> int | None:
        """Places believed to be free; None where that is not known."""
        return self._rooms.get(queue)

    def any_open(self, kinds: Iterable[str], at: datetime) -> bool:
        """Whether something of these kinds (none: all) may be had within a limit."""
        self.wake(at)
        return any(kind in self._queues and not self.full(kind) for kind in (tuple(kinds) or self._queues))

    def found(self, rooms: Rooms, freed: Mapping[int, int], at: datetime) -> None:
        """What a lease found that began when so many places had come `freed`, and ended at `at`."""
        for queue, room in rooms.items():
            # It may not have seen those that came free meanwhile; the next one will.
            left = self._rooms[queue] = (room or 0) + self._freed[queue] - freed.get(queue, 0)
            if left:
                self._shut_until.pop(queue, None)
            else:
                self._shut_until[queue] = at + (BUSY if room is None else FULL)

    def given(self, kind: str, ids: Iterable[int]) -> None:
        """These jobs are in workers' hands."""
        if (queue := self._queues.get(kind)) is None:
            return
        self._in_hand.update(dict.fromkeys(ids, queue))
        if (over := len(self._in_hand) - IN_HAND_MAX) > 0:
            for job_id in list(itertools.islice(self._in_hand, over)):
                del self._in_hand[job_id]

    def ended(self, ids: Iterable[int]) -> Counter[str]:
        """These jobs are in nobody's hands any more; returns how many may be had of which kinds by that."""
        if not self._in_hand:
            return Counter()
        freed = Counter(queue for job_id in ids if (queue := self._in_hand.pop(job_id, None)) is not None)
        self._freed += freed
        for queue, places in freed.items():
            if queue in self._rooms:
                self._rooms[queue] += places
                self._shut_until.pop(queue, None)
        if not freed:
            return Counter()
        return Counter({kind: freed[queue] for kind, queue in self._queues.items() if queue in freed})
