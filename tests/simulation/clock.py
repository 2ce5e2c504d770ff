"""Time that is not waited for, and chance that can be had again: an event loop whose clock jumps to the next timer once nobody has
anything to do, and the sources of time, ids and randomness put on it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import selectors
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from types import ModuleType
from typing import Any
from uuid import UUID

from penguin_chassis import clock
from penguin_orchestrator import blobs, keys, sending, subjects, tenants
from penguin_orchestrator.sagas import deeds, journal
from penguin_queue.domain import fleet
from penguin_worker import jobs, ledger
from penguin_worker import sending as worker_sending

# How long a database is given before somebody looks why it does not answer (real seconds).
STALL_S = 0.003
# The monotonic clock at the beginning of each history.
BEGINNING = 1000.0
# How long a saga is its owner's without word from it (seconds): longer than between two heartbeats.
SAGA_LEASE_S = 12.0
# The queue sees to its duties seldomer than in earnest, and is not away for that: longer than between two of them.
QUEUE_SILENCE = timedelta(seconds=60)
_TIMED: tuple[ModuleType, ...] = (blobs, sending, subjects, tenants, deeds, jobs, ledger, worker_sending)
_real_monotonic, _real_time = time.monotonic, time.time
real_process_time = time.process_time


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its time stands still while anything is being done, databases included, and jumps from timer to timer otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self._virtual = _real_monotonic()
        # What is due at one moment is due at once.
        self._clock_resolution = 1e-6
        # Wall clock less monotonic, as it was when all began.
        self._wall_offset = _real_time() - self._virtual
        # Transactions that are open, and what is asked where one of them does not go on.
        self.busy = 0
        self.on_stall: Any = None
        # Asked once nobody has anything to do; true where it has given somebody something.
        self.on_idle: Any = None
        self._real_select = self._selector.select  # type: ignore[attr-defined]
        self._selector.select = self._select  # type: ignore[attr-defined]

    def time(self) -> float:
        return self._virtual

    def begin_anew(self) -> None:
        """Set the clock back, and let the wall clock go on: the same times are then the same numbers. Timers are forgotten:
        nobody may wait for any."""
        self._wall_offset += self._virtual - BEGINNING
        self._virtual = BEGINNING
        self._scheduled.clear()  # type: ignore[attr-defined]
        self._timer_cancelled_count = 0

    def wall(self) -> float:
        """The wall clock in seconds since 1970."""
        return self._virtual + self._wall_offset

    def _select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            # First everything that can be done here, so that no answer ever comes in the midst of it: in which order
            # things happen depends on nothing but the seed.
            return []
        if self.on_idle is not None and self.on_idle():
            return []
        if self.busy:
            found = self._real_select(STALL_S)
            if not found and self.on_stall is not None:
                self.on_stall()
            return list(found)
        found = self._real_select(0)
        if not found:
            if timeout is None:
                raise RuntimeError("everybody waits, and for nothing")
            self._virtual += timeout
        return list(found)


class _Datetime(datetime):
    """`datetime`, as modules know it, on the virtual clock."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return datetime.fromtimestamp(time.time(), tz)


async def _at_once(work: Callable[..., Any], *given: Any, **more: Any) -> Any:
    """In place of a thread: nobody knows when that would be done."""
    return work(*given, **more)


class _Minted:
    """UUIDs of version 7 by the virtual clock and the seed."""

    def __init__(self) -> None:
        self._last = 0

    def new_id(self) -> UUID:
        # Ascending within a millisecond, as the real ones are.
        stamp = max(int(time.time() * 1000) << 12, self._last + 1)
        self._last = stamp
        top = (stamp >> 12 << 16) | 0x7000 | (stamp & 0xFFF)
        return UUID(int=(top << 64) | (0b10 << 62) | random.getrandbits(62))

    def storage_key(self) -> str:
        return self.new_id().hex


@contextlib.contextmanager
def on(loop: VirtualLoop) -> Iterator[None]:
    """Put this process's time and chance on the loop, for the time being."""
    minted = _Minted()
    changes: list[tuple[Any, str, Any]] = [
        (time, "monotonic", loop.time),
        (time, "time", loop.wall),
        # Nothing that is done takes any of the processor.
        (time, "process_time", lambda: 0.0),
        (os, "urandom", random.randbytes),
        (asyncio, "to_thread", _at_once),
        (clock, "wall", lambda: datetime.fromtimestamp(loop.wall(), UTC)),
        (keys, "new_id", minted.new_id),
        (keys, "storage_key", minted.storage_key),
        # Owners are lost oftener than in earnest.
        (journal, "LEASE_S", SAGA_LEASE_S),
        (fleet, "SILENCE", QUEUE_SILENCE),
        *((module, "datetime", _Datetime) for module in _TIMED),
    ]
    with _changed(changes):
        yield


@contextlib.contextmanager
def _changed(changes: list[tuple[Any, str, Any]]) -> Iterator[None]:
    before = [(where, name, getattr(where, name)) for where, name, _ in changes]
    try:
        for where, name, what in changes:
            setattr(where, name, what)
        yield
    finally:
        for where, name, what in before:
            setattr(where, name, what)
