"""Chooses loopback ports for local servers. It never takes a port somebody already holds, and stays below the
range the kernel hands to outgoing connections, so that a server can come back to its port after a crash."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterable
from pathlib import Path

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


def reserve(port: int) -> socket.socket | None:
    """Keep others from choosing a free port until the socket is closed; None if it is not free."""
    holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        # Without SO_REUSEADDR nobody else can bind it, and without listen nobody can connect.
        holder.bind((LOOPBACK, port))
    except OSError:
        holder.close()
        return None
    return holder


def free_port(avoid: Iterable[int] = ()) -> int:
    """A free loopback port that this process has not handed out before. Raises NoFreePortError."""
    lowest, highest = _search_range()
    taken = set(avoid) | _handed_out
    for _ in range(_ATTEMPTS):
        port = random.randrange(lowest, highest)
        if port not in taken and is_free(port):
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
