"""Jobs' ids: taken from the database in blocks, given out in rows. What a process does not use is never used."""

from __future__ import annotations

from penguin_chassis.pool import Connection
from penguin_chassis.queries import load

sql = load("penguin_queue.store", "jobs.sql")

# As the sequence counts; one call takes no more.
BLOCK = 10_000


class JobIds:
    """The block that this process gives ids from."""

    def __init__(self) -> None:
        self._next = 0
        self._end = 0

    def at_hand(self, count: int) -> int | None:
        """The first of `count` ids in a row, if this block has as many left."""
        if self._end - self._next < count:
            return None
        first = self._next
        self._next += count
        return first

    async def take(self, connection: Connection, count: int) -> int:
        """The first of `count` ids in a row, at most BLOCK."""
        while (first := self.at_hand(count)) is None:
            block: int = await connection.fetchval(sql.block)
            # Others may have fetched a block meanwhile: the later one is kept, and the rest of the other is lost.
            self._next, self._end = block, block + BLOCK
        return first
