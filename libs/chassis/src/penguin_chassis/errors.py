"""The one translation from what went wrong to what a client is told.

A client gets a canonical status, one ErrorInfo with a reason of the contract's enum, and where they help BadRequest and
RetryInfo. Driver, SQL and exception texts never leave the process, nor do they enter the log: a traceback's places
do, its messages do not.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, NoReturn

import asyncpg
import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from penguin.common.v1 import errors_pb2
from penguin_chassis import faults
from penguin_chassis.defects import places
from penguin_chassis.faults import database_down

log = logging.getLogger(__name__)

# Domain error kind -> canonical status.
STATUS_OF_KIND: dict[str, int] = {
    "invalid_argument": code_pb2.INVALID_ARGUMENT,
    "unauthenticated": code_pb2.UNAUTHENTICATED,
    "permission_denied": code_pb2.PERMISSION_DENIED,
    "not_found": code_pb2.NOT_FOUND,
    "already_exists": code_pb2.ALREADY_EXISTS,
    "failed_precondition": code_pb2.FAILED_PRECONDITION,
    "aborted": code_pb2.ABORTED,
    "resource_exhausted": code_pb2.RESOURCE_EXHAUSTED,
    "unavailable": code_pb2.UNAVAILABLE,
    "deadline_exceeded": code_pb2.DEADLINE_EXCEEDED,
    "internal": code_pb2.INTERNAL,
    "unimplemented": code_pb2.UNIMPLEMENTED,
}
INTERNAL_TEXT = "Internal error."
# A text that PostgreSQL cannot hold.
UNSTORABLE = (asyncpg.CharacterNotInRepertoireError, asyncpg.UntranslatableCharacterError)
# Transactions that crossed, or a migration that came between a statement's planning and its use.
_AGAIN = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError, asyncpg.exceptions.InvalidCachedStatementError)
# The database is away, or the connection to it broke.
_DOWN = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.exceptions.OperatorInterventionError,
    asyncpg.exceptions.InsufficientResourcesError,
    asyncpg.exceptions.InternalClientError,
    # The connection leads to a server that was demoted.
    asyncpg.ReadOnlySQLTransactionError,
)


def as_fault(error: BaseException) -> faults.Fault | None:
    """What `error` means to a client, or None where it is a defect of ours."""
    if isinstance(error, faults.Fault):
        return error
    if isinstance(error, asyncpg.QueryCanceledError | TimeoutError | asyncio.TimeoutError):
        return faults.DeadlineExceeded()
    if isinstance(error, UNSTORABLE):
        return faults.InvalidArgument("The request holds a NUL character, which cannot be stored.")
    if isinstance(error, _AGAIN):
        # Nothing was written; the same call may simply be made again.
        return faults.Unavailable("Two writes crossed; try again.", retry_after_s=0.05)
    if isinstance(error, NotImplementedError):
        return faults.Unimplemented("The method is not in this server.")
    if isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError):
        return None  # a value the driver cannot encode: our defect, and the database is well
    if isinstance(error, _DOWN):
        return database_down()
    return None


def reason_number(reason: str) -> errors_pb2.ErrorReason.ValueType:
    """The contract's number for a fault's reason."""
    return errors_pb2.ErrorReason.Value(f"ERROR_REASON_{reason}")


def to_status(fault: faults.Fault, domain: str) -> status_pb2.Status:
    """A fault as google.rpc.Status; `domain` is the tier's name."""
    reason_number(fault.reason)  # a reason outside of the contract is a defect, found here
    info = error_details_pb2.ErrorInfo(reason=fault.reason, domain=f"{domain}.penguinmails", metadata=fault.metadata)
    details: list[Any] = [info]
    if isinstance(fault, faults.InvalidArgument) and fault.violations:
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.message, reason=v.rule)
                    for v in fault.violations
                ]
            )
        )
    if fault.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(int(fault.retry_after_s * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=STATUS_OF_KIND[fault.kind], message=fault.message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def item_error(fault: faults.Fault) -> errors_pb2.ItemError:
    """A fault as the answer to one item of a batch."""
    return errors_pb2.ItemError(
        code=STATUS_OF_KIND[fault.kind], reason=reason_number(fault.reason), message=fault.message, field=fault.field
    )


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: BaseException, domain: str) -> NoReturn:
    """End the call with what `error` means to its client."""
    fault = as_fault(error)
    if fault is None:
        log.error("unexpected %s", type(error).__name__, extra={"places": places(error)})
        fault = faults.Fault(INTERNAL_TEXT)
    status = rpc_status.to_status(to_status(fault, domain))
    # abort, not abort_with_status: the tracing wrapper around the context sees only the former.
    await context.abort(status.code, status.details, status.trailing_metadata)
    raise AssertionError("abort returned")
