"""What a drill found: each cell's verdict with what was seen, each row's times, and the history of acts around each fault.
Pure, and written as JSON as it stands."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from penguin_cli.drill.matrix import COLUMNS, PROMISES, Row

GREEN, RED, NOT_RUN = "green", "red", "not run"
RECOVERY_S = 30.0
BUCKET_S = 0.25
# Where quiet times differ among themselves by more than this, nothing can be said of others.
MOST_NOISE = 0.5
TOO_BUSY = "the machine is too busy to tell"
OUTCOMES = ("ok", "refused", "unknown", "failed")


@dataclass(frozen=True)
class Act:
    """One act of the load: what, when (monotonic seconds), and how it ended (one of OUTCOMES)."""

    kind: str
    began: float
    ended: float
    outcome: str
    reason: str = ""


@dataclass
class Cell:
    """One promise held against what was seen. `said` is for people; a problem makes the cell red."""

    column: str
    promise: str
    said: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    recovered_s: float | None = None
    ran: bool = False

    @property
    def verdict(self) -> str:
        """Green only if it was run, nothing was wrong, and it recovered."""
        if not self.ran:
            return NOT_RUN
        return RED if self.problems else GREEN

    def over(self) -> None:
        """It was run to its end. One that has nothing to say of what it saw has seen nothing."""
        self.ran = True
        if not self.said:
            self.problems.append("nothing was shown")

    def recovered(self, seconds: float | None) -> None:
        """Take down when the column worked again after the fault (None: not in time)."""
        self.recovered_s = seconds
        if seconds is None or seconds > RECOVERY_S:
            self.problems.append(f"did not work again within {RECOVERY_S:g} s")


@dataclass
class RowFinding:
    """One row: its cells, what was wrong beside them, and the acts around the fault."""

    key: str
    title: str
    cells: list[Cell]
    reason: str = ""
    problems: list[str] = field(default_factory=list)
    # Whom the emails were for whose outcome is unknown, and which are held.
    held: list[str] = field(default_factory=list)
    figures: dict[str, float | int] = field(default_factory=dict)
    # Acts per bucket by outcome, and where in the history the fault began and ended (seconds from its start).
    history: dict[str, list[int]] = field(default_factory=dict)
    fault_from_s: float = 0.0
    fault_to_s: float = 0.0

    @classmethod
    def of(cls, row: Row) -> RowFinding:
        """A row of which nothing has been run."""
        return cls(row.key, row.title, [Cell(column, row.promise(column)) for column in COLUMNS])

    @property
    def verdict(self) -> str:
        """Green only if every cell is."""
        if self.reason:
            return NOT_RUN
        held = not self.problems and all(cell.verdict == GREEN for cell in self.cells)
        return GREEN if held else RED

    @property
    def untold(self) -> bool:
        """Whether nothing is wrong but that the machine was too busy to tell."""
        found = [*self.problems, *(problem for cell in self.cells for problem in cell.problems)]
        return bool(found) and all(problem.endswith(TOO_BUSY) for problem in found)

    def not_run(self, reason: str) -> None:
        """Say why it could not be run: it is then neither green nor red."""
        self.reason = reason


@dataclass
class Findings:
    """A whole drill."""

    rows: list[RowFinding]
    began_at: str
    took_s: float = 0.0
    error: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether something was run, and everything that was is green."""
        verdicts = {row.verdict for row in self.rows}
        return not self.error and GREEN in verdicts and RED not in verdicts

    def as_json(self) -> dict[str, Any]:
        """Everything, with verdicts."""
        rows = [
            asdict(row)
            | {"verdict": row.verdict}
            | {"cells": [asdict(cell) | {"verdict": cell.verdict, "promised": PROMISES[cell.promise]} for cell in row.cells]}
            for row in self.rows
        ]  # fmt: skip
        return {
            "ok": self.ok, "error": self.error, "began_at": self.began_at, "took_s": self.took_s,
            "settings": self.settings, "totals": self.totals(), "rows": rows,
        }  # fmt: skip

    def totals(self) -> dict[str, int]:
        """Cells by verdict."""
        counts = Counter(NOT_RUN if row.reason else cell.verdict for row in self.rows for cell in row.cells)
        return {verdict: counts[verdict] for verdict in (GREEN, RED, NOT_RUN)}


def bucketed(acts: Iterable[Act], start: float, end: float) -> dict[str, list[int]]:
    """Acts per 250 ms by outcome, by when they ended."""
    count = max(1, math.ceil((end - start) / BUCKET_S))
    history = {outcome: [0] * count for outcome in OUTCOMES}
    for act in acts:
        if start <= act.ended < end:
            history[act.outcome][int((act.ended - start) / BUCKET_S)] += 1
    return history


def p99(samples: Sequence[float]) -> float:
    """The 99th percentile of at least one sample."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, math.ceil(len(ordered) * 0.99) - 1)]


def refusal_problems(times: Sequence[float], limit_s: float) -> list[str]:
    """Refusals must be quick: half of them within the limit, and none beyond twice of it (a machine has other work too)."""
    if not times:
        return ["nothing was refused"]
    median, slowest = statistics.median(times), max(times)
    if median > limit_s or slowest > 2 * limit_s:
        return [f"refused after {median:.2f} s by the median, {slowest:.2f} s at worst; {limit_s:g} s are promised"]
    return []


def slower_problems(
    before: Sequence[float], during: Sequence[float], after: Sequence[float], allowed: float = 1.05
) -> tuple[str, list[str]]:
    """Whether `during` is slower than what was before and after it, by the median and by more than is allowed and noise explains.

    Noise is by how much the slowest third of the quiet times (each third's median) differs from the quickest; a fifth at
    least, for that much no two measurements agree on a machine that does something else too.
    """
    if not (before and during and after):
        return "not measured", ["nothing was measured: nothing was shown"]
    thirds = [statistics.median(part) for times in (before, after) for part in _thirds(times)]
    quiet, noise = statistics.median([*before, *after]), max(0.2, max(thirds) / min(thirds) - 1)
    ratio = statistics.median(during) / quiet
    said = f"median {quiet * 1000:.1f} → {statistics.median(during) * 1000:.1f} ms ({ratio:.2f}x, noise {noise:.0%})"
    if noise > MOST_NOISE:
        return said, [f"quiet times differ by {noise:.0%}: {TOO_BUSY}"]
    if ratio <= allowed + noise:
        return said, []
    return said, [f"{ratio:.2f} times as slow; {allowed + noise:.2f} is allowed"]


def _thirds(times: Sequence[float]) -> list[Sequence[float]]:
    third = max(1, len(times) // 3)
    return [times[:third], times[third : 2 * third] or times, times[2 * third :] or times]


def unfair_problems(
    quiet: Sequence[float], during: Sequence[float], refused: int, with_retry_info: int
) -> tuple[str, list[str]]:
    """Whether a noisy tenant was felt by others, and was itself refused as promised."""
    if not (quiet and during):
        return "not measured", ["nothing was measured: nothing was shown"]
    before, now = p99(quiet), p99(during)
    said = f"others' p99 {before * 1000:.1f} → {now * 1000:.1f} ms ({now / before:.2f}x); {refused} calls refused"
    found = [] if now <= 2 * before else [f"others' p99 grew {now / before:.2f} times; 2 is promised"]
    if not refused:
        found.append("the noisy tenant was never refused: nothing was shown")
    elif with_retry_info < refused:
        found.append(f"{refused - with_retry_info} of {refused} refusals lacked RetryInfo")
    return said, found
