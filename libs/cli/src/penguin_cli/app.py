"""Puts the commands together into one `penguin`. It holds no command itself."""

from __future__ import annotations

import typer

from penguin_cli import (
    campaigns,
    demo_commands,
    mail,
    onboarding,
    sending,
    stack_commands,
    token_commands,
    tracing,
    why,
)
from penguin_cli.surroundings import root_callback

HELP = """PenguinMails' data platform from a shell: the local stack, the main job, and what became of it.

Ends with 0 when done, 1 when refused or failed, 2 for wrong usage, 3 when a tier cannot be reached (try again),
130 when interrupted.
"""


def build() -> typer.Typer:
    """The whole command line, made anew."""
    app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    app.callback()(root_callback)
    stack_commands.add_to(app)
    token_commands.add_to(app)
    demo_commands.add_to(app)
    sending.add_to(app)
    app.add_typer(onboarding.tenants(), name="tenant")
    app.add_typer(onboarding.mailboxes(), name="mailbox")
    app.add_typer(onboarding.leads(), name="leads")
    app.add_typer(onboarding.templates(), name="template")
    app.add_typer(campaigns.campaigns(), name="campaign")
    app.add_typer(campaigns.etl_commands(), name="etl")
    mail.add_to(app)
    tracing.add_to(app)
    why.add_to(app)
    return app
