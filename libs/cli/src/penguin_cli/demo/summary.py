"""What a demo found out: how long each phase took, which checks held. Written as JSON for machines, shown as tables."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from penguin_cli.charts import bar

_PROBLEMS_KEPT = 10
_BAR = 30


@dataclass
class Summary:
    """Figures (seconds, counts), checks by name, and what was wrong where one failed."""

    figures: dict[str, float | int] = field(default_factory=dict)
    checks: dict[str, bool] = field(default_factory=dict)
    problems: dict[str, list[str]] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    phases: dict[str, float] = field(default_factory=dict)
    began_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    error: str = ""

    @property
    def ok(self) -> bool:
        """Whether it ran to its end and every check held."""
        return not self.error and bool(self.checks) and all(self.checks.values())

    def check(self, name: str, problems: Sequence[str]) -> None:
        """A check holds when it found no problem."""
        self.checks[name] = not problems
        if problems:
            more = len(problems) - _PROBLEMS_KEPT
            self.problems[name] = [*problems[:_PROBLEMS_KEPT], *([f"… and {more} more"] if more > 0 else [])]

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time what happens in the block, also when it fails."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.phases[name] = round(self.phases.get(name, 0.0) + time.monotonic() - begun, 3)

    def write(self, path: Path) -> None:
        """Replace the file; its readers never see half of it."""
        content = {
            "ok": self.ok,
            "error": self.error,
            "began_at": self.began_at.isoformat(timespec="seconds"),
            "figures": self.figures,
            "checks": self.checks,
            "problems": self.problems,
            "phases_s": self.phases,
            "ids": self.ids,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(json.dumps(content, indent=1) + "\n")
        partial.replace(path)

    def show(self, out: Console) -> None:
        """Print where the time went and which checks held."""
        out.print(self._times())
        for name, held in self.checks.items():
            out.print(f"{'[green]✓[/]' if held else '[bold red]✗[/]'} {name.replace('_', ' ')}")
            for problem in self.problems.get(name, ()):
                out.print(f"    [red]{escape(problem)}[/]")
        figures = self.figures
        if self.ok:
            sent, took, speed = figures.get("delivered", 0), figures.get("total_s", 0), figures.get("emails_per_s", 0)
            out.print(f"[bold green]all held[/]: {sent} delivered exactly once, {speed:g} emails/s, {took:g} s in all")
        else:
            failed = sum(not held for held in self.checks.values())
            words = escape(self.error.partition("\n")[0]) or f"{failed} of {len(self.checks)} checks failed"
            out.print(f"[bold red]{words}[/]")

    def _times(self) -> Table:
        table = Table("phase", "seconds", "", box=None, header_style="dim", pad_edge=False)
        table.columns[1].justify = "right"
        longest = max(self.phases.values(), default=0.0)
        for name, seconds in self.phases.items():
            table.add_row(name, f"{seconds:.1f}", f"[blue]{bar(seconds, longest, _BAR)}[/]")
        return table
