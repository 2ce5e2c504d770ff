"""What a tier's refusal is to a caller: one exception type with status, reason and field, and whether the outcome is known."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from penguin.common.v1 import errors_pb2

# The tier may have done it or not: ask again with the same request_id, never undo.
UNKNOWN_OUTCOME = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
    }
)
# Refused before anything was done, for now; but not for its size, nor by a limit of gRPC's own (which gives no reason).
LATER = frozenset({grpc.StatusCode.RESOURCE_EXHAUSTED})
NEVER = frozenset({"", "TOO_LARGE"})
# The reason of a call that was never made for want of a token.
NO_TOKEN = "NO_TOKEN"  # noqa: S105 - a reason, no secret
# Why a tier refuses what would change a closed tenant.
CLOSED = "TENANT_CLOSED"
# Why a tier whose database was restored refuses a tenant before erasures are replayed.
NOT_REPLAYED = "RESTORE_NOT_REPLAYED"
_CODES = {code.value[0]: code for code in grpc.StatusCode}
# What gRPC says where it found nobody to send the call to: it never left.
_UNSENT = ("connections to all backends failing", "failed to connect to all addresses", "DNS resolution failed")


class TierError(Exception):
    """A tier refused a call, or could not be reached."""

    def __init__(
        self,
        tier: str,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        *,
        field: str = "",
        metadata: dict[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"{tier}: {code.name} {reason}: {message}".strip(": "))
        self.tier = tier
        self.code = code
        self.reason = reason
        self.message = message
        self.field = field
        self.metadata = metadata or {}
        self.retry_after_s = retry_after_s
        # An earlier try of the same call got no answer: whatever was said to this one, that one may have been carried out.
        self.earlier_unknown = False

    @property
    def outcome_unknown(self) -> bool:
        """Whether the tier may have carried the call out all the same."""
        if self.earlier_unknown:
            return True
        # A tier says so where it had not begun: its database was away.
        without_effect = self.reason == NO_TOKEN or self.metadata.get("effect") == "none"
        return self.code in UNKNOWN_OUTCOME and not without_effect

    @property
    def retryable(self) -> bool:
        """Whether the same call may succeed later."""
        return self.code in UNKNOWN_OUTCOME or (self.code in LATER and self.reason not in NEVER)

    @property
    def of_token(self) -> bool:
        """Whether it was the token that was refused: one replica may not know its key yet, or any more."""
        return self.code is grpc.StatusCode.UNAUTHENTICATED

    @property
    def away(self) -> bool:
        """Whether the tier did not answer at all, or not in time: not the fault of what was asked, nor of whose it was."""
        return self.code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED} and not self.of_tenant

    @property
    def of_tenant(self) -> bool:
        """Whether the tier is there, and has this tenant alone wait: others' calls are none the worse for it."""
        return self.reason == NOT_REPLAYED and self.metadata.get("waits") == "tenant"


def tier_error(tier: str, error: grpc.aio.AioRpcError, *, tried_once: bool = False) -> TierError:
    """A gRPC error with its details unpacked; damaged details are left out.

    `tried_once`: the channel does not repeat the call, so that the error of its last try is that of its only one.
    """
    reason, field, metadata, retry = "", "", {}, None
    try:
        status = rpc_status.from_call(error)
    except ValueError:
        status = None
    for detail in status.details if status else ():
        info, bad, delay = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(bad) and bad.field_violations:
            field = bad.field_violations[0].field
        elif detail.Unpack(delay):
            retry = delay.retry_delay.ToTimedelta().total_seconds()
    if error.code() is grpc.StatusCode.UNAVAILABLE and not reason:
        reason = "UNREACHABLE"
        if tried_once and (error.details() or "").startswith(_UNSENT):
            metadata = {"effect": "none"}
    return TierError(
        tier, error.code(), reason, error.details() or "", field=field, metadata=metadata, retry_after_s=retry
    )


def item_failure(tier: str, error: errors_pb2.ItemError) -> TierError:
    """Why one item of a call was not carried out, as if it had been called alone."""
    reason = errors_pb2.ErrorReason.Name(error.reason).removeprefix("ERROR_REASON_")
    return TierError(tier, _CODES.get(error.code, grpc.StatusCode.UNKNOWN), reason, error.message, field=error.field)


@contextlib.asynccontextmanager
async def first_failure() -> AsyncIterator[None]:
    """Around a task group: raises the first thing that went wrong in it, as itself and not as a group."""
    failure: BaseException | None = None
    try:
        yield
    except BaseExceptionGroup as group:
        failure = group
        while isinstance(failure, BaseExceptionGroup):
            failure = failure.exceptions[0]
    if failure is not None:
        raise failure
