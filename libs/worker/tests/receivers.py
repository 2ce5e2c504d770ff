"""Servers that receive mail: the local one with what it has kept, and one that answers as told."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from pathlib import Path

from penguin_devstack.ports import LOOPBACK
from penguin_devstack.smtp import ReceivedMessage, read_messages


@dataclass
class Mailbox:
    """The local receiving server and what it has kept."""

    port: int
    store: Path

    def messages(self) -> list[ReceivedMessage]:
        return list(read_messages(self.store))


async def reachable(port: int) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(LOOPBACK, port)
            writer.close()
            await writer.wait_closed()
            return
        await asyncio.sleep(0.01)
    raise TimeoutError


@dataclass
class ScriptedSmtp:
    """A server that answers as told. Answers are by verb; `None` closes the connection, "hang" never answers.

    `END` stands for the end of a message. `complete` counts messages whose final dot has come.
    """

    port: int = 0
    answers: dict[str, str | None] = field(default_factory=dict)
    # Answers that are given the first time only.
    once: dict[str, str | None] = field(default_factory=dict)
    greeting: str | None = "220 scripted"
    connections: int = 0
    complete: int = 0
    verbs: list[str] = field(default_factory=list)
    drop_in_data: bool = False

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                if await self._say(writer, self.greeting):
                    while line := await reader.readline():
                        if not await self._answer(line, reader, writer):
                            break
        finally:
            writer.transport.abort()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(self, line: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        verb = line.split()[0].decode().upper()
        self.verbs.append(verb)
        usual = {"DATA": "354 go on", "EHLO": "250 scripted"}.get(verb, "250 2.0.0 OK")
        answer = self.once.pop(verb, self.answers.get(verb, usual))
        if not await self._say(writer, answer):
            return False
        if verb == "DATA" and answer == "354 go on":
            if self.drop_in_data:
                await reader.readexactly(10)
                return False
            await reader.readuntil(b"\r\n.\r\n")
            self.complete += 1
            return await self._say(writer, self.answers.get("END", "250 2.0.0 kept"))
        return verb != "QUIT"

    async def _say(self, writer: asyncio.StreamWriter, answer: str | None) -> bool:
        if answer is None:
            return False
        if answer == "hang":
            await asyncio.sleep(60)
        writer.write(f"{answer}\r\n".encode())
        await writer.drain()
        return not answer.startswith("421")
