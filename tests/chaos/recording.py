"""What was asked for and what was answered, one line each, as it happens: invoke, ok, fail (nothing was done), info (nobody knows)."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO
from uuid import UUID

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


class Recording:
    """The history of a run, kept in a file and at hand. Times in seconds since its beginning."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: TextIO = path.open("w")
        self._began = time.monotonic()
        self.operations: dict[UUID, Operation] = {}

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

    def close(self) -> None:
        """Nothing more is said."""
        self._file.close()
