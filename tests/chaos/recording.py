"""What was asked for and what was answered, one line each, as it happens: invoke, ok, fail (nothing was done), info (nobody knows)."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO
from uuid import UUID, uuid4

INVOKE, OK, FAIL, INFO = "invoke", "ok", "fail", "info"


@dataclass
class Operation:
    """One email asked for: what its caller was told, at each time of asking."""

    id: UUID
    tenant: UUID
    recipient: str
    begun_at: float
    words: list[str] = field(default_factory=list)
    email_id: UUID | None = None
    ended_at: float = 0.0

    @property
    def last(self) -> str:
        """What its caller knows of it in the end."""
        return self.words[-1] if self.words else INFO


@dataclass
class Act:
    """One act that crosses tiers, asked for about a campaign or a list: what its caller was told, at each time of asking, and when
    (by the clock on the wall). `seen`: how its campaign stood right after; `beside`: another act on it was under way."""

    id: UUID
    tenant: UUID
    kind: str
    about: str
    begun_at: datetime
    ended_at: datetime | None = None
    words: list[str] = field(default_factory=list)
    why: str = ""
    seen: str = ""
    beside: bool = False

    @property
    def outcome(self) -> str:
        """What is known of it: ok, fail, or info. A refusal speaks of its own asking, not of those before."""
        last = self.words[-1] if self.words else INFO
        return INFO if last == FAIL and INFO in self.words else last


class Recording:
    """The history of a run, kept in a file and at hand. Times in seconds since its beginning."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: TextIO = path.open("w")
        self._began = time.monotonic()
        self.operations: dict[UUID, Operation] = {}
        self.acts: list[Act] = []

    def now(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    def say(self, what: str, **more: Any) -> None:
        """One line."""
        line: Mapping[str, Any] = {"at": round(self.now(), 3), "what": what, **more}
        self._file.write(json.dumps(line, default=str) + "\n")

    def invoked(self, identifier: UUID, tenant: UUID, recipient: str) -> Operation:
        """It is asked for, the first time."""
        operation = self.operations[identifier] = Operation(identifier, tenant, recipient, self.now())
        self.say(INVOKE, id=identifier, tenant=tenant, recipient=recipient)
        return operation

    def answered(self, operation: Operation, word: str, *, email_id: UUID | None = None, why: str = "") -> None:
        """What was said of it."""
        operation.words.append(word)
        operation.email_id, operation.ended_at = email_id or operation.email_id, self.now()
        self.say(word, id=operation.id, email_id=email_id, why=why)

    def ordered(self, tenant: UUID, kind: str, about: str, *, beside: bool = False) -> Act:
        """An act is asked for, the first time."""
        act = Act(uuid4(), tenant, kind, about, datetime.now(UTC), beside=beside)
        self.acts.append(act)
        self.say(INVOKE, id=act.id, tenant=tenant, act=kind, about=about)
        return act

    def told(self, act: Act, word: str, why: str = "") -> None:
        """What was said of an act."""
        act.words.append(word)
        act.why, act.ended_at = why, datetime.now(UTC)
        self.say(word, id=act.id, act=act.kind, why=why)

    def close(self) -> None:
        """Nothing more is said."""
        self._file.close()
