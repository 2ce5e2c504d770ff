"""What can go wrong in a tier, in the tier's own words.

Domain code raises these; it knows no status codes, and nothing here imports gRPC, asyncpg or the contracts. The
translation to the wire stands in one table, in `errors`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class Fault(Exception):
    """A refusal with a reason that clients may branch on.

    `reason` is a member of penguin.common.v1.ErrorReason without its prefix; `message` is for people and must hold
    neither personal data nor anything another layer said; `field` is the request field at fault.
    """

    kind = "internal"
    reason = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        field: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or type(self).reason
        self.field = field
        self.metadata = dict(metadata or {})
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Violation:
    """One broken constraint: the field's path, the rule's id, and what it asks for."""

    field: str
    rule: str
    message: str


class InvalidArgument(Fault):
    """The request can never be carried out as it stands."""

    kind = "invalid_argument"
    reason = "INVALID_FIELD"

    def __init__(self, message: str, *, violations: tuple[Violation, ...] = (), **more: object) -> None:
        super().__init__(message, **more)  # type: ignore[arg-type]
        if not violations and self.field:
            violations = (Violation(self.field, self.reason.lower(), message),)
        self.violations = violations


class Unauthenticated(Fault):
    """Nobody vouches for the caller."""

    kind = "unauthenticated"
    reason = "TOKEN_MISSING"


class PermissionDenied(Fault):
    """The caller is known and may not."""

    kind = "permission_denied"
    reason = "SCOPE_MISSING"


class NotFound(Fault):
    """The tenant has no such resource."""

    kind = "not_found"
    reason = "NOT_FOUND"

    def __init__(self, resource: str, identifier: object, *, field: str = "") -> None:
        super().__init__(f"No such {resource}.", field=field, metadata={"resource": resource, "id": str(identifier)})


class AlreadyExists(Fault):
    """Something else stands under this key."""

    kind = "already_exists"
    reason = "ALREADY_EXISTS"


class RequestIdReused(AlreadyExists):
    """The idempotency key was used with another body."""

    reason = "REQUEST_ID_REUSED"

    def __init__(self, field: str = "request_id") -> None:
        super().__init__("This request_id was used before with another body.", field=field)


class FailedPrecondition(Fault):
    """The state of the tier does not allow it."""

    kind = "failed_precondition"
    reason = "STATE_CONFLICT"


class Aborted(Fault):
    """Somebody else was faster; read again and retry at a higher level."""

    kind = "aborted"
    reason = "ETAG_MISMATCH"


class ResourceExhausted(Fault):
    """A stated limit is reached."""

    kind = "resource_exhausted"
    reason = "TENANT_QUOTA"


class Unavailable(Fault):
    """The tier cannot answer now; the same call may be made again."""

    kind = "unavailable"
    reason = "TIER_DB_DOWN"


class DeadlineExceeded(Fault):
    """Time ran out inside the tier; the outcome is unknown to the caller."""

    kind = "deadline_exceeded"
    reason = "DEADLINE"

    def __init__(self, message: str = "The deadline passed.") -> None:
        super().__init__(message)


class Unimplemented(Fault):
    """The method is in the contract and not in this server."""

    kind = "unimplemented"
    reason = "UNIMPLEMENTED"


def stored(fault: Fault) -> bytes:
    """A fault as it is kept in a database."""
    told: dict[str, Any] = {
        "kind": fault.kind, "message": fault.message, "reason": fault.reason, "field": fault.field,
        "metadata": fault.metadata,
    }  # fmt: skip
    if isinstance(fault, InvalidArgument):
        told["violations"] = [[each.field, each.rule, each.message] for each in fault.violations]
    return json.dumps(told).encode()


def restored(data: bytes) -> Fault:
    """The fault that was stored."""
    told = json.loads(data)
    kinds = {kind.kind: kind for kind in Fault.__subclasses__()} | {Fault.kind: Fault}
    kind = kinds[told["kind"]]
    # Not every kind is made of the same parts.
    fault = kind.__new__(kind)
    Fault.__init__(fault, told["message"], reason=told["reason"], field=told["field"], metadata=told["metadata"])
    if isinstance(fault, InvalidArgument):
        fault.violations = tuple(Violation(*each) for each in told["violations"])
    return fault


def database_down(*, untouched: bool = False) -> Unavailable:
    """The tier's answer while its database is away; `untouched` where the call cannot have had an effect."""
    metadata = {"effect": "none"} if untouched else {}
    return Unavailable("The tier's database does not answer.", retry_after_s=1.0, metadata=metadata)
