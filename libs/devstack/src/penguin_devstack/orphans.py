"""Finds and ends what a killed supervisor left running. A process counts as ours by its recorded identity or by the
mark in its environment, never by its name."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from penguin_devstack.pgfiles import live_postmaster, remove_socket_dir
from penguin_devstack.processes import ProcessId, kill_tree, send, thaw_tree, wait_gone
from penguin_devstack.stack_state import StackState

ROOT_MARK = "PENGUIN_STACK_ROOT"
COMPONENT_MARK = "PENGUIN_STACK_COMPONENT"


def marks(root: Path, component: str) -> dict[str, str]:
    """What a supervised process carries in its environment, so that its descendants can be recognised."""
    return {ROOT_MARK: str(root.absolute()), COMPONENT_MARK: component}


def marked(root: Path, component: str | None = None) -> list[ProcessId]:
    """Live processes that carry the marks of this stack, or of one component of it."""
    wanted = str(root.absolute())
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except psutil.Error:
            continue
        if environment.get(ROOT_MARK) != wanted or process.pid == os.getpid():
            continue
        if component is None or environment.get(COMPONENT_MARK) == component:
            identity = ProcessId.of(process.pid)
            if identity is not None:
                found.append(identity)
    return found


def end(processes: Mapping[ProcessId, int], grace_s: float) -> None:
    """Send each process its signal, wait up to `grace_s` for all, and kill the trees of those that stayed."""
    for process, number in processes.items():
        thaw_tree(process)
        if process.alive:
            send(process.pid, number)
    if not wait_gone(processes, grace_s):
        for process in processes:
            kill_tree(process)


def clean_up(root: Path, state: StackState, data_dirs: Sequence[Path], grace_s: float = 10.0) -> int:
    """End everything the stack of `state` still runs, last started first. Returns how many processes that were."""
    count = 0
    by_level: dict[int, dict[ProcessId, int]] = {}
    for component in state.components.values():
        process = component.process
        if process is not None:
            by_level.setdefault(component.level, {})[process] = component.stop_signal
    for level in sorted(by_level, reverse=True):
        count += len(by_level[level])
        end(by_level[level], grace_s)
    # A server that was started but not yet recorded is known by its data directory (it hides its environment).
    unrecorded: dict[ProcessId, int] = {
        process: signal.SIGINT for path in data_dirs if (process := live_postmaster(path)) is not None
    }
    unrecorded |= dict.fromkeys(marked(root), signal.SIGTERM)
    end(unrecorded, grace_s)
    for path in data_dirs:
        remove_socket_dir(path)
    return count + len(unrecorded)
