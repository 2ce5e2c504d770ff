"""From an update message and its mask to the fields that change, by the domain's names."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from penguin_chassis.masks import masked_fields


def changes(request: Any, update: Any, *, required: Collection[str] = (), **translated: Any) -> dict[str, Any]:
    """The masked fields of `update` with their new values; `translated` are those the domain has in other types.

    Raises InvalidArgument (INVALID_UPDATE_MASK, or a `required` field left empty).
    """
    names = masked_fields(update, request.update_mask, required=required)
    return {name: translated[name] if name in translated else getattr(update, name) for name in names}
