"""Holds messages against the constraints of the contract. One validator per process; it caches compiled rules."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.descriptor import FieldDescriptor
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
    raise _refusal(violations)


def refuse_unstorable(message: Message) -> None:
    """Raise InvalidArgument naming the text fields (at most 20) that hold a NUL, which PostgreSQL cannot store.

    For a request that the database has refused: a look at every field is too dear for every call.
    """
    found = tuple(faults.Violation(path, "string.no_nul", "must hold no NUL") for path in _with_nul(message, ""))
    if found:
        raise _refusal(found[:MAX_VIOLATIONS])


def _refusal(violations: tuple[faults.Violation, ...]) -> faults.InvalidArgument:
    first = violations[0]
    return faults.InvalidArgument(f"{first.field}: {first.message}", field=first.field, violations=violations)


def _with_nul(message: Message, prefix: str) -> Iterator[str]:
    for field, value in message.ListFields():
        path = f"{prefix}{field.name}"
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            if any(isinstance(part, str) and "\0" in part for pair in value.items() for part in pair):
                yield path
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            for i, each in enumerate(value if field.is_repeated else [value]):
                yield from _with_nul(each, f"{path}[{i}]." if field.is_repeated else f"{path}.")
        elif field.type == FieldDescriptor.TYPE_STRING:
            for i, each in enumerate(value if field.is_repeated else [value]):
                if "\0" in each:
                    yield f"{path}[{i}]" if field.is_repeated else path
