"""What every command stands on: where the local stack is, and how a failure is told. It knows no tier, so that commands
which call none start at once."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop
from rich.console import Console

FAILED = 1
USAGE = 2
UNREACHABLE = 3
# Wide enough for ids and addresses where there is no terminal to ask.
_PIPED_WIDTH = 160


class CommandError(Exception):
    """What the command was asked for cannot be done; the text says why and what would help."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


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
        # Only here: knowing every failure means knowing every tier.
        from penguin_cli import failures

        cause = failures.first_of(error)
        if not failures.foreseen(cause):
            raise
        screen(errors=True).print(failures.described(cause))
        raise typer.Exit(failures.exit_code(cause)) from None
