"""Pytest fixtures that every test may use: real PostgreSQL, real Valkey, tokens. Load with `-p penguin_testkit.plugin`."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from penguin_devstack.postgres import PostgresCluster, temporary_cluster
from penguin_devstack.valkey import ValkeyServer, temporary_valkey
from penguin_testkit.databases import Databases
from penguin_testkit.tokens import TokenFactory

pytest_plugins = ("penguin_testkit.spreading",)

# So many objects may be new before the collector looks at them: calls make many, and leave few in rings.
NEW_OBJECTS = 10_000


def pytest_collection_finish() -> None:
    """What thousands of tests are made of stays to the end: the collector need not look at it again and again."""
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, *gc.get_threshold()[1:])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures that tests have recorded (`record_property("figure", …)`), wherever they ran."""
    reports = [each for each in terminalreporter.stats.get("passed", []) if getattr(each, "when", "") == "call"]
    figures = [value for each in reports for name, value in each.user_properties if name == "figure"]
    if figures:
        terminalreporter.section("figures")
        for figure in sorted(map(str, figures)):
            terminalreporter.write_line(figure)


@pytest.fixture(scope="session")
def cluster() -> Iterator[PostgresCluster]:
    """One PostgreSQL cluster per test process, removed at its end."""
    # Every tier's pools of every test that shares the cluster.
    with temporary_cluster({"max_connections": "400"}) as running:
        yield running


@pytest.fixture(scope="session")
def databases(cluster: PostgresCluster) -> Databases:
    """The tiers' databases in that cluster."""
    return Databases(cluster)


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer]:
    """One Valkey per test process."""
    with temporary_valkey() as running:
        yield running


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> TokenFactory:
    """A token factory and its key set."""
    return TokenFactory(Path(tmp_path_factory.mktemp("keys")))
