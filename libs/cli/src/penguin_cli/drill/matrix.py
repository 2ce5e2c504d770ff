"""The outage contract as data: rows are faults, columns are what may depend on the broken part, and every cell names the
promise that is checked there. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

TIERS = ("oltp", "content", "olap", "queue", "notifications")
SEND = "send"
COLUMNS = (*TIERS, SEND)
TITLES = {
    "oltp": "OLTP", "content": "Content", "olap": "OLAP", "queue": "Queue / workers", "notifications": "Notifications",
    "send": "Send",
}  # fmt: skip

PROMISES = {
    "works": "works",
    "refuses": "UNAVAILABLE within 1 s",
    "stale": "works, stale, data_through shown",
    "backs_off": "works; jobs that need it back off without burning attempts",
    "etl_waits": "works; ETL jobs wait without burning attempts",
    "idles": "UNAVAILABLE within 1 s; workers idle, no crash loop",
    "intents": "works; intents are kept",
    "streams": "UNAVAILABLE within 1 s; streams resume by cursor",
    "nothing_done": "UNAVAILABLE before any side effect, or compensated",
    "body_missing": "UNAVAILABLE, nothing in OLTP; reads show metadata, body marked unavailable",
    "no_room": "reads work; writes are done, or UNAVAILABLE within 1 s",
    "keeps_attempts": "works; jobs that need it burn no attempts",
    "sends_or_sheds": "sent, or UNAVAILABLE with nothing left behind",
    "outbox": "works through the outbox",
    "launched_once": "a launch that died is launched again: everybody gets one email",
    "as_fast": "works, as fast as without the fault (median within 5 % and noise)",
    "counted": "works; a drop counter rises",
    "fair": "others' p99 within 2x of quiet; the noisy tenant gets RESOURCE_EXHAUSTED with RetryInfo",
}


@dataclass(frozen=True)
class Row:
    """One fault: what is done to which tier (or to something that is none), and the promise of each column.

    `ends` are the components whose processes the fault ends; anything else that starts anew is a finding, but for what it
    `may_end`.
    """

    key: str
    title: str
    fault: str
    promises: tuple[str, ...]
    tier: str = ""
    ends: tuple[str, ...] = ()
    may_end: tuple[str, ...] = ()
    # Whether an email may be left held with an unknown outcome: only a fault of who hands it over can do that.
    holds: bool = field(default=False)

    def promise(self, column: str) -> str:
        """The key of what is promised in that column."""
        return self.promises[COLUMNS.index(column)]


# What holds while a tier is away, however it went away: design, section 7.
DOWN: dict[str, tuple[str, ...]] = {
    "oltp": ("refuses", "works", "stale", "backs_off", "works", "nothing_done"),
    "content": ("works", "refuses", "works", "backs_off", "works", "body_missing"),
    "olap": ("works", "works", "refuses", "etl_waits", "works", "works"),
    "queue": ("works", "works", "works", "idles", "works", "outbox"),
    "notifications": ("works", "works", "works", "intents", "streams", "works"),
}
# A database without room still reads, and writes where there is some left in what it has.
FULL: dict[str, tuple[str, ...]] = {
    "oltp": ("no_room", "works", "works", "keeps_attempts", "works", "sends_or_sheds"),
    "content": ("works", "no_room", "works", "keeps_attempts", "works", "sends_or_sheds"),
    "olap": ("works", "works", "no_room", "works", "works", "works"),
    "queue": ("works", "works", "works", "no_room", "works", "outbox"),
    "notifications": ("works", "works", "works", "intents", "no_room", "works"),
}
ALL_WORK = ("works",) * len(COLUMNS)
FASTNESS = (*("as_fast",) * len(TIERS), "counted")


def _tiers(key: str, title: str, fault: str, promises: dict[str, tuple[str, ...]], ends: str) -> list[Row]:
    return [
        Row(
            key=f"{key}-{tier}",
            title=f"{TITLES[tier].split(' /')[0]}: {title}",
            fault=fault,
            promises=promises[tier],
            tier=tier,
            ends=(ends.format(tier=tier),) if ends else (),
            # PostgreSQL gives up where its log finds no room.
            may_end=(f"{tier}-db",) if fault == "fill_disk" else (),
            # Its leases run out while the queue is away; what was being handed over is then nobody's.
            holds=tier == "queue",
        )
        for tier in TIERS
    ]


ROWS: tuple[Row, ...] = (
    *_tiers("killed", "service killed", "kill_service", DOWN, "{tier}"),
    *_tiers("stopped", "database stopped", "stop_database", DOWN, "{tier}-db"),
    *_tiers("frozen", "database frozen", "freeze_database", DOWN, ""),
    *_tiers("full", "disk full", "fill_disk", FULL, ""),
    Row("redis-flushed", "Redis flushed", "flush_redis", ALL_WORK),
    Row("redis-killed", "Redis killed", "kill_redis", ALL_WORK, ends=("valkey",)),
    Row("redis-frozen", "Redis frozen", "freeze_redis", ALL_WORK),
    Row("collector-dead", "Collector dead", "kill_collector", FASTNESS, ends=("otlp",)),
    Row("collector-hanging", "Collector hanging", "freeze_collector", FASTNESS),
    Row("noisy-tenant", "Pool exhausted by one tenant", "hold_places", ("fair", *ALL_WORK[1:]), tier="oltp"),
    Row("worker-killed", "Worker killed mid-step", "kill_worker", (*ALL_WORK[1:], "outbox"), ends=("worker",), holds=True),
    Row("relay-killed", "Relay killed mid-step", "kill_relay", (*ALL_WORK[1:], "outbox"), ends=("relay",)),
    Row("launch-killed", "Orchestrator killed mid-launch", "kill_launch", (*ALL_WORK[1:], "launched_once")),
)  # fmt: skip


def chosen(words: str) -> tuple[Row, ...]:
    """Rows by key, or by the beginning of one, separated by commas; all for no words. Raises ValueError."""
    if not words.strip():
        return ROWS
    wanted = [word.strip() for word in words.split(",") if word.strip()]
    for word in wanted:
        if not any(_matches(row, word) for row in ROWS):
            raise ValueError(f"no row is called {word}; there are {', '.join(row.key for row in ROWS)}")
    return tuple(row for row in ROWS if any(_matches(row, word) for word in wanted))


def _matches(row: Row, word: str) -> bool:
    return row.key == word or row.key.startswith(f"{word}-")


def problems(rows: Sequence[Row] = ROWS) -> list[str]:
    """What is wrong with the matrix itself: a cell without a promise, a promise that nobody knows, a name used twice."""
    found = [
        f"{row.key}: {len(row.promises)} promises for {len(COLUMNS)} columns"
        for row in rows
        if len(row.promises) != len(COLUMNS)
    ]
    found += [f"{row.key}: nobody knows {key}" for row in rows for key in row.promises if key not in PROMISES]
    keys = [row.key for row in rows]
    return found + sorted({f"{key}: twice" for key in keys if keys.count(key) > 1})
