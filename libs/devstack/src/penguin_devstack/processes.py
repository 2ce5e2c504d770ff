"""Names processes so that a recycled pid is never mistaken for them, and signals whole process trees.
It signals nothing that it cannot prove to be the process it was told about."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A pid with its start mark: both together name one process of one boot."""

    pid: int
    start_mark: str

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """The identity of the live process `pid`; None when there is none (a zombie counts as gone)."""
        mark = _start_mark(pid)
        return None if mark is None else cls(pid, mark)

    @property
    def alive(self) -> bool:
        return _start_mark(self.pid) == self.start_mark


def _start_mark(pid: int) -> str | None:
    """Ticks since boot plus the boot's id: unlike a wall-clock start time it survives clock adjustments."""
    try:
        # The command name may hold spaces and parentheses, so fields are counted from its last parenthesis.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = _BOOT_ID.read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return _portable_start_mark(pid) if not _BOOT_ID.exists() else None
    return None if fields[0] in "ZX" else f"{fields[19]}@{boot[:8]}"


def _portable_start_mark(pid: int) -> str | None:
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.Error:
        return None


def descendants(pid: int) -> list[psutil.Process]:
    """All live descendants of `pid`, whatever session or group they moved to."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def send(pid: int, signal_number: int) -> None:
    """Signal one process; one that is gone already is no error."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal_number)


def freeze_tree(root: ProcessId) -> None:
    """SIGSTOP the process, then everything below it. The root first, so that it cannot fork meanwhile."""
    if not root.alive:
        return
    send(root.pid, signal.SIGSTOP)
    for child in descendants(root.pid):
        send(child.pid, signal.SIGSTOP)


def frozen(root: ProcessId) -> bool:
    """Whether the process lives and is stopped."""
    with contextlib.suppress(psutil.Error):
        return root.alive and psutil.Process(root.pid).status() == psutil.STATUS_STOPPED
    return False


def thaw_tree(root: ProcessId) -> None:
    """SIGCONT everything below the process, then the process itself."""
    if not root.alive:
        return
    for child in descendants(root.pid):
        send(child.pid, signal.SIGCONT)
    send(root.pid, signal.SIGCONT)


def kill_tree(root: ProcessId, timeout_s: float = 5.0) -> None:
    """SIGKILL the process and everything below it, as a crash would, and wait until they are gone."""
    if not root.alive:
        return
    send(root.pid, signal.SIGSTOP)
    children = descendants(root.pid)
    for child in children:
        send(child.pid, signal.SIGKILL)
    # A child may have forked between the listing and its own end.
    late = [process for process in descendants(root.pid) if process not in children]
    for child in late:
        send(child.pid, signal.SIGKILL)
    send(root.pid, signal.SIGKILL)
    wait_gone([root, *filter(None, (ProcessId.of(child.pid) for child in [*children, *late]))], timeout_s)


def wait_gone(processes: Iterable[ProcessId], timeout_s: float) -> bool:
    """Wait until none of the processes lives. False when the time ran out first."""
    deadline = time.monotonic() + timeout_s
    left = list(processes)
    while True:
        left = [process for process in left if process.alive]
        if not left:
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
