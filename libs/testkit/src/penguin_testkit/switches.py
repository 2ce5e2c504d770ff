"""What a tester does to a fake peer."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import grpc


@dataclass
class Switch:
    """What a tester does to a peer: `down` refuses every call, `deaf` names methods that act and then answer nothing."""

    down: bool = False
    deaf: set[str] = field(default_factory=set)
    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    async def enter(self, name: str, context: Any) -> None:
        """To be called first by every method."""
        self.calls[name] += 1
        if self.down:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "down")

    async def leave(self, name: str, context: Any) -> None:
        """To be called last."""
        if name in self.deaf:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "deaf")
