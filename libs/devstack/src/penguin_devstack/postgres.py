"""One embedded PostgreSQL cluster on the loopback interface: initialise, start, stop, crash, freeze. It knows nothing
of tiers, and never touches a server or data directory that it was not given."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import asyncpg

from penguin_devstack import pgbinaries, pgfiles
from penguin_devstack.guardian import guarded_directory
from penguin_devstack.ports import LOOPBACK, free_port
from penguin_devstack.processes import ProcessId, freeze_tree, kill_tree, send, thaw_tree, wait_gone

SUPERUSER = "postgres"
_SECRET_FILE = "penguin_superuser.secret"  # noqa: S105 - a file's name
_INIT_TIMEOUT_S = 60
_POLL_S = 0.01
_STOP_SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_PORT_ATTEMPTS = 5

StopMode = Literal["fast", "immediate"]

# Durable, and small enough that five clusters fit beside everything else on a laptop.
DEFAULT_SETTINGS: Mapping[str, str] = {
    "shared_buffers": "48MB",
    "max_connections": "150",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "max_wal_size": "512MB",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "log_checkpoints": "off",
    "password_encryption": "scram-sha-256",
    # Segments of other kinds outlive a SIGKILL in /dev/shm.
    "dynamic_shared_memory_type": "mmap",
}
# For data that is thrown away anyway: a crash of the machine may corrupt it. A SIGKILL still loses no commit, since
# every commit is handed to the kernel.
THROWAWAY_SETTINGS: Mapping[str, str] = {"fsync": "off", "full_page_writes": "off"}
# Our passwords are long and random, so key stretching would only make every new connection slower.
_SCRAM_ITERATIONS = "64"


class PostgresError(RuntimeError):
    """A cluster could not be initialised, started or stopped; the text ends with the server's own last words."""


