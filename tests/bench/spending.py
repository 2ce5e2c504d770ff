"""Where the time goes: CPU by process of a local stack. It says the same on a busy machine as on an idle one, almost."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import psutil

from penguin_devstack.stack import LocalStack

# Less than this is not worth a line (microseconds each).
LEAST_US = 0.05


def spent(stack: LocalStack) -> dict[str, float]:
    """CPU seconds spent so far, by component with its children."""
    seconds: dict[str, float] = {}
    for name, component in stack.status().components.items():
        if component.process is not None:
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(component.process.pid)
                seconds[name] = sum(of(each) for each in (process, *process.children(recursive=True)))
    return seconds


def of(process: psutil.Process) -> float:
    """CPU seconds of one process and of its children that have ended."""
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


def each(before: Mapping[str, float], after: Mapping[str, float], count: float) -> dict[str, float]:
    """Microseconds of CPU for each of `count`, by component, the dearest first."""
    found = {part: (seconds - before.get(part, 0.0)) / count * 1e6 for part, seconds in after.items()}
    return dict(sorted(((part, us) for part, us in found.items() if us >= LEAST_US), key=lambda pair: -pair[1]))
