"""Which tests share a test process. pytest-xdist's own marks for it hold nothing together under pytest 9.2, and nothing says
so (its issue 1386): what belongs together is told by path, in the project's settings."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

SETTING = "together"


class Groups:
    """Groups of tests, each as `name: path …`, beginnings of its tests' paths."""

    def __init__(self, lines: Iterable[str]) -> None:
        parted = (line.partition(":") for line in lines)
        self._names = {tuple(paths.split()): name.strip() for name, _, paths in parted}

    def of(self, nodeid: str) -> str | None:
        """The group of a test, if it is in one."""
        return next((name for paths, name in self._names.items() if nodeid.startswith(paths)), None)


class Spreading(LoadScopeScheduling):  # type: ignore[misc] # it tells no types
    """Each test to whoever is free; but a group whole to one process.

    Groups begin before all else, the largest first: what takes longest is not left for the end.
    """

    def __init__(self, config: pytest.Config, log: Producer | None, groups: Groups) -> None:
        super().__init__(config, log)
        self._groups = groups

    def _split_scope(self, nodeid: str) -> str:
        return self._groups.of(nodeid) or nodeid


def pytest_addoption(parser: pytest.Parser) -> None:
    """The setting."""
    parser.addini(SETTING, "tests of one test process: `name: path …`", type="linelist")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Spreading | None:
    """For `--dist loadgroup`."""
    return Spreading(config, log, Groups(config.getini(SETTING))) if config.getvalue("dist") == "loadgroup" else None
