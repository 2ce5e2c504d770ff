"""Runs a set of processes side by side: each starts when what it depends on is ready, is started again when it
crashes, and stops before what it depends on. It judges health only while starting and never restarts a live process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penguin_devstack import logs, orphans
from penguin_devstack.ports import holder, is_free
from penguin_devstack.processes import ProcessId
from penguin_devstack.stack_state import ComponentState, StackState, StateFile

Probe = Callable[[], Awaitable[bool]]

_PROBE_EVERY_S = 0.03
_WATCH_EVERY_S = 0.1
_SETTLED_AFTER_S = 0.3
_FIRST_RESTART_S = 0.2
_SLOWEST_RESTART_S = 5.0
_STABLE_AFTER_S = 30.0
_START_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """A process to keep running. Its readiness is told by `ready`; without one it is ready once it has stayed alive
    for a moment. `prepare` runs (in a thread) before every start. A `one_shot` process must end with status 0."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log_path: Path
    ready: Probe | None = None
    depends_on: tuple[str, ...] = ()
    port: int | None = None
    stop_signal: int = signal.SIGTERM
    grace_s: float = 15.0
    ready_timeout_s: float = 60.0
    prepare: Callable[[], None] | None = None
    one_shot: bool = False


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """Work done once in the supervisor itself between the starts of processes."""

    name: str
    run: Callable[[], Awaitable[None]]
    depends_on: tuple[str, ...] = ()


Spec = ProcessSpec | TaskSpec


class StartError(RuntimeError):
    """A component did not start; the text names it and quotes the end of its log."""


@dataclass(slots=True)
class _Component:
    spec: Spec
    state: ComponentState
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    unheld: asyncio.Event = field(default_factory=asyncio.Event)
    process: asyncio.subprocess.Process | None = None
    identity: ProcessId | None = None
    keeper: asyncio.Task[None] | None = None


