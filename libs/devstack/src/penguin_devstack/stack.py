"""The whole local stack as one object: bring it up, look at it, break parts of it on purpose, take it down. The work is
done by a supervising process of its own, which this object starts and talks to through files."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from penguin_devstack import logs, orphans
from penguin_devstack.components import specifications
from penguin_devstack.issuer import TIERS
from penguin_devstack.layout import Layout, NeverUpError, StackOptions
from penguin_devstack.postgres import PostgresCluster
from penguin_devstack.processes import ProcessId, freeze_tree, frozen, kill_tree, send, thaw_tree, wait_gone
from penguin_devstack.roles import TierDatabase
from penguin_devstack.stack_state import LockedError, StackState, StateFile
from penguin_devstack.supervisor import StartError, Supervisor, hold_path

__all__ = ["LocalStack", "NeverUpError", "StackError", "StackState"]

_POLL_S = 0.05
_UP_TIMEOUT_S = 120.0
_DOWN_TIMEOUT_S = 60.0
_ALREADY_RUNNING = 3

Progress = Callable[[str, str], None]


class StackError(RuntimeError):
    """The stack did not come up, or is not in the state that was asked for."""


class LocalStack:
    """A local stack in `root` (data, logs, ports, state). Any number of these objects may look at one stack.

    `tiers` and the `with_…` flags choose a part of it; `environment` adds variables to components by name. With
    `tied_to_caller` the stack ends when the calling process does, however it ends.
    """

    def __init__(
        self,
        root: Path = Path(".local"),
        *,
        tiers: Sequence[str] = TIERS,
        with_services: bool = True,
        with_workers: bool = True,
        workers: int = 1,
        environment: Mapping[str, Mapping[str, str]] | None = None,
        database_settings: Mapping[str, str] | None = None,
        tied_to_caller: bool = False,
    ) -> None:
        self.root = root.absolute()
        self._options = StackOptions(
            tiers=tuple(tiers),
            with_services=with_services,
            with_workers=with_workers,
            workers=workers,
            environment=dict(environment or {}),
            database_settings=dict(database_settings or {}),
        )
        self._tied_to_pid = os.getpid() if tied_to_caller else None
        self._layout = Layout(self.root, self._options)
        self._state_file = StateFile(self.root)

    async def up(self, on_progress: Progress | None = None, timeout_s: float = _UP_TIMEOUT_S) -> StackState:
        """Bring the stack up, keeping data of earlier runs; one that is up already is left as it is.

        `on_progress(component, status)` hears of every change. Raises StackError with the reason.
        """
        report = _Reporter(on_progress)
        async with asyncio.timeout(timeout_s):
            running = self._state_file.read()
            while running.supervisor is not None and running.status == "stopping":
                await asyncio.sleep(_POLL_S)
                running = self._state_file.read()
            if running.supervisor is None:
                await self._launch()
            while True:
                state = self._state_file.read()
                report(state)
                if state.status == "ready" and state.supervisor is not None:
                    return self._checked(state)
                if state.supervisor is None:
                    raise StackError(state.error or f"the supervisor ended:\n{logs.tail(self._log)}")
                await asyncio.sleep(_POLL_S)

    def status(self) -> StackState:
        """What runs. A stack whose supervisor was killed shows as `orphaned` until up() or down() cleans it up."""
        state = self._state_file.read()
        if state.supervisor is None and state.status in ("starting", "ready", "stopping"):
            left = any(component.process for component in state.components.values())
            state.status = "orphaned" if left else "stopped"
        return state

    async def down(self, timeout_s: float = _DOWN_TIMEOUT_S) -> None:
        """Stop everything in reverse order and clean up what a killed supervisor left. Nothing running is no error."""
        if not self.root.exists():
            return
        deadline = time.monotonic() + timeout_s
        while True:
            supervisor = self._state_file.read().supervisor
            if supervisor is not None:
                await asyncio.to_thread(_end_supervisor, supervisor, deadline - time.monotonic())
            try:
                with self._state_file.locked():
                    await asyncio.to_thread(self._clean_up)
                return
            except LockedError:
                # Held by one that has not written its state yet.
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(_POLL_S)

    def environment(self, workload: str = "cli") -> dict[str, str]:
        """The variables a client process of this stack needs. Raises NeverUpError before the first up()."""
        return self._layout.client_environment(workload)

    def tier_environment(self, tier: str) -> dict[str, str]:
        """The variables the tier's own process is given."""
        return self._layout.tier_environment(tier)

    def database(self, tier: str) -> TierDatabase:
        """The tier's database as each of its four roles."""
        return self._layout.database(tier)

    def cluster(self, tier: str) -> PostgresCluster:
        """The tier's PostgreSQL cluster, for a superuser's look at it."""
        return self._layout.cluster(tier)

    @property
    def smtp_store(self) -> Path:
        """Where read_messages() of the SMTP receiver reads."""
        return self._layout.smtp_store

    @property
    def otlp_store(self) -> Path:
        """Where spans_of_trace() and find_traces() read."""
        return self._layout.otlp_store

    @property
    def issuer_dir(self) -> Path:
        """The issuer's keys and workload credentials."""
        return self._layout.issuer_dir

    def log_path(self, component: str) -> Path:
        return self._layout.log_path(component)

    async def kill(self, component: str) -> None:
        """SIGKILL a component and everything below it; the supervisor starts it again. Raises StackError if not up."""
        await asyncio.to_thread(kill_tree, self._process(component))

    def freeze(self, component: str) -> None:
        """SIGSTOP a component: its connections stay open and nothing answers."""
        freeze_tree(self._process(component))

    def frozen(self, component: str) -> bool:
        """Whether a component is frozen now."""
        return frozen(self._process(component))

    def thaw(self, component: str) -> None:
        """Undo freeze()."""
        thaw_tree(self._process(component))

    async def stop(self, component: str, stop_signal: int | None = None, timeout_s: float = 30.0) -> None:
        """Stop one component and keep it stopped until start(); the rest runs on."""
        self._component(component)
        hold_path(self.root, component).write_text("" if stop_signal is None else str(int(stop_signal)))
        await self._await_status(component, ("held",), timeout_s)

    async def start(self, component: str, timeout_s: float = 60.0) -> None:
        """Start a component that stop() stopped, and wait until it is ready."""
        self._component(component)
        hold_path(self.root, component).unlink(missing_ok=True)
        await self._await_status(component, ("ready",), timeout_s)

    async def wait_ready(self, component: str, timeout_s: float = 60.0) -> None:
        """Wait until a component is ready, for example after kill(). Raises StackError."""
        await self._await_status(component, ("ready",), timeout_s)

    async def stop_database(self, tier: str, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop the tier's PostgreSQL and keep it stopped until start_database()."""
        await self.stop(f"{tier}-db", signal.SIGINT if mode == "fast" else signal.SIGQUIT)

    async def start_database(self, tier: str) -> None:
        await self.start(f"{tier}-db")

    async def kill_database(self, tier: str) -> None:
        """SIGKILL the tier's PostgreSQL with all its backends; the supervisor starts it again."""
        await self.kill(f"{tier}-db")

    def freeze_database(self, tier: str) -> None:
        self.freeze(f"{tier}-db")

    def thaw_database(self, tier: str) -> None:
        self.thaw(f"{tier}-db")

    async def run(
        self, stopped: asyncio.Event, *, tied_to_pid: int | None = None, started: Callable[[], None] = lambda: None
    ) -> None:
        """Supervise in this process until `stopped` is set (or process `tied_to_pid` is gone); call `started` once the
        stack is ours. Raises LockedError if another supervisor has it, StartError if a component does not come up."""
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(32))
        with self._state_file.locked():
            await asyncio.to_thread(self._clean_up)
            self._layout.assign_ports()
            self._layout.ensure_passwords()
            supervisor = Supervisor(self.root, specifications(self._layout), self._options.as_json())
            self._state_file.write(supervisor.state)
            started()
            tie = asyncio.create_task(_end_with(tied_to_pid, stopped))
            try:
                await supervisor.run(stopped)
            finally:
                tie.cancel()
                await asyncio.to_thread(orphans.clean_up, self.root, supervisor.state, self._layout.data_dirs())

    @property
    def _log(self) -> Path:
        return self._layout.log_path("supervisor")

    async def _launch(self) -> None:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        logs.rotate_if_large(self._log)
        options = self._options.as_json() | {"tied_to_pid": self._tied_to_pid}
        with self._log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "penguin_devstack.stack", "--root", str(self.root), "--detach",
                "--options", json.dumps(options),
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        # It ends once the supervisor it forked holds the stack, or could not.
        code = await process.wait()
        if code == _ALREADY_RUNNING:
            while self._state_file.read().supervisor is None:  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(_POLL_S)
        elif code != 0:
            raise StackError(f"the supervisor did not start:\n{logs.tail(self._log)}")

    def _checked(self, state: StackState) -> StackState:
        """A stack that runs with other parts than ours is not the one that was asked for."""
        if state.options != self._options.as_json():
            raise StackError("the stack is up with other options; take it down first")
        return state

    def _clean_up(self) -> None:
        state = self._state_file.read()
        orphans.clean_up(self.root, state, self._layout.data_dirs())
        if state.status not in ("stopped", "failed"):
            state.status = "stopped"
        for component in state.components.values():
            component.pid = None
            if component.status not in ("done", "failed"):
                component.status = "stopped"
        self._state_file.write(state)

    def _component(self, name: str) -> None:
        state = self._state_file.read()
        if state.supervisor is None:
            raise StackError("the stack is not up")
        if name not in state.components:
            raise StackError(f"the stack has no component {name}; it has {', '.join(sorted(state.components))}")

    def _process(self, name: str) -> ProcessId:
        self._component(name)
        process = self._state_file.read().components[name].process
        if process is None:
            raise StackError(f"{name} is not running")
        return process

    async def _await_status(self, component: str, wanted: tuple[str, ...], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self._component(component)
            state = self._state_file.read().components[component]
            if state.status in wanted and (state.process is not None or "ready" not in wanted):
                return
            await asyncio.sleep(_POLL_S)
        raise StackError(f"{component} is {state.status}, not {' or '.join(wanted)}:\n{logs.tail(Path(state.log))}")


class _Reporter:
    """Tells of each change of a component's status once."""

    def __init__(self, on_progress: Progress | None) -> None:
        self._on_progress = on_progress
        self._told: dict[str, str] = {}

    def __call__(self, state: StackState) -> None:
        for name, component in state.components.items():
            if self._on_progress is not None and self._told.get(name) != component.status:
                self._on_progress(name, component.status)
            self._told[name] = component.status


async def _end_with(pid: int | None, stopped: asyncio.Event) -> None:
    if pid is None:
        return
    process = ProcessId.of(pid)
    while process is not None and process.alive:  # noqa: ASYNC110 - a foreign process sets no event
        await asyncio.sleep(0.5)
    stopped.set()


def _end_supervisor(supervisor: ProcessId, timeout_s: float) -> None:
    thaw_tree(supervisor)
    send(supervisor.pid, signal.SIGTERM)
    if not wait_gone([supervisor], timeout_s):
        send(supervisor.pid, signal.SIGKILL)
        wait_gone([supervisor], 5.0)


async def _run(stack: LocalStack, tied_to_pid: int | None, started: Callable[[], None] | None) -> int:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    try:
        await stack.run(stopped, tied_to_pid=tied_to_pid, started=started or (lambda: None))
    except (LockedError, StartError) as error:
        sys.stderr.write(f"{error}\n")
        return _ALREADY_RUNNING if isinstance(error, LockedError) else 1
    return 0


def _detach() -> Callable[[], None] | None:
    """Fork: in the child, a function to call once the stack is held; the parent waits for that, then exits."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)

        def started() -> None:
            os.write(writing, b"started")
            os.close(writing)

        return started
    os.close(writing)
    if os.read(reading, 16):
        os._exit(0)
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)


def main() -> int:
    """Supervise a stack, in the foreground or detached."""
    parser = argparse.ArgumentParser(prog="python -m penguin_devstack.stack", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(".local"))
    parser.add_argument("--options", type=json.loads, default={}, help="StackOptions as JSON")
    parser.add_argument("--detach", action="store_true", help="go on in the background once the stack is held")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    options = dict(arguments.options)
    tied_to_pid = options.pop("tied_to_pid", None)
    stack = LocalStack(arguments.root, **options)
    started = _detach() if arguments.detach else None
    return asyncio.run(_run(stack, tied_to_pid, started))


if __name__ == "__main__":
    sys.exit(main())
