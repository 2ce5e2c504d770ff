"""The data the demo ships: leads, template, attachment, and the replies that some of the leads send."""

from __future__ import annotations

from dataclasses import dataclass
from email.message import EmailMessage
from importlib import resources

from penguin_orchestrator.messages import Attachment

SUBJECT = "{{ first_name }}, a quarter of an hour for {{ company }}?"
_PACKAGE = "penguin_cli.demo_data"


@dataclass(frozen=True)
class Template:
    """What the campaign is rendered from."""

    subject: str
    text: str
    html: str
    attachment: Attachment


def template() -> Template:
    """The shipped template with its attachment."""
    files = resources.files(_PACKAGE)
    return Template(
        SUBJECT,
        (files / "template.txt").read_text(encoding="utf-8"),
        (files / "template.html").read_text(encoding="utf-8"),
        Attachment("how-we-work.pdf", "application/pdf", (files / "how-we-work.pdf").read_bytes()),
    )


def leads(count: int, *, last: bool = False) -> bytes:
    """The first (or last) so many of the shipped leads, as the file that a tenant would have."""
    heading, *lines = (resources.files(_PACKAGE) / "leads.csv").read_bytes().splitlines(keepends=True)
    return b"".join([heading, *(lines[-count:] if last else lines[:count])])


def reply(to_message_id: str, sender: str, mailbox: str, number: int) -> bytes:
    """The raw source of a lead's answer."""
    message = EmailMessage()
    message["From"] = sender
    message["To"] = mailbox
    message["Subject"] = "Re: a quarter of an hour"
    message["Message-ID"] = f"<reply-{number}.{to_message_id.strip('<>')}>"
    message["In-Reply-To"] = to_message_id
    message["References"] = to_message_id
    message.set_content(f"Gerne, Tuesday at {9 + number % 8} suits me.\n\n> How we work fits on one page\n")
    return message.as_bytes()
