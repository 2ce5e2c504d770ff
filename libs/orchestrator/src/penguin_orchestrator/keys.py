"""Mints ids, storage keys and generations on the caller's side. Keys are opaque: nobody, this module included, reads them."""

from __future__ import annotations

import time
from uuid import UUID

import uuid_utils

from penguin_chassis.wire import uuid_of

# Contents are reconciled by generation: one an hour is closed long before its contents' claim_by has passed.
GENERATION_S = 3600
_REQUESTS = uuid_utils.UUID("5b0a2c1e-6f5d-5b52-9c57-8a1f4a3f7d10")


def new_id() -> UUID:
    """A UUIDv7: unique, and in the order of creation, so that indexes of it grow at one end."""
    return uuid_of(uuid_utils.uuid7().bytes)


def storage_key() -> str:
    """A fresh storage key; at most 500 characters, used once."""
    return uuid_utils.uuid7().hex


def generation(now_s: float | None = None) -> int:
    """The creation generation of keys minted now."""
    return int((time.time() if now_s is None else now_s) // GENERATION_S)


def request_id(*parts: object) -> UUID:
    """The idempotency key of an act that is known by `parts`: the same parts, the same act."""
    return uuid_of(uuid_utils.uuid5(_REQUESTS, "\x1f".join(map(str, parts))).bytes)
