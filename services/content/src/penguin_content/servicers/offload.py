"""Keeps the event loop free: work over many bytes goes to a thread, small work is done where it stands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# Below this, handing over costs more than it spares (bytes).
THRESHOLD = 256 * 1024


async def offload(size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`work(*args)`, in a thread where it is to go over `size` bytes or more of THRESHOLD."""
    if size < THRESHOLD:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)
