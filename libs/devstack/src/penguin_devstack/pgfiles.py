"""What a PostgreSQL data directory says of the server in it: its lock files, its socket directory, its leftovers.
It removes nothing while a live server holds the directory."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

import psutil

from penguin_devstack.processes import ProcessId, kill_tree

# sockaddr_un holds 108 bytes on Linux and 104 elsewhere, the closing zero included.
_LONGEST_SOCKET_PATH = 103
_SOCKET_NAME_LENGTH = len("/.s.PGSQL.65535")
_PORT_LINE, _STATUS_LINE = 3, 7


def socket_dir(data_dir: Path) -> Path:
    """Where the server's Unix socket lives: the private data directory, or a short private one if its path is long."""
    if len(os.fsencode(data_dir)) + _SOCKET_NAME_LENGTH <= _LONGEST_SOCKET_PATH:
        return data_dir
    digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"penguin-pg-{os.getuid()}-{digest}"


def make_socket_dir(data_dir: Path) -> Path:
    """Make the socket directory, private to us. Raises PermissionError if somebody else holds its name."""
    directory = socket_dir(data_dir)
    if directory != data_dir:
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        if directory.is_symlink() or (os.geteuid() != 0 and directory.stat().st_uid != os.geteuid()):
            raise PermissionError(f"{directory} belongs to somebody else")
    return directory


def remove_socket_dir(data_dir: Path) -> None:
    """Remove the socket directory if it is one of its own."""
    directory = socket_dir(data_dir)
    if directory == data_dir:
        return
    for leftover in directory.glob(".s.PGSQL.*"):
        leftover.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        directory.rmdir()


def postmaster_pid(data_dir: Path) -> int | None:
    """The pid in the lock file, alive or not."""
    line = _lock_file_line(data_dir, 0)
    return int(line) if line and line.isdigit() else None


def postmaster_status(data_dir: Path) -> str | None:
    """`starting`, `ready`, `stopping` or `standby`, as the server writes it for pg_ctl."""
    return _lock_file_line(data_dir, _STATUS_LINE)


def listening_port(data_dir: Path) -> int | None:
    """The port of the running (or last killed) server."""
    line = _lock_file_line(data_dir, _PORT_LINE)
    return int(line) if line and line.isdigit() else None


def live_postmaster(data_dir: Path) -> ProcessId | None:
    """The live server of this directory; a recycled pid in the lock file is told apart by where the process works."""
    pid = postmaster_pid(data_dir)
    identity = None if pid is None else ProcessId.of(pid)
    if identity is None or not _works_in(identity.pid, data_dir):
        return None
    return identity


def clear_stale(data_dir: Path) -> None:
    """Remove the lock files of a server that is gone, and end the backends it orphaned: they hold its memory."""
    if live_postmaster(data_dir) is not None:
        return
    lock_file = data_dir / "postmaster.pid"
    leftovers = [*data_dir.glob(".s.PGSQL.*"), *socket_dir(data_dir).glob(".s.PGSQL.*")]
    if not lock_file.exists() and not leftovers:
        return
    for process in psutil.process_iter(["name"]):
        if process.info["name"] == "postgres" and _works_in(process.pid, data_dir):
            orphan = ProcessId.of(process.pid)
            if orphan is not None:
                kill_tree(orphan)
    # PostgreSQL would refuse to start if the pid inside had been recycled.
    for leftover in (lock_file, *leftovers):
        leftover.unlink(missing_ok=True)


def _works_in(pid: int, directory: Path) -> bool:
    try:
        return os.path.realpath(psutil.Process(pid).cwd()) == os.path.realpath(directory)
    except psutil.Error:
        return False


def _lock_file_line(data_dir: Path, index: int) -> str | None:
    try:
        lines = (data_dir / "postmaster.pid").read_text().splitlines()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    return lines[index].strip() if index < len(lines) else None
