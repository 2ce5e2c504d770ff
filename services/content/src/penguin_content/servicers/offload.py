"""Keeps the event loop free: work over many bytes goes to a thread, small work is done where it stands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# What is compressed or hashed in about 6 ms (bytes): below it, a thread's contention for the interpreter costs more than
# the loop is spared (a fifth more processor time for batches of a hundred bodies).
THRESHOLD = 768 * 1024
# A byte of mail to be parsed takes as long as this many that are only compressed.
PARSED = 8


async def offload(size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`work(*args)`: where it is to go over THRESHOLD bytes or more, in a thread."""
    if size < THRESHOLD:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)
