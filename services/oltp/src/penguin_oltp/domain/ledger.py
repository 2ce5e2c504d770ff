"""How far the ledger has been read, and what a day of it amounts to.

A reader's position is a transaction id. What it may promise in time ("every change committed before this is in") follows
from two readings: all that was committed before the clock of one reading lies below the newest transaction that had
ended by then, so it is covered once the oldest open transaction has passed that.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import orjson

from penguin_chassis.faults import InvalidArgument

# Kinds of the ledger's tallies -> the measures they are counted as, where the names differ.
MEASURE_OF_KIND = {"complained": "spam_complaints"}


@dataclass(frozen=True)
class Horizon:
    """A look at the database's transactions: the clock before it, the oldest one open, the first above all that ended.

    Whatever was committed before `at` lies below `above_ended`.
    """

    at: datetime
    oldest_open: int
    above_ended: int


@dataclass(frozen=True)
class Cursor:
    """Where a reader stands: everything below `position` is read, every change committed before `through` among it.

    `mark` is a reading still to be passed: once the oldest open transaction has, all before `mark_at` is read as well.
    """

    position: int = 0
    through: datetime | None = None
    mark: int = 0
    mark_at: datetime | None = None

    def advance(self, horizon: Horizon) -> Cursor:
        """The cursor after reading up to the oldest open transaction."""
        position = horizon.oldest_open
        if position >= horizon.above_ended:  # none has ended above one that is open
            return Cursor(position, horizon.at)
        if self.mark_at is None:
            return Cursor(position, self.through, horizon.above_ended, horizon.at)
        if position >= self.mark:
            return Cursor(position, self.mark_at, horizon.above_ended, horizon.at)
        return Cursor(position, self.through, self.mark, self.mark_at)

    def encode(self) -> str:
        """As readers keep it: opaque."""
        values = [self.position, _micros(self.through), self.mark, _micros(self.mark_at)]
        return base64.urlsafe_b64encode(orjson.dumps(values)).decode().rstrip("=")


def cursor_of(text: str) -> Cursor:
    """The cursor a reader gives back; nothing begins at the beginning. Raises InvalidArgument."""
    if not text:
        return Cursor()
    try:
        position, through, mark, mark_at = map(
            int, orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        )
        if not 0 <= position < 2**63:
            raise ValueError
        return Cursor(position, _time(through), mark, _time(mark_at))
    except (binascii.Error, ValueError, TypeError, OverflowError, OSError):
        raise InvalidArgument(
            "The cursor is not one of this method.", reason="INVALID_PAGE_TOKEN", field="cursor"
        ) from None


def _micros(at: datetime | None) -> int:
    return round(at.timestamp() * 1_000_000) if at else 0


def _time(micros: int) -> datetime | None:
    return datetime.fromtimestamp(micros / 1_000_000, UTC) if micros else None


@dataclass(frozen=True)
class ChangedDays:
    """Days (UTC) whose counts may have changed, oldest first, and the cursor after them."""

    days: tuple[str, ...]
    cursor: Cursor


@dataclass(frozen=True)
class Cell:
    """What the emails of one (campaign, step, mailbox) amount to on one day: a number per measure."""

    campaign_id: UUID | None
    step_id: UUID | None
    email_account_id: UUID | None
    measures: Mapping[str, int]
