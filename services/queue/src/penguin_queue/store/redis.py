"""Redis, and Redis in trouble: asked within a bound, and left alone for a while after each failure."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

log = logging.getLogger(__name__)

TIMEOUT_S = 0.1
# After a failure nothing is asked for this long.
OPEN_S = 1.0


class Guard:
    """Stands before one server, for one use of it."""

    def __init__(self, what: str, timeout_s: float = TIMEOUT_S) -> None:
        self._what = what
        self._timeout_s = timeout_s
        self._closed_until = 0.0

    @property
    def usable(self) -> bool:
        """Whether it is worth asking now."""
        return time.monotonic() >= self._closed_until

    @contextlib.asynccontextmanager
    async def act(self) -> AsyncIterator[None]:
        """Ask the server inside. Its failures end the block and nothing more: who comes to its end has had no answer."""
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except (TimeoutError, OSError, RedisError) as error:
            if self.usable:
                log.warning("%s left out for %.0f s: %s", self._what, OPEN_S, type(error).__name__)
            self._closed_until = time.monotonic() + OPEN_S


@contextlib.asynccontextmanager
async def redis_at(url: str, timeout_s: float = TIMEOUT_S) -> AsyncIterator[Redis | None]:
    """A client of the server at `url`, or none without one. Never waits for the server to be there."""
    if not url:
        yield None
        return
    client = Redis.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        max_connections=64,
        decode_responses=False,
    )
    try:
        yield client
    finally:
        await client.aclose()
