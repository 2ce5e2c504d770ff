"""Queues whose rates let nothing go for now. Pure: times are passed in.

One whose own rate lets nothing go is passed over as a whole until its next tokens are there, and then as few of its lanes are looked
into as tokens may be; so are those of one whose jobs all waited for the rates of their keys. However many tenants wait, they keep
nobody waiting who goes by no rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

# Nothing is passed over for longer than this at once: the rate may be raised meanwhile.
LONGEST = timedelta(seconds=1)


class Paces:
    """The queues that have a rate, by their names."""

    def __init__(self) -> None:
        self._queues: Mapping[str, str] = {}
        self._dry_until: dict[str, datetime] = {}
        # Those that had too few tokens when they were last asked for some.
        self._short: set[str] = set()

    def read(self, queues: Mapping[str, str]) -> None:
        """These kinds are of these queues, which have a rate; no others are."""
        if queues != self._queues:
            self._queues = queues
            self._dry_until.clear()
            self._short.clear()

    def wake(self, at: datetime) -> None:
        """There may be tokens again by now; or the clock was put back."""
        for queue in [queue for queue, until in self._dry_until.items() if not at < until <= at + LONGEST]:
            del self._dry_until[queue]

    def ran_dry(self, queue: str, until: datetime) -> list[str]:
        """Its next tokens come then. Returns its kinds."""
        self._dry_until[queue] = until
        self._short.add(queue)
        return [kind for kind, of in self._queues.items() if of == queue]

    def refilled(self, queue: str) -> None:
        """Tokens have come back."""
        self._dry_until.pop(queue, None)

    def fell_short(self, queue: str) -> None:
        """None of its jobs had a token."""
        self._short.add(queue)

    def flowed(self, queue: str) -> None:
        """It had a token for each."""
        self._short.discard(queue)

    def dry(self, kind: str) -> bool:
        """Whether nothing of the kind is to be had just now, whatever is ready."""
        return self._queues.get(kind) in self._dry_until

    def short(self, kind: str) -> str | None:
        """A kind's queue, where that has few tokens if any."""
        queue = self._queues.get(kind)
        return queue if queue in self._short else None
