"""Opaque page tokens, bound to the method, the tenant and the filter they were given for, and to the life of the database."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable
from typing import Any, TypeVar

import orjson

from penguin_chassis import calls
from penguin_chassis.faults import InvalidArgument

T = TypeVar("T")

DEFAULT_PAGE_SIZE = 100


def page_size(asked: int, default: int = DEFAULT_PAGE_SIZE) -> int:
    """Rows to return: what was asked for, or the default."""
    return asked or default


def _binding(request: Any) -> str:
    """What a token must not be carried over to: the request without its paging fields."""
    bare = type(request)()
    bare.CopyFrom(request)
    bare.ClearField("page_token")
    bare.ClearField("page_size")
    call = calls.current_call()
    state = hashlib.sha256((call.method if call else bare.DESCRIPTOR.full_name).encode())
    if call is not None and call.life is not None:
        state.update(call.life.id.encode())
    state.update(bare.SerializeToString(deterministic=True))
    return state.hexdigest()[:16]


def next_token(request: Any, key: list[Any]) -> str:
    """The token of the page that begins after `key` (JSON-able)."""
    return base64.urlsafe_b64encode(orjson.dumps([_binding(request), key])).decode().rstrip("=")


def page_key(request: Any) -> list[Any] | None:
    """The key to continue after, or None for the first page; raises InvalidArgument (INVALID_PAGE_TOKEN)."""
    token: str = request.page_token
    if not token:
        return None
    try:
        binding, key = orjson.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        if binding == _binding(request) and isinstance(key, list):
            return key
    except (binascii.Error, ValueError, TypeError):
        pass
    raise _invalid()


def page_start(request: Any, decode: Callable[[list[Any]], T], first: T) -> T:
    """Where the page begins: `first`, or what `decode` makes of the key to continue after.

    Raises InvalidArgument (INVALID_PAGE_TOKEN), also for a key that `decode` makes nothing of.
    """
    key = page_key(request)
    if key is None:
        return first
    try:
        return decode(key)
    except (ValueError, TypeError, AttributeError, IndexError):
        raise _invalid() from None


def _invalid() -> InvalidArgument:
    return InvalidArgument("The page token is not one of this query.", reason="INVALID_PAGE_TOKEN", field="page_token")
