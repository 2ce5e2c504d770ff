"""From single measurements to the table: medians over rounds, ratios to the best peer, what is wanted. Pure."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.bench.queue.roster import LIBRARY, OURS, TRACED, Scenario, Wanted

# By contestant, then figure: one value per round that ended well.
Rounds = Mapping[str, Mapping[str, Sequence[float]]]


@dataclass(frozen=True)
class Row:
    """One contestant in one scenario; `ratio` is 1 for the best peer and greater for what is better."""

    name: str
    medians: Mapping[str, float]
    ratio: float | None


class Failed(Exception):
    """A driver ended without a figure; the text is its last word."""


def answer_of(said: str, complaint: str) -> dict[str, float]:
    """The figures in a driver's last line of JSON. Raises Failed."""
    for line in reversed(said.splitlines()):
        if line.startswith("{"):
            return {str(name): float(value) for name, value in json.loads(line).items()}
    raise Failed((complaint.strip().splitlines() or ["no word"])[-1])


def medians(rounds: Rounds) -> dict[str, dict[str, float]]:
    """Each contestant's median by figure; who has no round has no entry."""
    return {
        name: {figure: statistics.median(values) for figure, values in figures.items()}
        for name, figures in rounds.items()
        if figures and all(figures.values())
    }


def ratio(value: float, other: float, scenario: Scenario) -> float:
    """How many times as good `value` is as `other`."""
    return other / value if scenario.lower_is_better else value / other


def best(values: Mapping[str, float], names: Iterable[str], scenario: Scenario) -> str | None:
    """Who of `names` is best; None if nobody was measured."""
    measured = [name for name in names if name in values]
    pick = min if scenario.lower_is_better else max
    return pick(measured, key=values.__getitem__) if measured else None


def rows(rounds: Rounds, scenario: Scenario) -> list[Row]:
    """Everybody measured, best first."""
    middle = medians(rounds)
    compared = {name: figures[scenario.figures[0]] for name, figures in middle.items()}
    bar = best(compared, (name for name in compared if name not in (OURS, LIBRARY, TRACED)), scenario)
    found = [
        Row(name, middle[name], None if bar is None else ratio(value, compared[bar], scenario))
        for name, value in compared.items()
    ]
    return sorted(found, key=lambda row: compared[row.name], reverse=not scenario.lower_is_better)


def table(rounds: Rounds, scenario: Scenario, notes: Mapping[str, str]) -> list[str]:
    """A scenario's lines."""
    lines = [f"{scenario.title} ({scenario.count:,} jobs), {scenario.unit}"]
    for row in rows(rounds, scenario):
        values = "".join(f"{row.medians[f]:>12,.2f}" if scenario.unit == "ms" else f"{row.medians[f]:>12,.0f}"
                         for f in scenario.figures)  # fmt: skip
        times = "" if row.ratio is None else f"{row.ratio:>8.2f}x"
        lines.append(f"  {row.name:<18}{values}{times}  {notes.get(row.name, '')}".rstrip())
    return lines


def spending(costs: Mapping[str, Mapping[str, Sequence[float]]], parts: Mapping[str, Sequence[float]]) -> list[str]:
    """Where our own time goes: CPU of each process by scenario (and worker), and what the parts of an idle job's path take alone."""
    lines: list[str] = []
    for scenario, by_part in costs.items():
        middle = {part: statistics.median(values) for part, values in by_part.items() if values}
        each = ", ".join(f"{part} {us:,.1f}" for part, us in sorted(middle.items(), key=lambda pair: -pair[1]))
        if each:
            lines.append(f"  {scenario:<24}{sum(middle.values()):>7,.1f} µs of CPU a job: {each}")
    alone = sorted((statistics.median(values), part) for part, values in parts.items() if values)
    lines += [f"  {'idle':<24}{milliseconds:>7,.2f} ms  {part}, alone" for milliseconds, part in alone]
    return ["", "where our own time goes", *lines] if lines else []


def verdict(rounds: Rounds, scenario: Scenario, wanted: Wanted) -> str:
    """What is wanted beside what is, as a line."""
    values = {name: figures[scenario.figures[0]] for name, figures in medians(rounds).items()}
    ours = values.get(wanted.name)
    what = scenario.name if wanted.name == OURS else f"{scenario.name}, {wanted.name}"
    if ours is None:
        return f"{what}: not measured"
    if wanted.limit is not None:
        word = "holds" if ours <= wanted.limit else "FALLS SHORT"
        return f"{what}: {ours:.2f} {scenario.unit}, wanted at most {wanted.limit:g}: {word}"
    bar = best(values, wanted.against, scenario)
    if bar is None or wanted.ratio is None:
        return f"{what}: nothing of {wanted.label} to compare with"
    times = ratio(ours, values[bar], scenario)
    word = "holds" if times >= wanted.ratio else "FALLS SHORT"
    label = wanted.label if bar.lower() == wanted.label.lower() else f"{wanted.label} ({bar})"
    return f"{what}: {times:.2f}x {label}, wanted {wanted.ratio:.2f}x: {word}"
