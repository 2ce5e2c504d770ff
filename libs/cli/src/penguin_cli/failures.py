"""Failures in words: a refusal is shown as tier, status, reason and field. It decides what is foreseen and what is a defect."""

from __future__ import annotations

from rich.markup import escape

from penguin_cli.surroundings import FAILED, UNREACHABLE, CommandError
from penguin_devstack.stack import NeverUpError, StackError
from penguin_devstack.stack_state import LockedError
from penguin_devstack.supervisor import StartError
from penguin_orchestrator.campaigns import LaunchError
from penguin_orchestrator.erasure_ledger import LedgerError
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.leadrecords import LeadFileError
from penguin_orchestrator.mailsources import MailSourceError
from penguin_orchestrator.messages import OutcomeUnknownError, SendError
from penguin_orchestrator.rendering import TemplateInvalidError
from penguin_orchestrator.sagas.carrying import SagaError, SagaUnfinishedError

# How a migration says that the database was made by another state of the code.
_OTHER_SCHEMA = "was changed after it was applied"
_REQUESTS_SHOWN = 3
_FORESEEN = (
    CommandError,
    TierError,
    SendError,
    OutcomeUnknownError,
    LaunchError,
    LeadFileError,
    TemplateInvalidError,
    MailSourceError,
    SagaError,
    LedgerError,
    StackError,
    NeverUpError,
    StartError,
    LockedError,
    TimeoutError,
    OSError,
)


def foreseen(error: BaseException) -> bool:
    """Whether words are enough: it is no defect of this program."""
    return isinstance(error, _FORESEEN)


def first_of(error: BaseException) -> BaseException:
    """The failure within a group of them; what was cancelled by it is no failure of its own."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def exit_code(error: BaseException) -> int:
    """What the process ends with for it."""
    if isinstance(error, CommandError):
        return error.exit_code
    if isinstance(error, NeverUpError | OutcomeUnknownError | SagaUnfinishedError | TimeoutError):
        return UNREACHABLE
    if isinstance(error, TierError):
        return UNREACHABLE if error.retryable else FAILED
    return FAILED


def described(error: BaseException) -> str:
    """The failure in words, as console markup."""
    match error:
        case TierError():
            return _refusal(error)
        case SendError():
            refusal = error.refusal
            at = f"\n  field   {escape(refusal.field)}" if refusal.field else ""
            return f"[bold red]refused[/]: {escape(refusal.message)}\n  reason  {refusal.reason}{at}"
        case NeverUpError():
            return f"[bold red]failed[/]: {escape(str(error))}; `penguin up` starts it"
        case StackError() if _OTHER_SCHEMA in str(error):
            return (
                f"[bold red]failed[/]: {escape(str(error))}\n"
                "the stack's folder holds data of another state of the code; `penguin down` and remove it to begin anew"
            )
        case OutcomeUnknownError():
            again = ", ".join(map(str, error.request_ids[:_REQUESTS_SHOWN]))
            more = f" and {left} more" if (left := len(error.request_ids) - _REQUESTS_SHOWN) > 0 else ""
            return (
                f"[bold red]failed[/]: {escape(str(error))}\n"
                f"  again   the same command with --request-id {again}{more} finishes it, and sends nothing twice"
            )
        case SagaError():
            held = error.held
            return (
                f"[bold red]failed[/]: {escape(str(error))}\n  see     penguin saga show {held.id} -t {held.tenant_id}"
            )
        case TimeoutError() if not str(error):
            return "[bold red]failed[/]: it took too long"
        case _:
            return f"[bold red]failed[/]: {escape(str(error))}"


def _refusal(error: TierError) -> str:
    lines = [f"[bold red]{error.tier} refused[/]: {escape(error.message) or 'no words were given'}"]
    lines.append(f"  status  {error.code.name}")
    if error.reason:
        lines.append(f"  reason  {escape(error.reason)}")
    if error.field:
        lines.append(f"  field   {escape(error.field)}")
    lines += [f"  {escape(name)}  {escape(value)}" for name, value in sorted(error.metadata.items())]
    if error.retry_after_s is not None:
        lines.append(f"  try again in {error.retry_after_s:g} s")
    return "\n".join(lines)
