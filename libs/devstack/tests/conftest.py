"""Runs the stack's own programs as processes for a test, and proves that they end when told to."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

Running = Callable[..., AbstractContextManager[subprocess.Popen[bytes]]]


def _wait_for_port(port: int, process: subprocess.Popen[bytes], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.5):
            return
        time.sleep(0.02)
    pytest.fail(f"nothing listens on port {port}")


@pytest.fixture
def running(tmp_path: Path) -> Running:
    """`with running("penguin_devstack.smtp", port, …)`: a process that listens, and exits with 0 on SIGTERM."""

    @contextlib.contextmanager
    def start(module: str, port: int, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        log = tmp_path / f"{module}.log"
        with log.open("ab") as output:
            argv = [sys.executable, "-m", module, "--port", str(port), *arguments]
            process = subprocess.Popen(argv, stdout=output, stderr=output)
        try:
            _wait_for_port(port, process)
            yield process
            process.terminate()
            assert process.wait(timeout=10) in (0, -9), log.read_text()
        finally:
            process.kill()
            process.wait()

    return start
