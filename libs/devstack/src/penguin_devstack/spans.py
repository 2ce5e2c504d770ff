"""A bounded SQLite file of trace spans with an index over the `penguin.` attributes and over links. It keeps the newest
and drops the oldest; it is a window for debugging, never a record that anything depends on."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INDEXED_PREFIX = "penguin."
_LINK = "link"  # no attribute's key: those that are indexed begin with the prefix
DEFAULT_MAX_BYTES = 256 * 1024 * 1024
_FILE_NAME = "spans.sqlite3"
_BUSY_TIMEOUT_S = 5.0
_SHARE_DROPPED = 10  # one part in ten goes when the file is full

_SCHEMA = """
CREATE TABLE IF NOT EXISTS spans (
  id INTEGER PRIMARY KEY,
  trace_id TEXT NOT NULL,
  span_id TEXT NOT NULL,
  parent_span_id TEXT,
  service TEXT NOT NULL,
  name TEXT NOT NULL,
  kind TEXT NOT NULL,
  start_ns INTEGER NOT NULL,
  end_ns INTEGER NOT NULL,
  status TEXT NOT NULL,
  status_message TEXT NOT NULL,
  attributes TEXT NOT NULL,
  events TEXT NOT NULL,
  links TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS spans_by_trace ON spans (trace_id, start_ns);
CREATE TABLE IF NOT EXISTS span_attributes (
  span INTEGER NOT NULL,
  key TEXT NOT NULL,
  value TEXT NOT NULL,
  trace_id TEXT NOT NULL,
  start_ns INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS attributes_by_value ON span_attributes (key, value, start_ns DESC);
CREATE INDEX IF NOT EXISTS attributes_by_span ON span_attributes (span);
"""
_INSERT_SPAN = """
INSERT INTO spans (trace_id, span_id, parent_span_id, service, name, kind, start_ns, end_ns, status, status_message,
                   attributes, events, links)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_SELECT_TRACE = """
SELECT trace_id, span_id, parent_span_id, service, name, kind, start_ns, end_ns, status, status_message,
       attributes, events, links
FROM spans WHERE trace_id = ? ORDER BY start_ns, id LIMIT ?
"""
_FIND_TRACES = """
SELECT trace_id FROM span_attributes WHERE key = ? AND value = ?
GROUP BY trace_id ORDER BY min(start_ns) DESC LIMIT ?
"""


@dataclass(frozen=True, slots=True)
class SpanEvent:
    name: str
    at_ns: int
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SpanLink:
    """Another span this one follows from, for example across a queue."""

    trace_id: str
    span_id: str


@dataclass(frozen=True, slots=True)
class StoredSpan:
    """One finished span. Ids are lower-case hex, times are nanoseconds since the epoch, `status` is
    `unset`, `ok` or `error`, `kind` is `internal`, `server`, `client`, `producer` or `consumer`."""

    trace_id: str
    span_id: str
    parent_span_id: str | None
    service: str
    name: str
    kind: str
    start_ns: int
    end_ns: int
    status: str
    status_message: str
    attributes: Mapping[str, Any]
    events: Sequence[SpanEvent] = ()
    links: Sequence[SpanLink] = ()


class SpanStore:
    """The writing side; one process, one thread at a time."""

    def __init__(self, directory: Path, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._max_bytes = max_bytes
        self._connection = sqlite3.connect(
            directory / _FILE_NAME, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        # A machine crash may cost the newest spans; that is the bargain of a debugging window.
        self._connection.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;" + _SCHEMA)

    def add(self, spans: Iterable[StoredSpan]) -> int:
        """Store spans in one transaction, dropping the oldest when the file is full. Returns how many were dropped."""
        database = self._connection
        database.execute("BEGIN IMMEDIATE")
        try:
            for span in spans:
                self._insert(span)
            dropped = self._drop_oldest() if self._used_bytes() > self._max_bytes else 0
            database.execute("COMMIT")
        except BaseException:
            database.execute("ROLLBACK")
            raise
        return dropped

    def close(self) -> None:
        self._connection.close()

    def _insert(self, span: StoredSpan) -> None:
        row = self._connection.execute(
            _INSERT_SPAN,
            (
                span.trace_id,
                span.span_id,
                span.parent_span_id,
                span.service,
                span.name,
                span.kind,
                span.start_ns,
                span.end_ns,
                span.status,
                span.status_message,
                json.dumps(span.attributes),
                json.dumps([(event.name, event.at_ns, event.attributes) for event in span.events]),
                json.dumps([(link.trace_id, link.span_id) for link in span.links]),
            ),
        ).lastrowid
        self._connection.executemany(
            "INSERT INTO span_attributes (span, key, value, trace_id, start_ns) VALUES (?, ?, ?, ?, ?)",
            [
                (row, key, text, span.trace_id, span.start_ns)
                for key, value in span.attributes.items()
                if key.startswith(INDEXED_PREFIX)
                for text in _index_values(value)
            ]
            + [(row, _LINK, linked, span.trace_id, span.start_ns) for linked in {link.trace_id for link in span.links}],
        )

    def _used_bytes(self) -> int:
        pages, free, size = (
            self._connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def _drop_oldest(self) -> int:
        first, last = self._connection.execute("SELECT min(id), max(id) FROM spans").fetchone()
        if first is None:
            return 0
        limit = first + max(1, (last - first + 1) // _SHARE_DROPPED)
        self._connection.execute("DELETE FROM span_attributes WHERE span < ?", (limit,))
        return self._connection.execute("DELETE FROM spans WHERE id < ?", (limit,)).rowcount


def _index_values(value: Any) -> list[str]:
    """A list attribute (the emails of a batch) is found by each of its members."""
    members = value if isinstance(value, list) else [value]
    return [str(member).lower() if isinstance(member, bool) else str(member) for member in members]


def spans_of_trace(directory: Path, trace_id_hex: str, limit: int = 10_000) -> list[StoredSpan]:
    """The stored spans of a trace, earliest first; empty where nothing is known of it."""
    with closing(_reader(directory)) as database:
        rows = database.execute(_SELECT_TRACE, (trace_id_hex.lower(), limit)).fetchall()
    return [_span(row) for row in rows]


def find_traces(directory: Path, attribute_key: str, attribute_value: str, limit: int = 20) -> list[str]:
    """Ids of traces with a span whose attribute has that value, newest first. Only `penguin.` attributes are indexed."""
    if not attribute_key.startswith(INDEXED_PREFIX):
        raise ValueError(f"only attributes whose key starts with {INDEXED_PREFIX!r} are indexed")
    return _traces(directory, attribute_key, attribute_value, limit)


def traces_linking_to(directory: Path, trace_id_hex: str, limit: int = 20) -> list[str]:
    """Ids of traces with a span that links to one of that trace, newest first; a trace may link to itself."""
    return _traces(directory, _LINK, trace_id_hex.lower(), limit)


def _traces(directory: Path, key: str, value: str, limit: int) -> list[str]:
    with closing(_reader(directory)) as database:
        rows = database.execute(_FIND_TRACES, (key, value, limit)).fetchall()
    return [row[0] for row in rows]


def _reader(directory: Path) -> sqlite3.Connection:
    path = directory / _FILE_NAME
    if not path.exists():
        database = sqlite3.connect(":memory:")
        database.executescript(_SCHEMA)
        return database
    database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=_BUSY_TIMEOUT_S)
    database.execute("PRAGMA query_only = on")
    return database


def _span(row: Sequence[Any]) -> StoredSpan:
    attributes, events, links = map(json.loads, row[-3:])
    spans_events = tuple(SpanEvent(name, at_ns, fields) for name, at_ns, fields in events)
    spans_links = tuple(SpanLink(trace_id, span_id) for trace_id, span_id in links)
    return StoredSpan(*(*row[:-3], attributes, spans_events, spans_links))
