"""Collects figures and prints them as one table; a figure that falls short is printed as it is."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One figure: its value, and where there is one its ratio and what was wanted of it."""

    name: str
    value: float
    unit: str
    ratio: float | None = None
    wanted: float | None = None
    extra: float | None = None
    wanted_extra: float | None = None
    # The value itself is to stay within this.
    limit: float | None = None

    @property
    def verdict(self) -> str:
        """Whether what was wanted holds; nothing where nothing was wanted."""
        if self.wanted is not None and self.ratio is not None:
            return "holds" if self.ratio >= self.wanted else "FALLS SHORT"
        if self.wanted_extra is not None and self.extra is not None:
            return "holds" if self.extra <= self.wanted_extra else "FALLS SHORT"
        if self.limit is not None:
            return "holds" if self.value <= self.limit else "FALLS SHORT"
        return ""


class Report:
    """Figures in the order they were measured."""

    def __init__(self) -> None:
        self.figures: list[Figure] = []

    def add(
        self,
        name: str,
        value: float,
        unit: str,
        *,
        ratio: float | None = None,
        wanted: float | None = None,
        extra: float | None = None,
        wanted_extra: float | None = None,
        limit: float | None = None,
    ) -> None:
        """Keep a figure and show it at once."""
        figure = Figure(name, value, unit, ratio, wanted, extra, wanted_extra, limit)
        self.figures.append(figure)
        print(line(figure), flush=True)

    def write(self, path: Path) -> None:
        """The figures as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([asdict(f) | {"verdict": f.verdict} for f in self.figures], indent=2) + "\n")


def line(figure: Figure) -> str:
    """A figure as a line of the table."""
    text = f"{figure.name:<62} {figure.value:>10,.1f} {figure.unit:<9}"
    if figure.ratio is not None:
        text += f" {figure.ratio:>6.2f}x"
        if figure.wanted is not None:
            text += f" (wanted {figure.wanted:.2f}x)"
    if figure.extra is not None:
        text += f" {figure.extra:+.2f}"
        if figure.wanted_extra is not None:
            text += f" (at most +{figure.wanted_extra:g})"
    if figure.limit is not None:
        text += f" (at most {figure.limit:.4g})"
    return f"{text} {figure.verdict}".rstrip()
