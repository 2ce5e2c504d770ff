"""Lists that begin with the newest: where a page of one begins, as page tokens hold it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

# Before everything there can be.
NEWEST = (datetime.max.replace(tzinfo=UTC), UUID(int=2**128 - 1))


def key(created_at: datetime, identifier: UUID) -> list[Any]:
    """What a token holds of the last row of a page."""
    return [created_at.isoformat(), str(identifier)]


def before(key: list[Any]) -> tuple[datetime, UUID]:
    """Where the next page begins; raises ValueError for anything that `key` did not make."""
    created_at = datetime.fromisoformat(key[0])
    if created_at.tzinfo is None:
        raise ValueError("no time zone")
    return created_at, UUID(key[1])
