"""What the local SMTP receiver took of one run, decoded. Messages are told apart by Message-ID, and nothing is deduplicated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from email import message_from_bytes
from pathlib import Path

from penguin.content.v1 import content_service_pb2 as content_pb
from penguin.oltp.v1 import email_service_pb2 as email_pb
from penguin_devstack.spool import read_messages


@dataclass(frozen=True)
class Received:
    """One accepted message: its envelope, its Message-ID, and its parts as bytes."""

    message_id: str
    sender: str
    recipients: tuple[str, ...]
    text: bytes | None
    html: bytes | None
    files: tuple[tuple[str, str, bytes], ...]


def received_from(store: Path, sender: str, since: datetime) -> list[Received]:
    """Every message accepted from that envelope sender since then, in order of acceptance."""
    return [
        _decoded(message.sender, message.recipients, message.content)
        for message in read_messages(store)
        if message.received_at >= since and message.sender == sender
    ]


def _decoded(sender: str, recipients: tuple[str, ...], raw: bytes) -> Received:
    message = message_from_bytes(raw)
    bodies: dict[str, bytes] = {}
    files: list[tuple[str, str, bytes]] = []
    for part in message.walk():
        if part.is_multipart():
            continue
        data = part.get_payload(decode=True)
        content = data if isinstance(data, bytes) else b""
        name = part.get_filename()
        if name is not None:
            files.append((name, part.get_content_type(), content))
        else:
            bodies[part.get_content_type()] = content
    identifier = str(message.get("Message-ID", "")).strip()
    return Received(identifier, sender, recipients, bodies.get("text/plain"), bodies.get("text/html"), tuple(files))


def delivery_problems(emails: Sequence[email_pb.Email], received: Sequence[Received]) -> list[str]:
    """What is wrong if each email should have arrived exactly once, at its own recipient."""
    by_id: dict[str, list[Received]] = {}
    for message in received:
        by_id.setdefault(message.message_id, []).append(message)
    problems = []
    for email in emails:
        copies = by_id.get(email.message_id, [])
        if len(copies) != 1:
            problems.append(f"{email.recipient} received {len(copies)} messages (email {email.id})")
        elif copies[0].recipients != (email.recipient,):
            problems.append(f"the email for {email.recipient} went to {', '.join(copies[0].recipients)}")
    return problems


def stray_problems(emails: Sequence[email_pb.Email], received: Sequence[Received]) -> list[str]:
    """Messages of this sender that belong to none of the emails."""
    known = {email.message_id for email in emails}
    return [
        f"a message {message.message_id or 'without Message-ID'} to {', '.join(message.recipients)} is no email of the ledger"
        for message in received
        if message.message_id not in known
    ]


def part_problems(
    emails: Sequence[email_pb.Email], received: Sequence[Received], contents: Mapping[str, content_pb.Content]
) -> list[str]:
    """Where a decoded part differs from what Content stores, byte for byte."""
    by_id = {message.message_id: message for message in received}
    problems = []
    for email in emails:
        message, content = by_id.get(email.message_id), contents.get(email.content_storage_key)
        if message is None or content is None:
            problems.append(f"{email.recipient}: {'not received' if message is None else 'no content to compare with'}")
            continue
        stored = (content.text.encode(), content.html.encode())
        if (message.text, message.html) != stored:
            problems.append(f"{email.recipient}: the text or HTML received differs from the stored")
        files = tuple((each.filename, each.mime_type, each.data) for each in content.attachments)
        if message.files != files:
            problems.append(f"{email.recipient}: the attachments received differ from the stored")
    return problems


def personal_problems(emails: Sequence[email_pb.Email], received: Sequence[Received]) -> list[str]:
    """Where a message is not its recipient's own: every one names the address, and no two are alike."""
    recipients = {email.message_id: email.recipient.encode() for email in emails}
    problems = [
        f"the message to {message.recipients} does not name its recipient"
        for message in received
        if message.message_id in recipients
        and not all(recipients[message.message_id] in (part or b"") for part in (message.text, message.html))
    ]
    distinct = len({(message.text, message.html) for message in received})
    if distinct < len(emails):
        problems.append(f"only {distinct} of {len(emails)} bodies are different")
    return problems