class PostgresCluster:
    """A PostgreSQL cluster in `data_dir`, listening on 127.0.0.1 only, with SCRAM passwords for everybody.

    `port=None` lets start() choose a free one. An instance may also be made for a cluster that another process
    started: everything but reaping works from the data directory alone.
    """

    def __init__(
        self,
        data_dir: Path,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
        log_path: Path | None = None,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.log_path = log_path or self.data_dir.with_name(self.data_dir.name + ".log")
        self._settings = dict(settings or {})
        self._wanted_port = port
        self._port: int | None = port
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        """The port the server listens on, or will. Raises PostgresError while none is chosen."""
        if self._port is None:
            self._port = pgfiles.listening_port(self.data_dir)
        if self._port is None:
            raise PostgresError(f"{self.data_dir.name} has no port before it is started")
        return self._port

    @property
    def process(self) -> ProcessId | None:
        """The live postmaster of this data directory, whoever started it."""
        return pgfiles.live_postmaster(self.data_dir)

    @property
    def running(self) -> bool:
        return self.process is not None

    @property
    def ready(self) -> bool:
        """Whether the server accepts connections (it has finished crash recovery)."""
        return self.running and pgfiles.postmaster_status(self.data_dir) == "ready"

    @property
    def initialised(self) -> bool:
        return (self.data_dir / "PG_VERSION").is_file()

    def superuser_dsn(self, database: str = "postgres") -> str:
        """A `postgresql://` URL for the superuser, with its password."""
        return self.dsn(SUPERUSER, self.superuser_password(), database)

    def superuser_password(self) -> str:
        return (self.data_dir / _SECRET_FILE).read_text().strip()

    def dsn(self, role: str, password: str, database: str) -> str:
        """A `postgresql://` URL of this cluster for any role."""
        return f"postgresql://{quote(role)}:{quote(password, safe='')}@{LOOPBACK}:{self.port}/{quote(database)}"

    def init(self, template: Path | None = None) -> None:
        """Create the cluster unless it exists: by initdb, or faster as a copy of a stopped, initialised `template`.

        Copies share the template's system identifier and superuser password. Raises PostgresError,
        PostgresUnavailableError.
        """
        programs = pgbinaries.bin_dir()
        if self.initialised:
            self._check_version(programs)
            return
        self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        # Made aside and renamed, so that a killed initialisation leaves no half of a cluster.
        building = self.data_dir.with_name(f".{self.data_dir.name}.{secrets.token_hex(4)}")
        try:
            if template is None:
                self._initdb(programs, building)
            else:
                shutil.copytree(template, building, ignore=shutil.ignore_patterns("postmaster.*", ".s.PGSQL.*"))
                building.chmod(0o700)
            pgbinaries.launcher(programs).hand_over(building)
            if self._effective_settings()["fsync"] == "on":
                self._run_initdb(programs, ["--sync-only", "-D", str(building)])
            with contextlib.suppress(FileNotFoundError):
                self.data_dir.rmdir()
            building.rename(self.data_dir)
        finally:
            shutil.rmtree(building, ignore_errors=True)

    def command(self) -> list[str]:
        """The words that run this server in the foreground, with its port fixed."""
        programs = pgbinaries.bin_dir()
        if self._port is None:
            self._port = free_port()
        fixed = {
            "listen_addresses": LOOPBACK,
            "port": str(self._port),
            "unix_socket_directories": str(pgfiles.socket_dir(self.data_dir)),
            "unix_socket_permissions": "0700",
            "logging_collector": "off",
        }
        settings = self._effective_settings() | fixed
        words = [*pgbinaries.launcher(programs).prefix, str(programs / "postgres"), "-D", str(self.data_dir)]
        for name, value in settings.items():
            words += ["-c", f"{name}={value}"]
        return words

    def prepare(self) -> None:
        """Clear what a killed server left: stale lock files, orphaned backends. Raises PostgresError if one lives."""
        if not self.running:
            self._reap()
        alive = self.process
        if alive is not None:
            raise PostgresError(f"{self.data_dir.name} is already running as process {alive.pid}")
        pgfiles.clear_stale(self.data_dir)
        directory = pgfiles.make_socket_dir(self.data_dir)
        if directory != self.data_dir:
            pgbinaries.launcher(pgbinaries.bin_dir()).hand_over(directory)

    def start(self, timeout_s: float = 30.0) -> None:
        """Start and wait until connections are accepted. Raises PostgresError with the end of the server's log."""
        deadline = time.monotonic() + timeout_s
        self.prepare()
        for attempt in range(_PORT_ATTEMPTS):
            offset = self.log_path.stat().st_size if self.log_path.exists() else 0
            if self._launch_and_wait(deadline):
                return
            log = self._log_after(offset)
            port_taken = "could not bind" in log or "could not create any TCP/IP sockets" in log
            if self._wanted_port is not None or not port_taken or attempt == _PORT_ATTEMPTS - 1:
                raise PostgresError(f"{self.data_dir.name} did not start: {log[-1500:].strip() or 'no word'}")
            self._port = None

    def stop(self, mode: StopMode = "fast", timeout_s: float = 30.0) -> None:
        """Shut down: `fast` ends sessions and writes a checkpoint, `immediate` leaves recovery to the next start.

        A frozen server is thawed first; one that outlives `timeout_s` is killed. Not running is no error.
        """
        postmaster = self.process
        if postmaster is not None:
            thaw_tree(postmaster)
            send(postmaster.pid, _STOP_SIGNALS[mode])
            if not wait_gone([postmaster], timeout_s):
                kill_tree(postmaster)
        self._reap()
        pgfiles.remove_socket_dir(self.data_dir)

    def kill(self) -> None:
        """SIGKILL the postmaster and every backend at once, as a crash of the machine would end them."""
        postmaster = self.process
        if postmaster is not None:
            kill_tree(postmaster)
        self._reap()

    def freeze(self) -> None:
        """SIGSTOP every process of the server: connections stay open and nothing answers."""
        postmaster = self.process
        if postmaster is not None:
            freeze_tree(postmaster)

    def thaw(self) -> None:
        """Undo freeze()."""
        postmaster = self.process
        if postmaster is not None:
            thaw_tree(postmaster)

    async def create_database(self, name: str, owner: str | None = None, template: str | None = None) -> str:
        """Create a database and return the superuser's URL of it. Raises asyncpg.DuplicateDatabaseError."""
        statement = f"CREATE DATABASE {_quoted(name)}"
        statement += f" OWNER {_quoted(owner)}" if owner else ""
        statement += f" TEMPLATE {_quoted(template)}" if template else ""
        await self._administer(statement)
        return self.superuser_dsn(name)

    async def drop_database(self, name: str) -> None:
        """Drop a database if it exists, ending the sessions in it."""
        await self._administer(f"DROP DATABASE IF EXISTS {_quoted(name)} WITH (FORCE)")

    async def _administer(self, statement: str) -> None:
        connection = await asyncpg.connect(self.superuser_dsn(), timeout=15)
        try:
            await connection.execute(statement, timeout=60)
        finally:
            await connection.close(timeout=5)

    def _effective_settings(self) -> dict[str, str]:
        settings = {**DEFAULT_SETTINGS, **self._settings}
        if pgbinaries.server_major(pgbinaries.bin_dir()) >= 16:
            settings.setdefault("scram_iterations", _SCRAM_ITERATIONS)
        return settings

    def _check_version(self, programs: Path) -> None:
        on_disk = (self.data_dir / "PG_VERSION").read_text().strip()
        ours = pgbinaries.server_major(programs)
        if on_disk != str(ours):
            raise PostgresError(f"{self.data_dir} was made by PostgreSQL {on_disk}, the programs here are {ours}")

    def _initdb(self, programs: Path, target: Path) -> None:
        launcher = pgbinaries.launcher(programs)
        password = secrets.token_urlsafe(24)
        target.mkdir(mode=0o700)
        launcher.hand_over(target)
        locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        if pgbinaries.server_major(programs) < 17:
            locale = ["--locale=C.UTF-8"]
        with tempfile.NamedTemporaryFile("w", prefix="penguin-pg-") as password_file:
            password_file.write(password)
            password_file.flush()
            if launcher.owner is not None:
                os.chown(password_file.name, *launcher.owner)
            arguments = ["-D", str(target), "-U", SUPERUSER, "-E", "UTF8", *locale, "-A", "scram-sha-256"]
            arguments += [f"--pwfile={password_file.name}", "--no-sync", "--no-instructions"]
            if pgbinaries.server_major(programs) >= 16:
                arguments += ["-c", f"scram_iterations={_SCRAM_ITERATIONS}"]
            self._run_initdb(programs, arguments)
        secret = target / _SECRET_FILE
        secret.touch(mode=0o600)
        secret.write_text(password)

    def _run_initdb(self, programs: Path, arguments: list[str]) -> None:
        reply = subprocess.run(
            [*pgbinaries.launcher(programs).prefix, str(programs / "initdb"), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=_INIT_TIMEOUT_S,
            env=pgbinaries.program_environment(),
        )
        if reply.returncode != 0:
            raise PostgresError(f"initdb failed for {self.data_dir}: {reply.stderr.strip()[-1500:]}")

    def _launch_and_wait(self, deadline: float) -> bool:
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._child = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=pgbinaries.program_environment(),
            )
        while time.monotonic() < deadline:
            if self._child.poll() is not None:
                self._child = None
                return False
            if pgfiles.postmaster_pid(self.data_dir) == self._child.pid and self.ready:
                return True
            time.sleep(_POLL_S)
        self.kill()
        return False

    def _reap(self) -> None:
        if self._child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(timeout=5)
            self._child = None

    def _log_after(self, offset: int) -> str:
        with self.log_path.open("rb") as log:
            log.seek(offset)
            return log.read().decode(errors="replace")


@contextlib.contextmanager
def temporary_cluster(
    settings: Mapping[str, str] | None = None, *, durable: bool = False, port: int | None = None
) -> Iterator[PostgresCluster]:
    """A started cluster in a temporary directory, gone with all its files when the block ends.

    Without `durable` it does not fsync. Nothing stays behind even if this process is killed: a guardian cleans up.
    """
    with guarded_directory("penguin-pg-") as directory:
        base = {} if durable else dict(THROWAWAY_SETTINGS)
        cluster = PostgresCluster(directory / "data", port, {**base, **(settings or {})})
        try:
            cluster.init()
            cluster.start()
            yield cluster
        finally:
            cluster.stop("immediate")


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'
