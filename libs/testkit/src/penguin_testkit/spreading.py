"""Which tests share a test process, and which begin first. pytest-xdist's own marks for the one hold nothing together under
pytest 9.2, and nothing says so (its issue 1386): both are told by path, in the project's settings."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import pytest
from _pytest.runner import runtestprotocol
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

SETTING = "together"
EARLY = "early"
_GROUPS = pytest.StashKey["Groups"]()


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

    Groups begin before all else, the largest first, and the long tests after them: what takes longest is not left for the end,
    where one process would work and the others wait for it.
    """

    def __init__(self, config: pytest.Config, log: Producer | None, groups: Groups, early: Sequence[str] = ()) -> None:
        super().__init__(config, log)
        self._groups = groups
        self._early = tuple(early)
        self._ahead: deque[str] | None = None

    def _split_scope(self, nodeid: str) -> str:
        return self._groups.of(nodeid) or nodeid

    def _assign_work_unit(self, node: WorkerController) -> None:
        if self._ahead is None:
            waiting = list(self.workqueue.items())
            self._ahead = deque(scope for scope, tests in waiting if len(tests) > 1)
            alone = [(scope, next(iter(tests))) for scope, tests in waiting if len(tests) == 1]
            self._ahead += [scope for path in self._early for scope, nodeid in alone if nodeid.startswith(path)]
        while self._ahead:
            scope = self._ahead.popleft()
            if scope in self.workqueue:
                self.workqueue.move_to_end(scope, last=False)
                break
        super()._assign_work_unit(node)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The settings."""
    parser.addini(SETTING, "tests of one test process: `name: path …`", type="linelist")
    parser.addini(
        EARLY, "tests that take longest, by the beginnings of their paths, in the order to begin them", type="linelist"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Read the groups once."""
    config.stash[_GROUPS] = Groups(config.getini(SETTING))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Let what a group shares end with the group: a stack that nobody uses any more would have its share of the processors for as
    long as the process tests something else."""
    groups = item.config.stash[_GROUPS]
    group = groups.of(item.nodeid)
    if group is None or nextitem is None or groups.of(nextitem.nodeid) == group:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    runtestprotocol(item, nextitem=None)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Spreading | None:
    """For `--dist loadgroup`."""
    if config.getvalue("dist") != "loadgroup":
        return None
    return Spreading(config, log, config.stash[_GROUPS], config.getini(EARLY))
