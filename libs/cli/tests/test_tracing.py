"""One email's way out of traces that hold many."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from rich.console import RenderableType

from penguin_cli import tracing
from penguin_cli.surroundings import CommandError
from penguin_devstack.spans import SpanLink, SpanStore, StoredSpan

OURS, OTHER = UUID(int=1), UUID(int=2)


def span(
    trace: int, number: int, parent: int | None, name: str, emails: Any = None, links: Sequence[tuple[int, int]] = ()
) -> StoredSpan:
    attributes = {} if emails is None else {tracing.EMAIL_ID: emails}
    return StoredSpan(
        f"{trace:032x}", f"{number:016x}", None if parent is None else f"{parent:016x}", f"penguin-{name.split()[0]}",
        name, "internal", number * 1_000_000, number * 1_000_000 + 500_000, "unset", "", attributes,
        links=tuple(SpanLink(f"{t:032x}", f"{s:016x}") for t, s in links),
    )  # fmt: skip


def names(nodes: Sequence[tracing.Node]) -> Any:
    return [(node.span.name, names(node.children)) if node.children else node.span.name for node in nodes]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Trace 1 is ours; trace 2 another's, in which relay and worker took turns for both."""
    spans = SpanStore(tmp_path)
    spans.add([
        span(1, 1, None, "cli send"),
        span(1, 2, 1, "oltp create"),
        span(1, 10, 2, "worker send one", str(OURS)),
        span(1, 11, 2, "worker send one", str(OTHER)),
        span(2, 3, None, "cli send other"),
        span(2, 4, 3, "oltp create other"),
        span(2, 5, 4, "relay turn", links=[(1, 2)]),
        span(2, 6, 5, "queue enqueue"),
        span(2, 7, 4, "worker batch", [str(OURS), str(OTHER)], links=[(1, 2)]),
        span(2, 8, 7, "oltp claim"),
        span(2, 9, 4, "worker batch", [str(OTHER)], links=[(1, 2)]),
    ])  # fmt: skip
    spans.close()
    return tmp_path


def test_only_what_concerns_the_email_is_in_its_tree(store: Path) -> None:
    roots = tracing.way_of(store, OURS)
    below = [("relay turn", ["queue enqueue"]), ("worker batch", ["oltp claim"]), "worker send one"]
    assert names(roots) == [("cli send", [("oltp create", below)])]
    joined = [node.span.name for root in roots for node in root.walk() if node.linked]
    assert joined == ["relay turn", "worker batch"]


def test_the_tree_shows_offsets_durations_and_processes(store: Path, text_of: Callable[[RenderableType], str]) -> None:
    text = text_of(tracing.drawn(OURS, tracing.way_of(store, OURS)))
    assert "7 spans of 5 processes within 9.5 ms" in text
    assert "+9.0 ms 0.5 ms" in text
    assert "in a trace of its own, for many" in text


def test_many_calls_alike_are_shown_once(tmp_path: Path, text_of: Callable[[RenderableType], str]) -> None:
    spans = SpanStore(tmp_path)
    spans.add([span(1, 1, None, "worker send", str(OURS)), *(span(1, n, 1, "queue complete") for n in range(2, 14))])
    spans.close()
    text = text_of(tracing.drawn(OURS, tracing.way_of(tmp_path, OURS)))
    assert text.count("queue complete") == 1
    assert "11 more of these, 5.5 ms together" in text


def test_an_unknown_email_is_an_error(store: Path) -> None:
    with pytest.raises(CommandError, match="no trace of email"):
        tracing.show(store, UUID(int=3), wait_s=0)


def test_a_trace_that_grows_is_waited_for(tmp_path: Path) -> None:
    now = time.time_ns()

    def recent(number: int, parent: int | None, name: str) -> StoredSpan:
        return replace(span(1, number, parent, name, str(OURS)), start_ns=now, end_ns=now + number)

    def grow() -> None:
        spans.add([recent(2, 1, "worker send")])

    spans = SpanStore(tmp_path)
    spans.add([recent(1, None, "cli send")])
    assert names(tracing.settled(tmp_path, OURS, wait_s=0)) == ["cli send"]
    later = threading.Timer(0.4, grow)
    later.start()
    begun = time.monotonic()
    assert names(tracing.settled(tmp_path, OURS, wait_s=30)) == [("cli send", ["worker send"])]
    assert time.monotonic() - begun < 10
    later.join()
    spans.close()
