"""The receiving SMTP server as a process, spoken to over sockets."""

from __future__ import annotations

import asyncio
import smtplib
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from penguin_devstack.ports import free_port
from penguin_devstack.smtp import Behaviour
from penguin_devstack.spool import SpoolWriter, read_messages

SENDER = "from@sender.test"
MESSAGE = b"Subject: hi\r\nMessage-ID: <1@x>\r\n\r\n.dot\r\n..dots\r\nbye\r\n"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def test_keeps_every_message_byte_for_byte_and_never_deduplicates(running: Any, store: Path) -> None:
    port = free_port()
    with running("penguin_devstack.smtp", port, "--store", str(store)):
        before = datetime.now(UTC)
        with smtplib.SMTP("127.0.0.1", port, timeout=10) as client:
            client.ehlo()
            assert {"pipelining", "8bitmime", "smtputf8", "size"} <= set(client.esmtp_features)
            for _ in range(3):
                client.sendmail(SENDER, ["a@rcpt.test", "b@rcpt.test"], MESSAGE)
            client.sendmail(SENDER, ["ü@rcpt.test"], "Subject: ü\r\n\r\nÜ\r\n".encode(), ["SMTPUTF8", "BODY=8BITMIME"])
        # Readable as soon as it was accepted, while the server runs.
        messages = list(read_messages(store))
    assert [message.content for message in messages[:3]] == [MESSAGE] * 3
    assert messages[0].recipients == ("a@rcpt.test", "b@rcpt.test")
    assert messages[0].sender == SENDER
    assert before <= messages[0].received_at <= datetime.now(UTC)
    assert messages[3].recipients == ("ü@rcpt.test",)
    assert messages[3].content == "Subject: ü\r\n\r\nÜ\r\n".encode()


def test_recipients_choose_how_the_server_misbehaves(running: Any, store: Path) -> None:
    port = free_port()
    with (
        running("penguin_devstack.smtp", port, "--store", str(store), "--fsync"),
        smtplib.SMTP("127.0.0.1", port, timeout=10) as client,
    ):
        refused = client.sendmail(SENDER, ["reject-550@r.test", "ok@r.test", "tempfail-451-7@r.test"], MESSAGE)
        assert {address: code for address, (code, _) in refused.items()} == {
            "reject-550@r.test": 550,
            "tempfail-451-7@r.test": 451,
        }
        with pytest.raises(smtplib.SMTPDataError) as data:
            client.sendmail(SENDER, ["reject-data-554@r.test"], MESSAGE)
        assert data.value.smtp_code == 554
        begun = time.monotonic()
        client.sendmail(SENDER, ["slow-300-x@r.test"], MESSAGE)
        assert time.monotonic() - begun >= 0.3
        with pytest.raises(smtplib.SMTPServerDisconnected):
            client.sendmail(SENDER, ["drop-1@r.test"], MESSAGE)
        client.close()
    kept = [message.recipients for message in read_messages(store)]
    assert kept == [("ok@r.test",), ("slow-300-x@r.test",), ("drop-1@r.test",)]


def test_ordinary_recipients_are_treated_ordinarily() -> None:
    for address in ("rejected@x.test", "slowly@x.test", "dropbox@x.test", "reject-5500@x.test", "anna@reject-550.test"):
        assert Behaviour.of(address) == Behaviour(), address
    assert Behaviour.of("slow-99999999@x.test").delay_s <= 60


def test_survives_a_kill_in_its_own_segment(running: Any, store: Path) -> None:
    port = free_port()
    for expected in (1, 2):
        with running("penguin_devstack.smtp", port, "--store", str(store)) as process:
            with smtplib.SMTP("127.0.0.1", port, timeout=10) as client:
                client.sendmail(SENDER, ["a@r.test"], MESSAGE)
            process.kill()
            process.wait()
        # As if the crash had torn a frame.
        newest = max(store.glob("*.spool"))
        newest.write_bytes(newest.read_bytes() + b"PMS1\0\0\0\x05half")
        assert len(list(read_messages(store))) == expected
    assert len(list(store.glob("*.spool"))) == 2


def test_spool_ignores_a_corrupt_frame_and_rolls_segments(store: Path) -> None:
    writer = SpoolWriter(store, segment_bytes=100)
    now = datetime.now(UTC)
    for number in range(3):
        writer.append("f", ["t"], b"x" * 80 + bytes([number]), now)
    writer.close()
    segments = sorted(store.glob("*.spool"))
    assert len(segments) == 3
    damaged = bytearray(segments[1].read_bytes())
    damaged[-1] ^= 0xFF
    segments[1].write_bytes(damaged)
    assert [message.content[-1] for message in read_messages(store)] == [0, 2]


def test_port_in_use_ends_the_process_with_an_error(store: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        argv = ["-m", "penguin_devstack.smtp", "--port", str(port), "--store", str(store)]
        reply = subprocess.run([sys.executable, *argv], capture_output=True, timeout=20, check=False)
    assert reply.returncode != 0
    assert b"address already in use" in reply.stderr.lower()


async def test_takes_hundreds_of_messages_a_second(running: Any, store: Path) -> None:
    port, count, connections = free_port(), 400, 4
    body = (b"Subject: x\r\n\r\n" + b"line of text\r\n" * 100 + b".\r\n").replace(b"\r\n.\r\n", b"\r\n\r\n.\r\n")

    async def send_many(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await reader.readline()
        writer.write(b"HELO x\r\n")
        await reader.readline()
        for _ in range(number):
            # Pipelined: one round trip for the envelope.
            writer.write(b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@x.test>\r\nDATA\r\n")
            for expected in (b"250", b"250", b"354"):
                assert (await reader.readline()).startswith(expected)
            writer.write(body)
            assert (await reader.readline()).startswith(b"250")
        writer.close()

    with running("penguin_devstack.smtp", port, "--store", str(store)):
        begun = time.monotonic()
        async with asyncio.timeout(60):
            await asyncio.gather(*(send_many(count // connections) for _ in range(connections)))
        rate = count / (time.monotonic() - begun)
    assert sum(1 for _ in read_messages(store)) == count
    # Far below what it does alone (about 800/s): the machine is shared.
    assert rate > 100, rate
