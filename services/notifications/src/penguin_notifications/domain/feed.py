"""Where a watcher stands in the feed, and the opaque token that says so.

The feed is ordered by (transaction, id) and read only below the oldest transaction still open, so what lies before a place
never changes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from penguin_chassis.faults import InvalidArgument

if TYPE_CHECKING:
    from penguin_notifications.domain.notifications import Notification

_LAST = UUID(int=2**128 - 1)
# Whom the token is for, the transaction, the id.
_TOKEN = struct.Struct(">8sQ16s")
_MAX_XID = 2**63 - 1


@dataclass(frozen=True)
class Watcher:
    """Who watches: a user of a tenant, or (no user) only what is for the whole tenant."""

    tenant_id: UUID
    user_id: UUID | None

    @property
    def binding(self) -> bytes:
        """What marks this watcher's tokens as its own."""
        return hashlib.sha256(f"{self.tenant_id}/{self.user_id}".encode()).digest()[:8]


@dataclass(frozen=True)
class Place:
    """A place in the feed: everything up to (xid, id) has been read."""

    xid: int
    id: UUID


@dataclass(frozen=True)
class News:
    """What a look at the feed found: notifications with their places, and where the watcher stands after them."""

    found: tuple[tuple[Notification, Place], ...]
    place: Place
    # There was more than one look could hold.
    more: bool


def end_below(xid: int) -> Place:
    """The place after everything of the transactions below `xid`."""
    return Place(xid - 1, _LAST)


def token_of(watcher: Watcher, place: Place) -> str:
    """The resume token of a place."""
    packed = _TOKEN.pack(watcher.binding, place.xid, place.id.bytes)
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def place_of(watcher: Watcher, token: str) -> Place:
    """The place a resume token stands for; raises InvalidArgument (INVALID_RESUME_TOKEN)."""
    try:
        packed = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        binding, xid, identifier = _TOKEN.unpack(packed)
    except (binascii.Error, struct.error, ValueError):
        raise invalid_token() from None
    if binding != watcher.binding or xid > _MAX_XID:
        raise invalid_token()
    return Place(xid, UUID(bytes=identifier))


def invalid_token() -> InvalidArgument:
    """The refusal of a token that no stream of this watcher gave."""
    return InvalidArgument(
        "The resume token is not one of this stream.", reason="INVALID_RESUME_TOKEN", field="resume_token"
    )
