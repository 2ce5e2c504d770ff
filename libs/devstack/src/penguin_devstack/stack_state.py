"""The state file of a supervised stack: what runs, where, and under which identity, so that another shell can show,
stop or clean it up. It holds no secrets and is replaced in one step, never half written."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from penguin_devstack.processes import ProcessId


class LockedError(RuntimeError):
    """Another supervisor holds this stack."""


@dataclass(slots=True)
class ComponentState:
    """One process or task. `status`: waiting, starting, ready, done, restarting, held, failed, stopping or stopped.

    `since` is seconds since the epoch, `level` how deep it stands in the order of starting.
    """

    status: str = "waiting"
    level: int = 0
    pid: int | None = None
    start_mark: str = ""
    stop_signal: int = 15
    port: int | None = None
    log: str = ""
    restarts: int = 0
    since: float = 0.0
    last_exit: int | None = None

    @property
    def process(self) -> ProcessId | None:
        """The process if it still lives; a recycled pid is none."""
        identity = None if self.pid is None else ProcessId(self.pid, self.start_mark)
        return identity if identity is not None and identity.alive else None


@dataclass(slots=True)
class StackState:
    """`status`: starting, ready, failed, stopping or stopped; `error` says why it failed."""

    status: str = "stopped"
    supervisor_pid: int | None = None
    supervisor_start_mark: str = ""
    error: str = ""
    options: dict[str, object] = field(default_factory=dict)
    ready_after_s: float | None = None
    components: dict[str, ComponentState] = field(default_factory=dict)

    @property
    def supervisor(self) -> ProcessId | None:
        """The supervising process if it still lives."""
        if self.supervisor_pid is None:
            return None
        identity = ProcessId(self.supervisor_pid, self.supervisor_start_mark)
        return identity if identity.alive else None


class StateFile:
    """`stack.json` in the stack's directory, and the lock beside it that only one supervisor can hold."""

    def __init__(self, root: Path) -> None:
        self.path = root / "stack.json"
        self._lock_path = root / "stack.lock"

    def read(self) -> StackState:
        """The last written state; a stopped stack where there is none."""
        try:
            fields = json.loads(self.path.read_text())
        except (FileNotFoundError, ValueError):
            return StackState()
        components = {name: ComponentState(**component) for name, component in fields.pop("components").items()}
        return StackState(**fields, components=components)

    def write(self, state: StackState) -> None:
        """Replace the file. Its readers never see half of it."""
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(asdict(state), file, indent=1)
        partial.replace(self.path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the stack for the block. Raises LockedError at once if somebody else does."""
        self._lock_path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock_path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LockedError(f"another supervisor holds {self.path.parent}") from None
            yield
