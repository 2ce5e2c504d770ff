"""Small translations every servicer needs: enums to the words the domain uses, timestamps, ids."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import Any
from uuid import UUID

from asyncpg.pgproto import pgproto
from google.protobuf.timestamp_pb2 import Timestamp

from penguin_chassis.faults import InvalidArgument

_CAMEL = re.compile(r"(?<!^)(?=[A-Z])")


@cache
def _words(enum: Any) -> tuple[dict[int, str], dict[str, int]]:
    prefix = _CAMEL.sub("_", enum.DESCRIPTOR.name).upper() + "_"
    words = {v.number: v.name.removeprefix(prefix).lower() for v in enum.DESCRIPTOR.values}
    words[0] = ""
    return words, {word: number for number, word in words.items()}


def word(enum: Any, number: int, default: str = "") -> str:
    """The domain's word for an enum value: EMAIL_STATUS_SENT is "sent"; unspecified is `default`."""
    return _words(enum)[0][number] or default


def number(enum: Any, word: str | None) -> Any:
    """The enum value of a domain word; nothing is unspecified."""
    return _words(enum)[1][word or ""]


def stamp(at: datetime | None) -> Timestamp | None:
    """A datetime as a Timestamp, to be put into a message (which copies it); nothing stays nothing."""
    return None if at is None else _stamp(at)


@lru_cache(maxsize=64)
def _stamp(at: datetime) -> Timestamp:
    # A batch's rows share their times.
    result = Timestamp()
    result.FromDatetime(at)
    return result


def when(message: Any, field: str) -> datetime | None:
    """A Timestamp field as a datetime (UTC), or None where it is absent.

    Raises InvalidArgument naming the field for one outside of the years 1 to 9999.
    """
    if not message.HasField(field):
        return None
    try:
        moment: datetime = getattr(message, field).ToDatetime(UTC)
    except (ValueError, OverflowError):
        raise InvalidArgument(f"{field} is no moment between the years 1 and 9999.", field=field) from None
    return moment


def uuid_of(value: str | bytes) -> UUID:
    """An id from its text or its 16 bytes; raises ValueError for what is none.

    It is the database driver's kind of UUID: equal to any other, and read, written and hashed several times as fast.
    """
    identifier: UUID = pgproto.UUID(value)  # type: ignore[type-var]  # it takes both
    return identifier


def uuid_or_none(text: str) -> UUID | None:
    """An optional id."""
    return uuid_of(text) if text else None


def text(identifier: UUID | None) -> str:
    """An optional id as the wire has it."""
    return str(identifier) if identifier else ""
