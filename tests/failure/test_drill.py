"""A short outage drill as a shell runs it: a stack of its own, two faults under load, and a report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from penguin_devstack import orphans
from penguin_devstack.guardian import guarded_directory

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(240)]

ROWS = "killed-notifications,redis-flushed"
CELLS = 12
LIMIT_S = 200


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Where the drill puts its stack, so that what is left of it is found."""
    with guarded_directory("penguin-drilled-") as folder:
        yield folder


def still_there(folder: Path) -> list[str]:
    """Processes of any stack below the folder."""
    found = []
    for process in psutil.process_iter(["name", "environ"]):
        root = (process.info["environ"] or {}).get(orphans.ROOT_MARK, "")
        if root.startswith(str(folder)):
            found.append(process.info["name"])
    return found


def test_a_short_drill_is_green_and_leaves_nothing_behind(scratch: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PENGUIN_")}
    drill = subprocess.run(
        [sys.executable, "-m", "penguin_cli", "drill", "--rows", ROWS, "--seconds", "1", "--report", str(tmp_path)],
        env={**environment, "TMPDIR": str(scratch)}, capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    report = json.loads((tmp_path / "report.json").read_text())
    wrong = [problem for row in report["rows"] for problem in row["problems"]]
    wrong += [
        f"{cell['column']}: {problem}"
        for row in report["rows"]
        for cell in row["cells"]
        for problem in cell["problems"]
    ]
    assert (wrong, drill.returncode) == ([], 0), drill.stdout + drill.stderr
    assert report["totals"] == {"green": CELLS, "red": 0, "not run": 0}
    for row in report["rows"]:
        assert sum(row["history"]["ok"]) > 0
        assert 0 < row["fault_from_s"] < row["fault_to_s"]
        assert row["figures"]["emails_acknowledged"] > 0
        assert all(0 <= cell["recovered_s"] <= 30 for cell in row["cells"])
    assert report["rows"][1]["figures"]["flushes"] > 0
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 2
    assert "Every promise that was tried held." in page
    assert list(scratch.glob("penguin-drill-*")) == []
    assert still_there(scratch) == []
