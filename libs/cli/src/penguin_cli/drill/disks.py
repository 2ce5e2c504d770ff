"""Databases on a disk of a few hundred megabytes: a tmpfs that only this drill sees, in a mount namespace of its own. Where the
machine allows no such thing it says so."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from penguin_devstack.stack import LocalStack

SIZE_MB = 384
# What a database takes before it is filled must fit: its log is kept short.
SETTINGS = {"max_wal_size": "64MB", "min_wal_size": "32MB"}
# Says to a drill that it is within its namespace.
INSIDE = "PENGUIN_DRILL_NAMESPACE"
_WAYS = (("--user", "--map-root-user", "--mount"), ("--mount",))
_TRY = "mount -t tmpfs -o size=1m tmpfs /mnt"
_FILLER = "drill.filler"
_PIECE = 1024 * 1024


def way_in() -> tuple[str, ...]:
    """The words that run a program where it may mount. Raises OSError with the machine's own words where there are none."""
    unshare = shutil.which("unshare")
    if unshare is None or sys.platform != "linux":
        raise OSError("there is no unshare on this machine")
    words = ""
    for way in _WAYS:
        tried = subprocess.run(
            [unshare, *way, "/bin/sh", "-c", _TRY], capture_output=True, text=True, check=False, timeout=10
        )
        if tried.returncode == 0:
            return (unshare, *way)
        words = (tried.stderr.strip().splitlines() or ["it failed"])[-1]
    raise OSError(f"no size-limited tmpfs is allowed here: {words}")


def enter(arguments: list[str]) -> str:
    """Run this program anew within a namespace, with these arguments; returns only where it is there, or, with the reason,
    where that cannot be."""
    if not os.environ.get(INSIDE):
        try:
            words = [*way_in(), sys.executable, "-m", "penguin_cli", *arguments]
            os.execve(words[0], words, {**os.environ, INSIDE: "1"})  # noqa: S606 - an argument list of our own
        except (OSError, subprocess.SubprocessError) as error:
            return str(error)
    return ""


async def put_on_small_disk(stack: LocalStack, tier: str) -> None:
    """Move the tier's database to a disk of its own. Raises OSError with the reason."""
    data = stack.cluster(tier).data_dir
    aside = data.with_name(f"{data.name}.moved")
    await stack.stop_database(tier)
    try:
        await asyncio.to_thread(_move, data, aside)
    finally:
        await stack.start_database(tier)


def _move(data: Path, aside: Path) -> None:
    _run("cp", "-a", str(data), str(aside))
    owner = data.stat()
    options = f"size={SIZE_MB}m,mode=700,uid={owner.st_uid},gid={owner.st_gid}"
    _run("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(data))
    _run("cp", "-a", f"{aside}/.", str(data))
    shutil.rmtree(aside)


def _run(*words: str) -> None:
    program = shutil.which(words[0])
    if program is None:
        raise OSError(f"there is no {words[0]}")
    done = subprocess.run([program, *words[1:]], capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise OSError(done.stderr.strip() or f"{words[0]} failed")


def fill(stack: LocalStack, tier: str) -> Path:
    """Take every byte that is left; the file that has them."""
    filler = stack.cluster(tier).data_dir / _FILLER
    descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        for piece in (b"\0" * _PIECE, b"\0" * 4096):
            with contextlib.suppress(OSError):
                while True:
                    if os.write(descriptor, piece) < len(piece):
                        break
    finally:
        os.close(descriptor)
    return filler