class Supervisor:
    """Runs `specs` for the stack in `root`, keeping its state file true.

    A file `run/hold/<component>` keeps that component stopped until it is removed; its content may name the signal
    to stop it with. So another process can take a component away without talking to the supervisor.
    """

    def __init__(self, root: Path, specs: Sequence[Spec], options: Mapping[str, object] | None = None) -> None:
        self._root = root
        self._state_file = StateFile(root)
        levels = _levels(specs)
        self._components = {spec.name: _Component(spec, _initial_state(spec, levels[spec.name])) for spec in specs}
        identity = ProcessId.of(os.getpid())
        self.state = StackState(
            status="starting",
            supervisor_pid=os.getpid(),
            supervisor_start_mark=identity.start_mark if identity else "",
            options=dict(options or {}),
            components={name: component.state for name, component in self._components.items()},
        )

    async def run(self, stopped: asyncio.Event) -> None:
        """Start everything, keep it running until `stopped` is set, then stop everything in reverse.

        Raises StartError, after stopping what had started, if a component does not come up.
        """
        begun = time.monotonic()
        self._clear_holds()
        self._save()
        for component in self._components.values():
            component.unheld.set()
            component.keeper = asyncio.create_task(self._keep(component))
        workers = [asyncio.create_task(self._watch()), *(c.keeper for c in self._components.values() if c.keeper)]
        try:
            await self._wait_for(_first_of(self._all_ready(), stopped.wait()), workers)
            if not stopped.is_set():
                self.state.status, self.state.ready_after_s = "ready", round(time.monotonic() - begun, 3)
                self._save()
                await self._wait_for(stopped.wait(), workers)
        except StartError as error:
            self.state.error = str(error)
            raise
        finally:
            # Nothing may be started again once stopping has begun.
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            await self._stop_all()
            self.state.status = "failed" if self.state.error else "stopped"
            self._save()

    async def _all_ready(self) -> None:
        for component in self._components.values():
            await component.ready.wait()

    async def _wait_for(self, wanted: Awaitable[object], watchers: Iterable[asyncio.Task[None]]) -> None:
        """Wait for `wanted`, but raise as soon as one of the watchers fails: nobody else would notice."""
        goal: asyncio.Future[object] = asyncio.ensure_future(wanted)
        pending: set[asyncio.Future[Any]] = {goal, *watchers}
        try:
            while not goal.done():
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for finished in done:
                    finished.result()
        finally:
            goal.cancel()

    async def _keep(self, component: _Component) -> None:
        spec = component.spec
        for name in spec.depends_on:
            await self._components[name].ready.wait()
        if isinstance(spec, TaskSpec):
            self._set(component, "starting")
            try:
                await spec.run()
            except Exception as error:
                self._set(component, "failed")
                raise StartError(f"{spec.name}: {error}") from error
            self._set(component, "done")
            component.ready.set()
            return
        failures = 0
        while True:
            await self._wait_unheld(component)
            begun = time.monotonic()
            came_up = await self._run_once(component, spec)
            if spec.one_shot and came_up:
                return
            if time.monotonic() - begun > _STABLE_AFTER_S:
                failures = 0
            failures += 1
            if not component.ready.is_set() and failures >= _START_ATTEMPTS:
                self._set(component, "failed")
                raise StartError(f"{spec.name} did not start; its log ends:\n{logs.tail(spec.log_path)}")
            if not component.unheld.is_set():
                failures = 0
            else:
                component.state.restarts += 1
                self._set(component, "restarting")
                await asyncio.sleep(restart_delay(failures))

    async def _run_once(self, component: _Component, spec: ProcessSpec) -> bool:
        """Start the process and wait for its end. True if it became ready (for a one-shot: ended well)."""
        self._set(component, "starting")
        spec.log_path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if spec.prepare is not None:
                await asyncio.to_thread(spec.prepare)
            if spec.port is not None and not is_free(spec.port):
                raise OSError(f"port {spec.port} is in use by {await asyncio.to_thread(holder, spec.port)}")
            process = await self._spawn(component, spec)
        except (OSError, RuntimeError) as error:
            with spec.log_path.open("a") as log:
                log.write(f"{spec.name} could not be started: {error}\n")
            return False
        exited = asyncio.ensure_future(process.wait())
        try:
            came_up = await self._await_ready(component, spec, exited)
            component.state.last_exit = code = await exited
        finally:
            exited.cancel()
        await self._sweep(spec)
        component.process = component.identity = None
        component.state.pid = None
        if spec.one_shot and code == 0:
            self._set(component, "done")
            component.ready.set()
            return True
        return came_up and not spec.one_shot

    async def _spawn(self, component: _Component, spec: ProcessSpec) -> asyncio.subprocess.Process:
        with spec.log_path.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *spec.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**spec.env, **orphans.marks(self._root, spec.name)},
                start_new_session=True,
            )
        component.process, component.identity = process, ProcessId.of(process.pid)
        component.state.pid = process.pid
        component.state.start_mark = component.identity.start_mark if component.identity else ""
        self._save()
        return process

    async def _await_ready(self, component: _Component, spec: ProcessSpec, exited: asyncio.Future[int]) -> bool:
        if spec.one_shot:
            return False
        begun = time.monotonic()
        while not exited.done():
            if spec.ready is None:
                is_ready = time.monotonic() - begun >= _SETTLED_AFTER_S
            else:
                is_ready = await spec.ready()
            if is_ready and not exited.done():
                self._set(component, "ready")
                component.ready.set()
                return True
            if time.monotonic() - begun > spec.ready_timeout_s:
                await self._terminate(component, spec.stop_signal)
                return False
            await asyncio.wait({exited}, timeout=_PROBE_EVERY_S)
        return False

    async def _terminate(self, component: _Component, number: int) -> None:
        """Ask the process to end, and after its grace end its whole tree."""
        spec, process, identity = component.spec, component.process, component.identity
        if process is None or identity is None or not isinstance(spec, ProcessSpec):
            return
        await asyncio.to_thread(orphans.end, {identity: number}, spec.grace_s)
        await self._sweep(spec)

    async def _sweep(self, spec: ProcessSpec) -> None:
        """End what a process left behind when it ended."""
        left = await asyncio.to_thread(orphans.marked, self._root, spec.name)
        if left:
            await asyncio.to_thread(orphans.end, dict.fromkeys(left, int(signal.SIGKILL)), 5.0)

    async def _wait_unheld(self, component: _Component) -> None:
        if not component.unheld.is_set():
            self._set(component, "held")
            await component.unheld.wait()

    async def _watch(self) -> None:
        """Follow the hold files and keep the logs bounded."""
        stops: set[asyncio.Task[None]] = set()
        rounds = 0
        while True:
            for name, component in self._components.items():
                held_by = self._hold_path(name)
                if not held_by.exists():
                    component.unheld.set()
                elif component.unheld.is_set() and isinstance(component.spec, ProcessSpec):
                    component.unheld.clear()
                    stop = asyncio.create_task(self._terminate(component, _held_signal(held_by, component.spec)))
                    stops.add(stop)
                    stop.add_done_callback(stops.discard)
                if rounds % 10 == 0 and isinstance(component.spec, ProcessSpec):
                    await asyncio.to_thread(logs.rotate_if_large, component.spec.log_path)
            rounds += 1
            await asyncio.sleep(_WATCH_EVERY_S)

    async def _stop_all(self) -> None:
        self.state.status = "stopping"
        self._save()
        levels = sorted({component.state.level for component in self._components.values()}, reverse=True)
        for level in levels:
            members = [c for c in self._components.values() if c.state.level == level]
            await asyncio.gather(*(self._stop(component) for component in members))

    async def _stop(self, component: _Component) -> None:
        spec = component.spec
        if isinstance(spec, TaskSpec) or component.process is None:
            component.state.pid = None
            if component.state.status not in ("failed", "done"):
                self._set(component, "stopped")
            return
        self._set(component, "stopping")
        await self._terminate(component, spec.stop_signal)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                component.state.last_exit = await component.process.wait()
        component.process = component.identity = component.state.pid = None
        self._set(component, "stopped")

    def _hold_path(self, name: str) -> Path:
        return hold_path(self._root, name)

    def _clear_holds(self) -> None:
        """A stack starts whole, whatever an earlier one had taken away."""
        directory = hold_path(self._root, "x").parent
        directory.mkdir(parents=True, exist_ok=True)
        for leftover in directory.iterdir():
            leftover.unlink()

    def _set(self, component: _Component, status: str) -> None:
        component.state.status, component.state.since = status, time.time()
        self._save()

    def _save(self) -> None:
        self._state_file.write(self.state)


