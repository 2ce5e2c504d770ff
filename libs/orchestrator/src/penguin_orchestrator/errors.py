"""What a tier's refusal is to a caller: one exception type with status, reason and field, and whether the outcome is known."""

from __future__ import annotations

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

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
# Refused before anything was done, for now.
LATER = frozenset({grpc.StatusCode.RESOURCE_EXHAUSTED})


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

    @property
    def outcome_unknown(self) -> bool:
        """Whether the tier may have carried the call out all the same."""
        return self.code in UNKNOWN_OUTCOME

    @property
    def retryable(self) -> bool:
        """Whether the same call may succeed later."""
        return self.outcome_unknown or self.code in LATER


def tier_error(tier: str, error: grpc.aio.AioRpcError) -> TierError:
    """A gRPC error with its details unpacked; damaged details are left out."""
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
    return TierError(
        tier, error.code(), reason, error.details() or "", field=field, metadata=metadata, retry_after_s=retry
    )
