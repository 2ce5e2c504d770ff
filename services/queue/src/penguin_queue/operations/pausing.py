"""A pause is answered when no lease under way can be ignorant of it."""

from __future__ import annotations

import asyncio

from penguin_chassis import calls
from penguin_chassis.faults import DeadlineExceeded
from penguin_queue.store.queues import QueueStore

# Leases take milliseconds: how soon and how seldom it is looked whether those under way are over (seconds).
LOOK_MIN_S, LOOK_MAX_S = 0.001, 0.1
# What is left to say so to the caller (seconds).
MARGIN_S = 0.25


async def leases_are_over(queues: QueueStore) -> None:
    """Wait for the leases that had begun when this is called: each read what rests before it locked its jobs, and may not
    have seen what was written since. Those that begin later do.

    The pause looks and takes no lock: behind one that it shared with leases all later leases would stand while one stalls. Raises DeadlineExceeded where one does not end in time; a repeat waits again.
    """
    under_way = await queues.leasing()
    pause_s = LOOK_MIN_S
    while under_way:
        if calls.remaining() < MARGIN_S + pause_s:
            raise DeadlineExceeded("It rests, but a lease that had begun before is still under way.")
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, LOOK_MAX_S)
        under_way &= await queues.leasing()
