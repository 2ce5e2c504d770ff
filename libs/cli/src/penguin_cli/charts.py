"""Bars, shares and columns for a terminal."""

from __future__ import annotations

from rich.table import Column

_EIGHTHS = " ▏▎▍▌▋▊▉"


def bar(value: float, whole: float, width: int) -> str:
    """A bar of at most `width` cells, to an eighth of a cell; anything above nothing shows."""
    if whole <= 0 or value <= 0:
        return ""
    eighths = max(1, round(min(1.0, value / whole) * width * 8))
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def share(value: int, whole: int) -> str:
    """A share in per cent; nothing of nothing is no share."""
    return f"{100 * value / whole:.1f} %" if whole else ""


def ids(name: str) -> Column:
    """A column of ids, never cut short: they are there to be copied."""
    return Column(name, no_wrap=True, min_width=36)
