"""The supervisor over small stand-in processes: order, restarts, holds, failures, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from penguin_devstack import logs, orphans
from penguin_devstack.ports import free_port
from penguin_devstack.processes import ProcessId
from penguin_devstack.stack_state import ComponentState, LockedError, StackState, StateFile
from penguin_devstack.supervisor import ProcessSpec, Spec, StartError, Supervisor, TaskSpec, hold_path, restart_delay

SLEEP = "import time; time.sleep(600)"
# Notes when it begins and ends, so that order can be read back.
NOTING = """
import os, signal, sys, time
def note(what):
    with open(os.environ["NOTES"], "a") as notes: notes.write(f"{what} {os.environ['PENGUIN_STACK_COMPONENT']}\\n")
def end(*_):
    note("end"); sys.exit(0)
signal.signal(signal.SIGTERM, end)
note("begin")
while True: time.sleep(0.05)
"""


def spec(root: Path, name: str, program: str = SLEEP, **more: Any) -> ProcessSpec:
    env = {**os.environ, "NOTES": str(root / "notes")}
    return ProcessSpec(name, [sys.executable, "-c", program], env, root / "logs" / f"{name}.log", **more)


@asynccontextmanager
async def supervised(root: Path, specs: Sequence[Spec]) -> AsyncIterator[Supervisor]:
    stopped = asyncio.Event()
    supervisor = Supervisor(root, specs)
    run = asyncio.create_task(supervisor.run(stopped))
    try:
        await until(lambda: supervisor.state.status == "ready" or run.done())
        if run.done():
            run.result()
        yield supervisor
    finally:
        stopped.set()
        await asyncio.wait({run}, timeout=20)
    run.result()


async def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - other processes set no event
            await asyncio.sleep(0.01)


async def test_starts_by_dependency_stops_in_reverse_and_leaves_nothing(tmp_path: Path) -> None:
    notes = tmp_path / "notes"

    async def noted() -> bool:
        return notes.exists() and "begin first" in notes.read_text()

    async def task() -> None:
        with notes.open("a") as file:
            file.write("task\n")

    specs: list[Spec] = [
        spec(tmp_path, "last", NOTING, depends_on=("task",)),
        TaskSpec("task", task, depends_on=("once",)),
        spec(tmp_path, "once", "open(__import__('os').environ['NOTES'], 'a').write('once\\n')", one_shot=True,
             depends_on=("first",)),
        spec(tmp_path, "first", NOTING, ready=noted),
    ]  # fmt: skip
    async with supervised(tmp_path, specs) as supervisor:
        await until(lambda: "begin last" in notes.read_text())
        on_disk = StateFile(tmp_path).read()
        assert on_disk.status == "ready"
        assert on_disk.supervisor == ProcessId.of(os.getpid())
        states = {name: component.status for name, component in on_disk.components.items()}
        assert states == {"last": "ready", "task": "done", "once": "done", "first": "ready"}
        assert all(component.process for name, component in supervisor.state.components.items() if name[-1] == "t")
    assert notes.read_text().split("\n")[:-1] == [
        "begin first", "once", "task", "begin last", "end last", "end first",
    ]  # fmt: skip
    assert orphans.marked(tmp_path) == []
    assert StateFile(tmp_path).read().status == "stopped"


async def test_crashed_process_comes_back_and_its_children_do_not_stay(tmp_path: Path) -> None:
    child = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    async with supervised(tmp_path, [spec(tmp_path, "a", child + "time.sleep(600)"), spec(tmp_path, "b")]) as running:
        a, b = running.state.components["a"], running.state.components["b"]
        await until(lambda: len(orphans.marked(tmp_path, "a")) == 2)
        before = set(orphans.marked(tmp_path, "a"))
        first_b = b.process
        assert a.pid is not None
        os.kill(a.pid, signal.SIGKILL)
        await until(lambda: a.restarts == 1 and a.status == "ready")
        assert not any(process.alive for process in before)
        assert a.last_exit == -signal.SIGKILL
        assert b.process == first_b
    assert orphans.marked(tmp_path) == []


async def test_a_process_that_ignores_sigterm_or_is_frozen_is_killed_after_its_grace(tmp_path: Path) -> None:
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    specs = [spec(tmp_path, "stubborn", stubborn, grace_s=0.3), spec(tmp_path, "frozen", NOTING, grace_s=5.0)]
    async with supervised(tmp_path, specs) as running:
        await until(lambda: (tmp_path / "notes").exists())
        pid = running.state.components["frozen"].pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        begun = time.monotonic()
    assert time.monotonic() - begun < 3
    # Thawed, it could still say goodbye.
    assert "end frozen" in (tmp_path / "notes").read_text()
    assert orphans.marked(tmp_path) == []


async def test_held_component_stays_down_until_released(tmp_path: Path) -> None:
    async with supervised(tmp_path, [spec(tmp_path, "a"), spec(tmp_path, "b")]) as running:
        a = running.state.components["a"]
        # Not SIGINT: a shell's background job is born deaf to it, and so is all that it starts.
        hold_path(tmp_path, "a").write_text(str(int(signal.SIGUSR1)))
        await until(lambda: a.status == "held")
        assert a.process is None
        assert a.last_exit == -signal.SIGUSR1
        await asyncio.sleep(0.3)
        assert a.status == "held"
        hold_path(tmp_path, "a").unlink()
        await until(lambda: a.status == "ready")
        assert a.restarts == 0
        hold_path(tmp_path, "a").touch()
    # A hold does not outlive the stack it was made for.
    async with supervised(tmp_path, [spec(tmp_path, "a")]) as running:
        assert running.state.components["a"].status == "ready"


async def test_a_component_that_cannot_start_fails_the_stack_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"broken did not start(.|\n)*no such thing"):
        async with supervised(tmp_path, [spec(tmp_path, "fine"), spec(tmp_path, "broken", "exit('no such thing')")]):
            pass
    state = StateFile(tmp_path).read()
    assert (state.status, state.components["fine"].status) == ("failed", "stopped")
    assert "no such thing" in state.error
    assert orphans.marked(tmp_path) == []

    async def fails() -> None:
        raise RuntimeError("the task's reason")

    with pytest.raises(StartError, match="the task's reason"):
        async with supervised(tmp_path, [TaskSpec("task", fails), spec(tmp_path, "later", depends_on=("task",))]):
            pass
    assert not (tmp_path / "logs" / "later.log").exists()


async def test_occupied_port_is_named(tmp_path: Path) -> None:
    port = free_port()
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", port)
    try:
        with pytest.raises(StartError, match=f"port {port} is in use"):
            async with supervised(tmp_path, [spec(tmp_path, "a", port=port)]):
                pass
    finally:
        server.close()
        await server.wait_closed()


def test_dependencies_must_exist_and_form_no_circle(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not there"):
        Supervisor(tmp_path, [spec(tmp_path, "a", depends_on=("b",))])
    with pytest.raises(ValueError, match="circle"):
        Supervisor(tmp_path, [spec(tmp_path, "a", depends_on=("b",)), spec(tmp_path, "b", depends_on=("a",))])


def test_restart_rate_is_bounded_and_spread() -> None:
    assert 0.1 <= restart_delay(1) <= 0.3
    assert all(2.5 <= restart_delay(failures) <= 7.5 for failures in (10, 100, 10_000))
    assert len({restart_delay(3) for _ in range(10)}) > 1


def test_clean_up_ends_recorded_and_unrecorded_orphans_but_no_recycled_pid(tmp_path: Path) -> None:
    def start(**env: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", SLEEP], env={**os.environ, **env})

    recorded, unrecorded, foreign = start(), start(**orphans.marks(tmp_path, "x")), start()
    try:
        identity = ProcessId.of(recorded.pid)
        assert identity is not None
        components = {
            "recorded": ComponentState(pid=recorded.pid, start_mark=identity.start_mark),
            "recycled": ComponentState(pid=foreign.pid, start_mark="1@boot"),
        }
        assert orphans.clean_up(tmp_path, StackState(components=components), []) == 2
        assert recorded.wait(5) == -signal.SIGTERM
        assert unrecorded.wait(5) == -signal.SIGTERM
        assert foreign.poll() is None
    finally:
        for process in (recorded, unrecorded, foreign):
            process.kill()
            process.wait()


def test_only_one_holder_of_a_stack(tmp_path: Path) -> None:
    state_file = StateFile(tmp_path)
    with state_file.locked(), pytest.raises(LockedError), StateFile(tmp_path).locked():
        pass
    with state_file.locked():
        pass


def test_logs_stay_bounded_and_lose_nothing_recent(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    with path.open("ab", buffering=0) as writer:
        for number in range(5):
            writer.write(b"%d" % number * 100)
            logs.rotate_if_large(path, max_bytes=50)
        writer.write(b"end\n")
    assert path.read_text() == "end\n"
    assert [logs_file.read_text()[0] for logs_file in sorted(tmp_path.glob("x.log.*"))] == ["4", "3"]
    assert logs.tail(path) == "end"
    assert logs.tail(tmp_path / "absent") == ""
