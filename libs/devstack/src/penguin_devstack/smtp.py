"""A local receiving SMTP server that keeps every accepted message and deduplicates none, so that a double delivery
shows. It relays nothing. Certain recipients make it misbehave on purpose; see `Behaviour`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import re
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, Envelope, Session

from penguin_devstack.ports import LOOPBACK
from penguin_devstack.spool import ReceivedMessage, SpoolWriter, read_messages

__all__ = ["Behaviour", "ReceivedMessage", "read_messages", "serve"]

_LARGEST_MESSAGE = 64 * 1024 * 1024
_LONGEST_DELAY_S = 60.0
_IDLE_TIMEOUT_S = 300.0
_REFUSE_RECIPIENT = re.compile(r"(?:reject|tempfail)-([45]\d\d)(?:\D|$)")
_REFUSE_DATA = re.compile(r"(?:reject|tempfail)-data-([45]\d\d)(?:\D|$)")
_SLOW = re.compile(r"slow-(\d{1,6})(?:\D|$)")
_DROP = re.compile(r"drop(?:\W|$)")


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a recipient's local part asks for.

    `reject-550…`/`tempfail-451…`: RCPT is refused with that code. `reject-data-554…`: the message is refused after its
    data. `slow-2000…`: kept, and the answer comes so many milliseconds later. `drop…`: kept, and the connection ends
    without an answer, so the sender cannot know.
    """

    rcpt_code: int | None = None
    data_code: int | None = None
    delay_s: float = 0.0
    drop: bool = False

    @classmethod
    def of(cls, recipient: str) -> Behaviour:
        local = recipient.rpartition("@")[0].lower()
        data_code, rcpt_code, slow = (p.match(local) for p in (_REFUSE_DATA, _REFUSE_RECIPIENT, _SLOW))
        return cls(
            rcpt_code=int(rcpt_code[1]) if rcpt_code else None,
            data_code=int(data_code[1]) if data_code else None,
            delay_s=min(int(slow[1]) / 1000, _LONGEST_DELAY_S) if slow else 0.0,
            drop=_DROP.match(local) is not None,
        )

    @classmethod
    def of_all(cls, recipients: Iterable[str]) -> Behaviour:
        """One message to several recipients takes the worst of each."""
        each = [cls.of(recipient) for recipient in recipients]
        return cls(
            data_code=next((behaviour.data_code for behaviour in each if behaviour.data_code), None),
            delay_s=max((behaviour.delay_s for behaviour in each), default=0.0),
            drop=any(behaviour.drop for behaviour in each),
        )


class _Receiver:
    """The hooks of aiosmtpd; it calls them by these names."""

    def __init__(self, writer: SpoolWriter) -> None:
        self._writer = writer

    async def handle_EHLO(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        # The server reads commands from a stream one after another, so a pipelining client is served already.
        return [*responses[:-1], "250-PIPELINING", responses[-1]]

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        code = Behaviour.of(address).rcpt_code
        if code is not None:
            return f"{code} {'5.1.1' if code >= 500 else '4.3.0'} refused as the recipient asks"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        behaviour = Behaviour.of_all(envelope.rcpt_tos)
        if behaviour.data_code is not None:
            return f"{behaviour.data_code} refused as the recipient asks"
        content = envelope.content
        if not isinstance(content, bytes):
            return "451 4.3.0 no content"
        try:
            self._writer.append(envelope.mail_from or "", envelope.rcpt_tos, content, datetime.now(UTC))
        except OSError:
            logging.getLogger(__name__).exception("a message could not be kept")
            return "452 4.3.1 no room"
        if behaviour.delay_s:
            await asyncio.sleep(behaviour.delay_s)
        if behaviour.drop and isinstance(server.transport, asyncio.Transport):
            server.transport.abort()
        return "250 2.0.0 kept"


async def serve(port: int, store: Path, *, fsync: bool = False, stopped: asyncio.Event | None = None) -> None:
    """Receive on the loopback port until `stopped` is set (or the task is cancelled). OSError if the port is taken."""
    writer = SpoolWriter(store, fsync=fsync)
    receiver = _Receiver(writer)
    loop = asyncio.get_running_loop()

    def protocol() -> Any:
        return SMTP(
            receiver,
            data_size_limit=_LARGEST_MESSAGE,
            enable_SMTPUTF8=True,
            decode_data=False,
            hostname="localhost",
            ident="penguin local receiver",
            timeout=_IDLE_TIMEOUT_S,
            loop=loop,
        )

    server = await loop.create_server(protocol, LOOPBACK, port, backlog=512)
    try:
        await (stopped or asyncio.Event()).wait()
    finally:
        server.close()
        writer.close()


async def _main(arguments: argparse.Namespace) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await serve(arguments.port, arguments.store, fsync=arguments.fsync, stopped=stopped)


def main() -> None:
    """Run as a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m penguin_devstack.smtp", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--store", type=Path, required=True, help="directory of the spool")
    parser.add_argument("--fsync", action="store_true", help="answer only when a message is on the disk")
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
