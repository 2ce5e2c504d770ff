"""Holds messages against the constraints of the contract. One validator per process; it caches compiled rules."""

from __future__ import annotations

from google.protobuf.message import Message
from protovalidate import Validator

from penguin_chassis import faults

_validator = Validator()
# More would only lengthen the answer.
MAX_VIOLATIONS = 20


def _path(violation: object) -> str:
    """The field path of a violation in the form emails[3].recipient."""
    field = violation.proto.field  # type: ignore[attr-defined]
    if field is None:
        return ""
    parts: list[str] = []
    for element in field.elements:
        text = element.field_name or ""
        subscript = element.subscript
        if subscript is not None:
            text += f"[{subscript.value}]"
        parts.append(text)
    return ".".join(parts)


def validate(message: Message) -> None:
    """Raise InvalidArgument naming each field at fault (at most 20)."""
    found = _validator.collect_violations(message)
    if not found:
        return
    violations = tuple(
        faults.Violation(_path(v), v.proto.rule_id or "", v.proto.message or "is invalid")
        for v in found[:MAX_VIOLATIONS]
    )
    first = violations[0]
    raise faults.InvalidArgument(f"{first.field}: {first.message}", field=first.field, violations=violations)
