"""`queue`: the queue tier for those who run the platform, and for a tenant's own jobs."""

from __future__ import annotations

import typer

from penguin_cli import queue_admin_commands, queue_commands


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    group = typer.Typer(help="Jobs: queues, what rests, what waits.", no_args_is_help=True)
    queue_admin_commands.add_to(group)
    queue_commands.add_to(group)
    app.add_typer(group, name="queue", rich_help_panel="Operations")
