"""Remembers what is away: leaves it alone for a while, longer each time, and tells of changes once."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterable

log = logging.getLogger(__name__)

AWAY_MIN_S = 0.25
AWAY_MAX_S = 5.0


class Standing:
    """Who answers and who does not; a line in the log for each change, none for each try."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._until: dict[str, float] = {}
        self._delay: dict[str, float] = {}

    @property
    def troubled(self) -> bool:
        """Whether anybody has not answered of late."""
        return bool(self._delay)

    def failed(self, name: str, why: str) -> float:
        """It did not answer; returns for how long it is to be left alone (seconds)."""
        now = time.monotonic()
        if self._until.get(name, 0.0) > now:
            return self._until[name] - now
        if name not in self._delay:
            log.warning("%s %s is held up: %s", self._what, name, why)
        self._delay[name] = min(self._delay.get(name, AWAY_MIN_S / 2) * 2, AWAY_MAX_S)
        wait = self._delay[name] * random.uniform(0.75, 1.0)
        self._until[name] = now + wait
        return wait

    def answered(self, name: str) -> None:
        """It is there."""
        if self._delay.pop(name, None) is not None:
            self._until.pop(name, None)
            log.info("%s %s goes on", self._what, name)

    def present(self, names: Iterable[str]) -> list[str]:
        """Those of `names` worth trying."""
        now = time.monotonic()
        return [name for name in names if self._until.get(name, 0.0) <= now]
