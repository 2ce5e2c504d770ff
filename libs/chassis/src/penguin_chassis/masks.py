"""Applies a FieldMask: which fields of an update message are to be written."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from penguin_chassis.faults import InvalidArgument


def masked_fields(update: Any, mask: Any, *, required: Collection[str] = ()) -> tuple[str, ...]:
    """The names in `mask`, each a field of `update`; "*" names all.

    Raises InvalidArgument for an empty mask, a name that is no field (INVALID_UPDATE_MASK), or a `required` field that
    would be emptied.
    """
    known = {f.name for f in update.DESCRIPTOR.fields}
    paths = tuple(dict.fromkeys(mask.paths))
    if paths == ("*",):
        paths = tuple(sorted(known))
    if not paths:
        raise InvalidArgument("update_mask names no field.", reason="INVALID_UPDATE_MASK", field="update_mask")
    for path in paths:
        if path not in known:
            raise InvalidArgument(
                f"update_mask names {path!r}, which cannot be updated.",
                reason="INVALID_UPDATE_MASK",
                field="update_mask",
            )
        if path in required and not getattr(update, path):
            raise InvalidArgument(f"{path} cannot be empty.", field=path)
    return paths
