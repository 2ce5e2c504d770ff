"""Which of two ways to a small lease is the quicker one just now, by their own times. The buffer is a second round trip
that pays only where PostgreSQL's look for ready jobs is slow (dead rows not yet vacuumed away); where it does not pay,
leases are not made to wait for it."""

from __future__ import annotations

# Share of the newest time in the running mean.
WEIGHT = 0.1
# The slower way is still gone every so many times, to know when it has become the quicker one.
PROBE_EVERY = 64
# And while the buffer is preferred PostgreSQL is looked at this often, so that what the buffer has lost is never overtaken
# for ever.
LOOK_EVERY = 4


class Pace:
    """Running means of the time that a small lease takes by the buffer and by the database alone (seconds)."""

    def __init__(self) -> None:
        self.by_buffer_s = 0.0
        self.by_database_s = 0.0
        self._turn = 0

    def prefers_buffer(self) -> bool:
        """Whether this lease should ask the buffer first."""
        self._turn += 1
        if self.by_buffer_s <= self.by_database_s:
            return self._turn % LOOK_EVERY != 0
        return self._turn % PROBE_EVERY == 0

    def took(self, seconds: float, *, by_buffer: bool) -> None:
        """What one lease took."""
        if by_buffer:
            self.by_buffer_s += WEIGHT * (seconds - self.by_buffer_s)
        else:
            self.by_database_s += WEIGHT * (seconds - self.by_database_s)
