"""What every command stands on: where the local stack is, how the tiers are reached, and how a failure is told. A refusal
is shown as tier, status, reason and field; only a defect of this program ever shows a traceback."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop
from rich.console import Console
from rich.markup import escape

from penguin_chassis.settings import TelemetrySettings
from penguin_chassis.telemetry import telemetry
from penguin_devstack.stack import LocalStack, NeverUpError, StackError
from penguin_devstack.stack_state import LockedError
from penguin_devstack.supervisor import StartError
from penguin_orchestrator.campaigns import LaunchError
from penguin_orchestrator.config import PlatformConfig
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.mailsources import MailSourceError
from penguin_orchestrator.messages import OutcomeUnknownError, SendError
from penguin_orchestrator.platform import Penguin
from penguin_orchestrator.rendering import TemplateInvalidError

FAILED = 1
USAGE = 2
UNREACHABLE = 3
# Wide enough for ids and addresses where there is no terminal to ask.
_PIPED_WIDTH = 160
# How a migration says that the database was made by another state of the code.
_OTHER_SCHEMA = "was changed after it was applied"


class CommandError(Exception):
    """What the command was asked for cannot be done; the text says why and what would help."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


_TOLD = (
    CommandError,
    TierError,
    SendError,
    OutcomeUnknownError,
    LaunchError,
    TemplateInvalidError,
    MailSourceError,
    StackError,
    NeverUpError,
    StartError,
    LockedError,
    TimeoutError,
    OSError,
)


def screen(*, errors: bool = False) -> Console:
    """A console on the present stdout, or stderr."""
    stream = sys.stderr if errors else sys.stdout
    return Console(stderr=errors, width=None if stream.isatty() else _PIPED_WIDTH, highlight=False)


def root_callback(
    context: typer.Context,
    root: Annotated[
        Path | None,
        typer.Option(help="Folder of the local stack.", envvar="PENGUIN_ROOT", show_default="nearest .local"),
    ] = None,
) -> None:
    """Remember where the stack is."""
    context.obj = (root or nearest_root(Path.cwd())).absolute()


def nearest_root(start: Path) -> Path:
    """`.local` of the nearest folder upwards that has one or is a repository's root; else of `start`."""
    for folder in (start, *start.parents):
        if (folder / ".local").is_dir() or (folder / ".git").exists():
            return folder / ".local"
    return start / ".local"


def root_of(context: typer.Context) -> Path:
    """The stack's folder for this command."""
    root: Path = context.find_root().obj
    return root


def platform_config(root: Path, *, local: bool = False) -> PlatformConfig:
    """How the tiers are reached: as the environment says, or else (or if `local`) in the local stack.

    Raises CommandError if that is down.
    """
    if os.environ.get("PENGUIN_TOKEN_URL") and not local:
        return PlatformConfig()
    stack = LocalStack(root)
    status = stack.status().status
    if status != "ready":
        raise CommandError(f"the local stack in {root} is {status}; `penguin up` starts it", UNREACHABLE)
    known = {str(field.validation_alias) for field in PlatformConfig.model_fields.values()}
    values: dict[str, Any] = {name: value for name, value in stack.environment("cli").items() if name in known}
    return PlatformConfig(**values)


@contextlib.asynccontextmanager
async def connected(root: Path, *, traced: bool = False, local: bool = False) -> AsyncIterator[Penguin]:
    """The platform as this command's caller has it; with `traced` its acts show in `penguin trace`."""
    config = platform_config(root, local=local)
    with telemetry(_telemetry(root, local)) if traced else contextlib.nullcontext():
        async with Penguin.connect(config) as penguin:
            yield penguin


def _telemetry(root: Path, local: bool) -> TelemetrySettings:
    endpoint = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "")
    if local or not os.environ.get("PENGUIN_TOKEN_URL"):
        endpoint = LocalStack(root).environment("cli")["OTEL_EXPORTER_OTLP_ENDPOINT"]
    return TelemetrySettings("penguin-cli", endpoint, log_level="ERROR")


def act(work: Coroutine[Any, Any, None]) -> None:
    """Run a command's work to its end, telling failures in words and leaving with the exit code they deserve."""
    with told():
        uvloop.run(work)


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Tell a foreseen failure in words and leave with its exit code; anything else is a defect and passes through."""
    try:
        yield
    except Exception as error:
        cause = first_of(error)
        if not isinstance(cause, _TOLD):
            raise
        screen(errors=True).print(described(cause))
        raise typer.Exit(exit_code(cause)) from None


def first_of(error: BaseException) -> BaseException:
    """The failure within a group of them; what was cancelled by it is no failure of its own."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def exit_code(error: BaseException) -> int:
    """What the process ends with for it."""
    if isinstance(error, CommandError):
        return error.exit_code
    if isinstance(error, NeverUpError | OutcomeUnknownError | TimeoutError):
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
