"""What belongs together runs in one test process, and what takes long begins first: how that is told, that pytest-xdist keeps it,
and that no stack is left out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from penguin_testkit.spreading import EARLY, SETTING, Groups

TESTS = Path(__file__).parents[1]
# What is early comes last in the order of names.
SETTINGS = """[pytest]
together =
    both: test_a.py test_b.py
    alone: test_c.py::test_one[4]
early =
    test_c.py::test_one[5]
    test_c.py::test_one[4]
"""
NOTING = """
import os, pathlib, pytest
@pytest.mark.parametrize("n", range(6))
def test_one(n):
    with pathlib.Path("ran").open("a") as file:
        file.write(f"{__name__} {os.environ['PYTEST_XDIST_WORKER']} {n}\\n")
"""


def run_pytest(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the tests of a folder, with nothing but the plugins it names."""
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": ""}
    for name in [name for name in environment if name.startswith("PYTEST_XDIST")]:
        del environment[name]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *options, "-p", "penguin_testkit.spreading"],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_a_group_is_told_by_the_beginnings_of_paths() -> None:
    lines = [
        "drill: tests/failure/test_z.py",
        "stack: tests/failure/ tests/e2e/test_import.py",
        "demo:tests/e2e/test_demo.py",
    ]
    groups = Groups(lines)
    # The first that fits.
    assert groups.of("tests/failure/test_z.py::test_y") == "drill"
    assert groups.of("tests/failure/test_x.py::test_y[z]") == "stack"
    assert groups.of("tests/e2e/test_import.py::test_y") == "stack"
    assert groups.of("tests/e2e/test_demo.py::test_y") == "demo"
    assert groups.of("tests/unit/test_x.py::test_y") is None


def test_a_group_runs_in_one_process_and_the_rest_in_all_the_early_ones_first(tmp_path: Path) -> None:
    for name in ("test_a", "test_b", "test_c"):
        (tmp_path / f"{name}.py").write_text(NOTING)
    (tmp_path / "pytest.ini").write_text(SETTINGS)
    done = run_pytest(tmp_path, "-n", "2", "--dist", "loadgroup", "-p", "xdist")
    assert done.returncode == 0, done.stdout + done.stderr
    ran = [line.split() for line in (tmp_path / "ran").read_text().splitlines()]
    assert len(ran) == 18
    (grouped,) = {worker for name, worker, _ in ran if name != "test_c"}
    (other,) = {worker for _, worker, _ in ran} - {grouped}
    assert [n for _, worker, n in ran if worker == other][:2] == ["5", "4"]


SHARING = """
import pathlib, pytest
def note(what):
    with pathlib.Path("ran").open("a") as file:
        file.write(what + "\\n")
@pytest.fixture(scope="session")
async def dear():
    note("begun")
    yield
    note("ended")
"""
USING = """
from conftest import note
async def test_one(dear):
    note("used")
"""
NOT_USING = """
from conftest import note
async def test_one():
    note("else")
"""


def test_what_a_group_shares_ends_with_the_group(tmp_path: Path) -> None:
    for name, source in {"conftest": SHARING, "test_a": USING, "test_b": USING, "test_c": NOT_USING}.items():
        (tmp_path / f"{name}.py").write_text(source)
    asynchronous = "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = session\n"
    (tmp_path / "pytest.ini").write_text(SETTINGS.replace("[pytest]\n", asynchronous))
    done = run_pytest(tmp_path, "-p", "pytest_asyncio.plugin")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "ran").read_text().split() == ["begun", "used", "used", "ended", "else"]


def test_every_test_of_a_whole_stack_is_in_a_group(pytestconfig: pytest.Config) -> None:
    groups = Groups(pytestconfig.getini(SETTING))
    heavy = [
        path for path in TESTS.rglob("test_*.py") if "pytest.mark.heavy" in path.read_text() and path != Path(__file__)
    ]
    assert len(heavy) >= 5
    for path in heavy:
        group = groups.of(f"{path.relative_to(TESTS.parent).as_posix()}::test")
        assert group is not None, f"{path.name} would have a stack in every test process"
        if "stack: LocalStack" in path.read_text():
            assert group == "stack", f"{path.name} shares the one stack"


def test_every_early_test_is_there(pytestconfig: pytest.Config) -> None:
    early = pytestconfig.getini(EARLY)
    assert early
    for path, _, name in (each.partition("::") for each in early):
        assert not name or f"def {name.partition('[')[0]}(" in (TESTS.parent / path).read_text(), (
            f"{path} has no {name}"
        )
