"""Hands messages over by SMTP: a few connections kept open, one message at a time on each.

What it answers is exactly what can be known: once the end of a message may have left us and no reply came, the outcome
is unknown, and it is never tried again from here.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import cast

import aiosmtplib
from aiosmtplib.response import SMTPResponse

IDLE_S = 30.0
QUIT_S = 1.0
_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?:\s|$)")
_CLOSING = 421


class Outcome(Enum):
    """What became of a message."""

    SENT = "sent"
    # Surely not handed over; may be tried again.
    DEFERRED = "deferred"
    REJECTED = "rejected"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Handover:
    """The outcome with the receiving server's reply code (0: none came) and enhanced status ("": none).

    `away`: the server itself was not to be had, so the message is not at fault.
    """

    outcome: Outcome
    code: int = 0
    enhanced: str = ""
    away: bool = False


class ServerAwayError(Exception):
    """The SMTP server does not take connections; nothing was handed over."""


@dataclass(frozen=True)
class SmtpSettings:
    """Where to hand over. Times in seconds: `timeout_s` for connecting and each command, `reply_timeout_s` for the
    answer to a whole message."""

    host: str
    port: int
    connections: int = 8
    timeout_s: float = 20.0
    reply_timeout_s: float = 60.0


class SmtpPool:
    """Connections to one server; `async with` closes them."""

    def __init__(self, settings: SmtpSettings) -> None:
        self._settings = settings
        self._places = asyncio.Semaphore(settings.connections)
        self._idle: list[_Connection] = []
        self._busy = 0

    async def __aenter__(self) -> SmtpPool:
        return self

    async def __aexit__(self, *_: object) -> None:
        idle, self._idle = self._idle, []
        await asyncio.gather(*(connection.quit() for connection in idle))

    async def ready(self) -> None:
        """Make sure that the server answers; raises ServerAwayError. To be asked before a claim."""
        if not self._busy and (connection := self._take_idle() or await self._open()):
            self._idle.append(connection)

    async def hand_over(
        self, sender: str, recipient: str, message: Callable[[], bytes], may_start: Callable[[], bool]
    ) -> Handover | None:
        """Hand one message over, in its turn. None: `may_start` said no when the turn came, and nothing was done."""
        async with self._places:
            if not may_start():
                return None
            self._busy += 1
            try:
                return await self._hand_over(sender, recipient, dotted(message()))
            except ServerAwayError:
                return Handover(Outcome.DEFERRED, away=True)
            finally:
                self._busy -= 1

    async def _hand_over(self, sender: str, recipient: str, message: bytes) -> Handover:
        connection = self._take_idle()
        if connection is not None:
            handover = await self._use(connection, sender, recipient, message)
            # A server may have closed a connection that was idle: that says nothing of the message.
            if not (handover.away and connection.untouched):
                return handover
        return await self._use(await self._open(), sender, recipient, message)

    async def _use(self, connection: _Connection, sender: str, recipient: str, message: bytes) -> Handover:
        try:
            handover = await connection.hand_over(sender, recipient, message)
        except BaseException:
            connection.close()
            raise
        if connection.usable:
            self._idle.append(connection)
        else:
            connection.close()
        return handover

    def _take_idle(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and time.monotonic() - connection.idle_since < IDLE_S:
                return connection
            connection.close()
        return None

    async def _open(self) -> _Connection:
        connection = _Connection(self._settings)
        try:
            await connection.open()
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            connection.close()
            raise ServerAwayError(type(error).__name__) from None
        except BaseException:
            connection.close()
            raise
        return connection


class _Connection:
    """One connection; `usable` once more after a message whose end is known."""

    def __init__(self, settings: SmtpSettings) -> None:
        self._reply_s = settings.reply_timeout_s
        self._command_s = settings.timeout_s
        self._client = aiosmtplib.SMTP(
            hostname=settings.host,
            port=settings.port,
            local_hostname=socket.gethostname(),
            timeout=settings.timeout_s,
            start_tls=False,
        )
        self._sound = False
        self._ended = False
        self.untouched = True
        self.idle_since = time.monotonic()

    @property
    def usable(self) -> bool:
        return self._sound and self._client.is_connected

    async def open(self) -> None:
        await self._client.connect()
        await self._client.ehlo()
        # So that a drained buffer means: the system has all of it. (uvloop's transports are of no asyncio class.)
        cast(asyncio.WriteTransport, self._client.transport).set_write_buffer_limits(high=0)
        self._sound = True

    def close(self) -> None:
        self._client.close()

    async def quit(self) -> None:
        with contextlib.suppress(aiosmtplib.SMTPException, OSError, TimeoutError):
            await self._client.quit(timeout=QUIT_S)
        self.close()

    async def hand_over(self, sender: str, recipient: str, message: bytes) -> Handover:
        self._ended, self.untouched = False, True
        try:
            await self._command(b"MAIL", f"FROM:<{sender}>".encode("ascii"))
            self.untouched = False
            await self._command(b"RCPT", f"TO:<{recipient}>".encode("ascii"))
            reply = await self._data(message)
        except aiosmtplib.SMTPResponseException as error:
            handover = self._refusal(error.code, error.message)
            await self._reset(error.code)
        except (aiosmtplib.SMTPException, OSError, TimeoutError):
            self._sound = False
            handover = Handover(Outcome.UNKNOWN if self._ended else Outcome.DEFERRED, away=not self._ended)
        else:
            if 200 <= reply.code < 300:
                handover = Handover(Outcome.SENT, reply.code, _enhanced(reply.message))
            else:
                handover = self._refusal(reply.code, reply.message)
                self._sound = self._sound and 400 <= reply.code < 600 and reply.code != _CLOSING
        self.idle_since = time.monotonic()
        return handover

    async def _command(self, *words: bytes) -> None:
        reply = await self._client.execute_command(*words)
        if not 200 <= reply.code < 300:
            raise aiosmtplib.SMTPResponseException(reply.code, reply.message)

    async def _data(self, message: bytes) -> SMTPResponse:
        protocol = self._client.protocol
        if protocol is None:
            raise aiosmtplib.SMTPServerDisconnected("Connection lost")
        reply = await protocol.execute_command(b"DATA", timeout=self._command_s)
        if reply.code != 354:
            raise aiosmtplib.SMTPDataError(reply.code, reply.message)
        async with asyncio.timeout(self._reply_s):
            protocol.write(message)
            await protocol._drain_helper()  # noqa: SLF001 - nothing public tells that the buffer is empty
        protocol.write(b".\r\n")
        self._ended = True
        return await protocol.read_response(timeout=self._reply_s)

    def _refusal(self, code: int, words: str) -> Handover:
        if 400 <= code < 500:
            return Handover(Outcome.DEFERRED, code, _enhanced(words), away=code == _CLOSING)
        if 500 <= code < 600:
            return Handover(Outcome.REJECTED, code, _enhanced(words))
        # No SMTP reply at all: harmless before the end of the message, and not to be interpreted after it.
        self._sound = False
        return Handover(Outcome.UNKNOWN if self._ended else Outcome.DEFERRED, away=not self._ended)

    async def _reset(self, code: int) -> None:
        """Bring the connection back to its beginning after a refusal on the way."""
        if code == _CLOSING or not self._sound:
            self._sound = False
            return
        try:
            await self._client.rset()
        except (aiosmtplib.SMTPException, OSError, TimeoutError):
            self._sound = False


def dotted(message: bytes) -> bytes:
    """A message of CRLF lines as DATA carries it, its last line ended and the final dot not yet there."""
    stuffed = message.replace(b"\r\n.", b"\r\n..")
    if stuffed.startswith(b"."):
        stuffed = b"." + stuffed
    return stuffed if stuffed.endswith(b"\r\n") else stuffed + b"\r\n"


def _enhanced(words: str) -> str:
    found = _ENHANCED.match(words)
    return found[1] if found else ""
