"""The findings as one page of HTML without anything from elsewhere: the matrix, the times, and each fault's history."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

from penguin_cli.drill.findings import BUCKET_S, GREEN, NOT_RUN, OUTCOMES, RED, Cell, Findings, RowFinding
from penguin_cli.drill.matrix import COLUMNS, PROMISES, TITLES

_WORDS = {GREEN: "held", RED: "broken", NOT_RUN: "not run"}
_CLASSES = {GREEN: "held", RED: "broken", NOT_RUN: "not-run"}
_COLOURS = {"ok": "#3b8f5a", "refused": "#d9a441", "unknown": "#7d6bb0", "failed": "#c0453b"}
_BAR_PX, _HEIGHT_PX = 6, 70
_STYLE = """
:root { color-scheme: light dark; --line: #8884; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 78rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem } h2 { font-size: 1.1rem; margin: 2.2rem 0 .4rem }
table { border-collapse: collapse; width: 100%; font-size: .86rem } .wide { overflow-x: auto }
th, td { border: 1px solid var(--line); padding: .3rem .5rem; text-align: left; vertical-align: top }
td.held { background: #3b8f5a2e } td.broken { background: #c0453b40 } td.not-run { background: #8882 }
td b { display: block; font-size: .78rem; text-transform: uppercase; letter-spacing: .03em }
small { opacity: .8 } .problem { color: #c0453b; font-weight: 600 } ul { margin: .3rem 0; padding-left: 1.2rem }
.key span { display: inline-block; width: .8em; height: .8em; margin: 0 .3em 0 1em; vertical-align: -.05em }
svg { display: block; max-width: 100%; height: auto; margin: .4rem 0 }
"""


def page(findings: Findings) -> str:
    """The whole page."""
    totals = findings.totals()
    counts = ", ".join(f"{totals[verdict]} {_WORDS[verdict]}" for verdict in (GREEN, RED, NOT_RUN))
    verdict = "Every promise that was tried held." if findings.ok else "Not every promise held."
    settings = ", ".join(f"{escape(str(name))} {escape(str(value))}" for name, value in findings.settings.items())
    error = f'<p class="problem">{escape(findings.error)}</p>' if findings.error else ""
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
            f"<title>Outage drill</title><style>{_STYLE}</style></head><body>",
            f"<h1>Outage drill: {escape(verdict)}</h1>",
            f"<p>{counts} cells. Began {escape(findings.began_at)}, took {findings.took_s:.0f} s. <small>{settings}</small></p>",
            error,
            _matrix(findings.rows),
            _not_run(findings.rows),
            _key(),
            *(_row(row) for row in findings.rows if not row.reason),
            "</body></html>",
            "",
        ]
    )


def _matrix(rows: Iterable[RowFinding]) -> str:
    head = "".join(f"<th>{escape(TITLES[column])}</th>" for column in COLUMNS)
    body = "".join(
        f'<tr><th><a href="#{escape(row.key)}">{escape(row.title)}</a></th>'
        f"{''.join(_cell(row, cell) for cell in row.cells)}</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr><th>Fault</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(row: RowFinding, cell: Cell) -> str:
    verdict = NOT_RUN if row.reason else cell.verdict
    back = "" if cell.recovered_s is None else f"<br><small>works again after {cell.recovered_s:.1f} s</small>"
    return (
        f'<td class="{_CLASSES[verdict]}"><b>{_WORDS[verdict]}</b>{escape(PROMISES[cell.promise])}{back}</td>'
    )  # fmt: skip


def _not_run(rows: Iterable[RowFinding]) -> str:
    items = "".join(f"<li>{escape(row.title)}: {escape(row.reason)}</li>" for row in rows if row.reason)
    return f"<h2>Not run</h2><ul>{items}</ul>" if items else ""


def _key() -> str:
    colours = "".join(f'<span style="background:{_COLOURS[outcome]}"></span>{outcome}' for outcome in OUTCOMES)
    return f'<h2>What happened</h2><p class="key">The load\'s acts per {BUCKET_S * 1000:.0f} ms:{colours}; the fault is shaded.</p>'


def _row(row: RowFinding) -> str:
    figures = ", ".join(f"{escape(name.replace('_', ' '))} {value:g}" for name, value in row.figures.items())
    problems = "".join(f'<li class="problem">{escape(problem)}</li>' for problem in row.problems)
    cells = "".join(_seen(cell) for cell in row.cells)
    held = f"<p>Held, their outcome unknown: {escape(', '.join(row.held))}</p>" if row.held else ""
    return (
        f'<h2 id="{escape(row.key)}">{escape(row.title)}</h2>{chart(row)}<p><small>{figures}</small></p>'
        f"<ul>{problems}</ul><ul>{cells}</ul>{held}"
    )


def _seen(cell: Cell) -> str:
    said = "; ".join([*cell.said, *([] if cell.recovered_s is None else [f"back after {cell.recovered_s:.1f} s"])])
    wrong = "".join(f' <span class="problem">{escape(problem)}</span>' for problem in cell.problems)
    return f"<li>{escape(TITLES[cell.column])}: {escape(said)}{wrong}</li>"


def chart(row: RowFinding) -> str:
    """The history around the fault as an inline SVG: bars stacked by outcome."""
    if not row.history:
        return ""
    columns = list(zip(*(row.history[outcome] for outcome in OUTCOMES), strict=True))
    highest = max((sum(column) for column in columns), default=0) or 1
    width = len(columns) * _BAR_PX
    left, right = (round(seconds / BUCKET_S * _BAR_PX, 1) for seconds in (row.fault_from_s, row.fault_to_s))
    shade = f'<rect x="{left}" y="0" width="{max(1.0, right - left):.1f}" height="{_HEIGHT_PX}" fill="#8883"/>'
    bars = "".join(_bar(number, column, highest) for number, column in enumerate(columns))
    ticks = "".join(_tick(second) for second in range(0, int(len(columns) * BUCKET_S) + 1, 5))
    return (
        f'<svg role="img" aria-label="Acts around the fault" viewBox="0 0 {width} {_HEIGHT_PX + 14}" '
        f'width="{width}" height="{_HEIGHT_PX + 14}">{shade}{bars}{ticks}</svg>'
    )


def _bar(number: int, counts: tuple[Any, ...], highest: int) -> str:
    drawn, top = [], float(_HEIGHT_PX)
    for outcome, count in zip(OUTCOMES, counts, strict=True):
        height = count / highest * _HEIGHT_PX
        top -= height
        if count:
            drawn.append(
                f'<rect x="{number * _BAR_PX}" y="{top:.1f}" width="{_BAR_PX - 1}" height="{height:.1f}" '
                f'fill="{_COLOURS[outcome]}"><title>{count} {outcome}</title></rect>'
            )
    return "".join(drawn)


def _tick(second: int) -> str:
    x = second / BUCKET_S * _BAR_PX
    return f'<text x="{x:.0f}" y="{_HEIGHT_PX + 12}" font-size="10" fill="currentColor">{second} s</text>'
