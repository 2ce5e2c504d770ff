"""Sets this process's wall clock wrong; to be called before anything else is imported, for many take the time by name."""

from __future__ import annotations

import datetime
import importlib
import time
import types

# These ask us for the time, and compare it with their own compiled reading of the clock, which stays right.
COMPARING = ("grpc._channel", "grpc._common", "grpc.aio._utils", "grpc._cython.cygrpc")


def set_clock_wrong(seconds: float, honest_to: tuple[str, ...] = ()) -> None:
    """Whoever asks for the time from now on is told another, but for these modules."""
    right_time, right_time_ns, right = time.time, time.time_ns, datetime.datetime
    honest = types.SimpleNamespace(**vars(time))
    for name in COMPARING:
        vars(importlib.import_module(name))["time"] = honest

    class Known(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, right)

    class Wrong(datetime.datetime, metaclass=Known):
        # As large as the one that extensions know.
        __slots__ = ()

        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
            return right.fromtimestamp(right_time() + seconds, tz)

    time.time = lambda: right_time() + seconds
    time.time_ns = lambda: right_time_ns() + int(seconds * 1e9)
    datetime.datetime = Wrong  # type: ignore[misc]
    # Only now: what they import is to be told the wrong time.
    for name in honest_to:
        vars(importlib.import_module(name))["time"] = honest