async def _first_of(*awaitables: Awaitable[object]) -> None:
    futures = [asyncio.ensure_future(each) for each in awaitables]
    try:
        await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for future in futures:
            future.cancel()


def hold_path(root: Path, component: str) -> Path:
    """The file that keeps a component stopped while it exists."""
    return root / "run" / "hold" / component


def restart_delay(failures: int) -> float:
    """Seconds to wait before the next start: doubling from 0.2 to 5, spread by half each way."""
    doubled = _FIRST_RESTART_S * 2.0 ** min(failures - 1, 10)
    return min(_SLOWEST_RESTART_S, doubled) * random.uniform(0.5, 1.5)


def _held_signal(path: Path, spec: ProcessSpec) -> int:
    try:
        return int(path.read_text().strip() or spec.stop_signal)
    except (OSError, ValueError):
        return spec.stop_signal


def _initial_state(spec: Spec, level: int) -> ComponentState:
    if isinstance(spec, TaskSpec):
        return ComponentState(level=level)
    return ComponentState(level=level, stop_signal=int(spec.stop_signal), port=spec.port, log=str(spec.log_path))


def _levels(specs: Sequence[Spec]) -> dict[str, int]:
    """How deep each stands above what depends on nothing. Raises ValueError for unknown names and circles."""
    by_name = {spec.name: spec for spec in specs}
    levels: dict[str, int] = {}

    def level(name: str, above: tuple[str, ...]) -> int:
        if name in above:
            raise ValueError(f"{' → '.join((*above, name))} is a circle")
        if name not in by_name:
            raise ValueError(f"{above[-1]} depends on {name}, which is not there")
        if name not in levels:
            levels[name] = 1 + max((level(each, (*above, name)) for each in by_name[name].depends_on), default=-1)
        return levels[name]

    for spec in specs:
        level(spec.name, ())
    return levels
