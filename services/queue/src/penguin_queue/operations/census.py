"""Keeps a count of all jobs at hand, for statistics and for metrics. Counting reads every job, so it is done for all who ask
together, and takes a bounded share of the time however large the backlog is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from datetime import datetime

from opentelemetry import metrics

from penguin_chassis.clock import Now
from penguin_chassis.pool import Database
from penguin_queue.store.census import WINDOW, CensusStore, Counts, Flow, TenantDepth

# A count is good for this long, or for so many times as long as it took, whichever is longer (seconds, times).
FRESH_S = 1.0
SHARE = 20.0
log = logging.getLogger(__name__)
# Tenants that are told of as metrics: each is a series of its own, in every store of metrics there is.
TENANTS_SHOWN = 10
_meter = metrics.get_meter("penguin.queue")
# Every replica counts the same database and says so by itself.
_OF_ALL = "Of the whole database, the same from every replica: aggregate by max, never by sum."
_jobs = _meter.create_gauge("penguin.queue.jobs", unit="{job}", description=f"Jobs by queue, kind and state. {_OF_ALL}")
_age = _meter.create_gauge(
    "penguin.queue.oldest_ready_age", unit="s", description=f"Wait of the oldest ready job. {_OF_ALL}"
)
_dead_rows = _meter.create_gauge(
    "penguin.queue.dead_rows", unit="{row}", description=f"Rows vacuum has not removed, by hot table. {_OF_ALL}"
)
_xmin_age = _meter.create_gauge(
    "penguin.queue.oldest_xmin_age",
    unit="s",
    description=f"Since when the oldest transaction holds vacuum back. {_OF_ALL}",
)
# From then on it is worth a word in the log (seconds).
XMIN_OLD_S = 300.0
_rate = _meter.create_gauge(
    "penguin.queue.rate", unit="{job}/s", description=f"Jobs a second, by what became of them. {_OF_ALL}"
)
_dead_ratio = _meter.create_gauge(
    "penguin.queue.dead_letter_ratio",
    unit="1",
    description=f"Of the jobs that ended lately, how many were given up. {_OF_ALL}",
)


class Largest:
    """The tenants with the most jobs, as a gauge that is asked: one that is set would go on telling of whoever was in it ever."""

    def __init__(self) -> None:
        self._shown: Sequence[TenantDepth] = ()

    def show(self, tenants: Sequence[TenantDepth]) -> None:
        """Tell of these from now on, the largest first, up to TENANTS_SHOWN of them, and of no others."""
        self._shown = tuple(tenants[:TENANTS_SHOWN])

    def enter(self, meter: metrics.Meter) -> None:
        """Be asked by this meter."""
        meter.create_observable_gauge(
            "penguin.queue.tenant_jobs", [self._observed], unit="{job}",
            description=f"Jobs of the {TENANTS_SHOWN} tenants with the most, by state. {_OF_ALL}",
        )  # fmt: skip

    def _observed(self, _: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
        # Asked in the exporter's thread.
        for depth in self._shown:
            for state in ("waiting", "leased"):
                labels = {"penguin.tenant_id": str(depth.tenant_id), "state": state}
                yield metrics.Observation(getattr(depth, state), labels)


_largest = Largest()
_largest.enter(_meter)
FLOWS = ("enqueued", "completed", "dead", "cancelled")
STATES = ("scheduled", "ready", "leased", "held", "dead")


class Census:
    """The last count, and the next one when it is time."""

    def __init__(self, store: CensusStore, now: Now) -> None:
        self._store = store
        self._now = now
        self._counting = asyncio.Lock()
        self._last: Counts | None = None
        self._good_until = 0.0
        self._shown: set[tuple[str, str]] = set()
        self._flowing: set[tuple[str, str]] = set()
        # What replication slots hold, and since when this process has seen that.
        self._slots: dict[tuple[str, str], datetime] = {}
        self._warned = False

    async def latest(self) -> Counts:
        """A count that is fresh enough. Raises as the store does."""
        clock = asyncio.get_running_loop().time
        async with self._counting:
            if self._last is None or clock() >= self._good_until:
                started = clock()
                self._last = await self._store.count(self._now())
                self._good_until = clock() + max(FRESH_S, SHARE * (clock() - started))
            return self._last

    async def measure(self, _: Database, at: datetime) -> None:
        """Show the count as metrics: a duty of the tier's housekeeping."""
        counts = await self.latest()
        totals: dict[tuple[str, str], dict[str, int]] = {}
        oldest: dict[tuple[str, str], datetime] = {}
        for depth in counts.depths:
            name = depth.queue, depth.kind
            total = totals.setdefault(name, dict.fromkeys(STATES, 0))
            for state in STATES:
                total[state] += getattr(depth, state)
            if depth.oldest_ready_at is not None:
                oldest[name] = min(depth.oldest_ready_at, oldest.get(name, depth.oldest_ready_at))
        # A kind that has no job any more is shown as such: a gauge that falls silent keeps its last value.
        for name in self._shown | set(totals):
            labels = {"queue": name[0], "kind": name[1]}
            for state, count in totals.get(name, dict.fromkeys(STATES, 0)).items():
                _jobs.set(count, labels | {"state": state})
            _age.set(max(0.0, (at - oldest[name]).total_seconds()) if name in oldest else 0.0, labels)
        self._shown |= set(totals)
        self._show_flows(counts)
        _largest.show(counts.tenants)
        for table, rows in counts.dead_rows.items():
            _dead_rows.set(rows, {"table": table})
        self._show_xmin(counts, at)

    def _show_flows(self, counts: Counts) -> None:
        flows = {(flow.queue, flow.kind): flow for flow in counts.flows}
        for queue, kind in self._flowing | set(flows):
            flow = flows.get((queue, kind), Flow(queue, kind, 0, 0, 0, 0))
            for what in FLOWS:
                _rate.set(getattr(flow, what) / WINDOW.total_seconds(), {"queue": queue, "kind": kind, "of": what})
            ended = flow.completed + flow.dead
            _dead_ratio.set(flow.dead / ended if ended else 0.0, {"queue": queue, "kind": kind})
        self._flowing |= set(flows)

    def _show_xmin(self, counts: Counts, at: datetime) -> None:
        self._slots = {slot: self._slots.get(slot, at) for slot in counts.slot_xmins.items()}
        held = max((at - since).total_seconds() for since in (*self._slots.values(), at))
        age = max(counts.oldest_xmin_age, held)
        _xmin_age.set(age)
        if age > XMIN_OLD_S and not self._warned:
            log.warning("vacuum is held back by a transaction or replication slot %d s old", age)
        self._warned = age > XMIN_OLD_S
