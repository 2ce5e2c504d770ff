"""Chooses loopback ports for local servers. It never takes a port somebody already holds, and stays below the
range the kernel hands to outgoing connections, so that a server can come back to its port after a crash.

A port is leased to the process that chose it until that process ends, whether or not anything listens on it: stacks
and tests run side by side, and a server that is yet to start, or down for a moment, must find its port free.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import psutil

LOOPBACK = "127.0.0.1"
_LOWEST, _HIGHEST = 20_000, 32_000
_EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_ATTEMPTS = 2_000

_handed_out: set[int] = set()


class NoFreePortError(RuntimeError):
    """No port of the searched range could be bound."""


def is_free(port: int) -> bool:
    """Whether a server could listen on the loopback port now. A port in TIME_WAIT counts as free."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def lease(port: int) -> bool:
    """Keep the port from other processes' choice until this one ends; False if another has it."""
    try:
        # A record lock on one byte per port: the kernel drops it with the process, and a fork does not inherit it.
        fcntl.lockf(_leases(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    return True


@cache
def _leases() -> int:
    """Descriptor of the file whose bytes are locked. It stays open: closing any descriptor of it drops every lock."""
    path = Path(tempfile.gettempdir()) / f"penguin-ports-{os.getuid()}.lock"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def holder(port: int) -> str:
    """Who listens on the port, for a message: a process id and its command, as far as this user may see it."""
    for connection in psutil.net_connections("tcp"):
        if connection.laddr and connection.laddr.port == port and connection.pid is not None:
            try:
                command = " ".join(psutil.Process(connection.pid).cmdline())[:200]
            except psutil.Error:
                command = ""
            return f"process {connection.pid} {command} ({connection.status})"
    return "an unknown process"


def free_port(avoid: Iterable[int] = ()) -> int:
    """A free loopback port that this process has not handed out before. Raises NoFreePortError."""
    lowest, highest = _search_range()
    taken = set(avoid) | _handed_out
    for _ in range(_ATTEMPTS):
        port = random.randrange(lowest, highest)
        if port not in taken and lease(port) and is_free(port):
            _handed_out.add(port)
            return port
    raise NoFreePortError(f"no free loopback port between {lowest} and {highest}")


def _search_range() -> tuple[int, int]:
    try:
        first_ephemeral = int(_EPHEMERAL_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return _LOWEST, _HIGHEST
    # A machine may hand out nearly every port to clients; then no choice is better than another.
    highest = min(_HIGHEST, first_ephemeral)
    return (_LOWEST, highest) if highest - _LOWEST >= 1_000 else (_LOWEST, _HIGHEST)
