"""Whether it is a job that kills its workers, or the workers as a whole that are away. Pure: times are passed in, in seconds."""

from __future__ import annotations

# After so long half of what was heard and lost counts.
HALF_LIFE_S = 60.0
# So many leases must have run out lately for the fleet to be thought away: fewer are some job's doing.
MANY = 10
# While it is, a job may lose so many more leases before it is taken for poison: it is spared, but not for ever.
SPARED = 10


class Fleet:
    """How many leases were ended by a word of their workers lately, and how many ran out without one."""

    def __init__(self) -> None:
        self._heard = 0.0
        self._lost = 0.0
        self._at = 0.0

    def heard(self, jobs: int, at: float) -> None:
        """Workers spoke of so many jobs in their hands."""
        self._pass(at)
        self._heard += jobs

    def lost(self, leases: int, at: float) -> int:
        """So many leases have run out. How many a job may lose beyond its queue's limit just now: some while more leases run
        out than are spoken of."""
        self._pass(at)
        self._lost += leases
        return SPARED if self._lost >= MANY and self._lost > self._heard else 0

    def _pass(self, at: float) -> None:
        kept = 0.5 ** (max(0.0, at - self._at) / HALF_LIFE_S)
        self._heard, self._lost, self._at = self._heard * kept, self._lost * kept, at
