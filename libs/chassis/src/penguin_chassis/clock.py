"""The tier's clock. Stores and domains are handed the time and do not read it here."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)
