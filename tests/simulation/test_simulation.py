"""Histories of the whole platform in one process: none goes wrong, each can be had again, and with any one guard switched off one
soon does. Each run is a process of its own, as the order of sets and the source of ids are the process's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.simulation.guards import GUARDS

pytestmark = [pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
# So many in all, in runs of so many side by side; `make simulate` lives through more of them.
HISTORIES, RUN = 1000, 500
WITHIN = 400


def simulate(*options: str) -> subprocess.CompletedProcess[str]:
    """A run, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", *options], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )  # fmt: skip


@pytest.mark.parametrize("first", range(0, HISTORIES, RUN))
def test_no_history_goes_wrong(first: int) -> None:
    done = simulate(f"SEED={first}", f"HISTORIES={RUN}")
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{RUN} histories" in done.stdout


def test_a_seed_is_a_history() -> None:
    """Told in full, it is the same alone and after others."""
    alone = simulate("SEED=5", "HISTORIES=1", "SAY=1").stdout.splitlines()[:-1]
    among = simulate("SEED=3", "HISTORIES=3", "SAY=1").stdout.splitlines()[:-1]
    assert len(alone) > 20
    assert among[-len(alone) :] == alone


def test_each_guard_is_missed() -> None:
    """The guards are those of the SQL, the policies and the domain; the switches fail where they find none."""
    done = simulate("TEETH=1", f"HISTORIES={WITHIN}")
    print(done.stdout)
    found = dict(re.findall(r"^without (\S+): found in history (\d+)", done.stdout, re.MULTILINE))
    assert found.keys() == GUARDS.keys(), done.stdout + done.stderr
