"""Puts the commands together into one `penguin`. A command's module is imported when the command is asked for, so that
`penguin token` does not wait for what only a campaign needs."""

from __future__ import annotations

import importlib
from typing import Any

import typer
from typer.core import TyperGroup

from penguin_cli.surroundings import root_callback

HELP = """PenguinMails' data platform from a shell: the local stack, the main job, and what became of it.

Ends with 0 when done, 1 when refused or failed, 2 for wrong usage, 3 when a tier cannot be reached (try again),
130 when interrupted.
"""
# Each command and the module whose `add_to` adds it, in the order of the help.
MODULES = {
    "up": "stack_commands", "status": "status_commands", "logs": "stack_commands", "down": "stack_commands",
    "env": "stack_commands", "token": "token_commands", "demo": "demo_commands", "send": "sending",
    "import-mail": "mail", "tenant": "onboarding", "mailbox": "onboarding", "leads": "leads",
    "template": "onboarding", "campaign": "campaigns", "etl": "campaigns", "trace": "tracing", "why": "why",
    "queue": "queue_group", "schedule": "schedule_commands", "saga": "saga_commands",
    "reconcile": "reconcile_commands", "drill": "drill_commands", "subject": "subject_commands",
    "erasure": "erasure_commands", "restore": "erasure_commands",
}  # fmt: skip


class Commands(TyperGroup):
    """Finds commands by name."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Every command, in the order of the help."""
        return list(MODULES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, or None."""
        if cmd_name not in MODULES:
            return None
        part = typer.Typer()
        importlib.import_module(f"penguin_cli.{MODULES[cmd_name]}").add_to(part)
        return typer.main.get_group(part).get_command(ctx, cmd_name)


def build() -> typer.Typer:
    """The whole command line, made anew."""
    app = typer.Typer(
        cls=Commands, help=HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
    )
    app.callback()(root_callback)
    return app
