"""Waits for the signal to end."""

from __future__ import annotations

import asyncio


async def until_stopped(*signals: int) -> None:
    """Wait for one of these signals."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in signals:
        loop.add_signal_handler(each, stop.set)
    await stop.wait()
