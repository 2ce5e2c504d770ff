"""What one process of the tier makes ready, told to the others through Redis. News are hints: one that is lost costs the time until
the next survey, and nothing waits for one to be sent."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
from redis.asyncio import Redis
from redis.exceptions import RedisError

from penguin_chassis.defects import places
from penguin_queue.domain.lanes import LOWEST
from penguin_queue.domain.turns import Lane, Place
from penguin_queue.store.redis import OPEN_S, Guard

log = logging.getLogger(__name__)

CHANNEL = "{penguin-queue}:ready"
# Lanes that wait to be told of; beyond these the survey finds the others.
WAITING_MAX = 1000
# While nobody else listens one look in so long is taken whether somebody does (seconds).
ALONE_S = 1.0
# A server that says nothing for so long is asked whether it is there (seconds).
SILENCE_S = 5.0
# So often at most something that is no news is told of in the log (seconds): who can publish could fill it.
SAID_EVERY_S = 60.0
# What jobs can have; a lane or place beyond it would fail every lease that goes by it.
_KIND = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*")
KIND_MAX = 200
RANK_MAX = 1000
ID_MAX = 2**63 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

Heard = Callable[[Mapping[Lane, Place]], None]


class News:
    """This process's news, and those of others."""

    def __init__(self, client: Redis | None) -> None:
        self._client = client
        self._guard = Guard("news")
        self._name = secrets.token_hex(8)
        self._waiting: dict[Lane, Place] = {}
        self._telling: asyncio.Task[None] | None = None
        self._alone_until = 0.0
        self._said_at = -SAID_EVERY_S

    def tell(self, lanes: Mapping[Lane, Place]) -> None:
        """Tell the others that there are jobs in these lanes from these places on, some time soon."""
        if self._client is None or not self._guard.usable or time.monotonic() < self._alone_until:
            return
        for lane, place in lanes.items():
            if len(self._waiting) < WAITING_MAX or lane in self._waiting:
                self._waiting[lane] = min(place, self._waiting.get(lane, place))
        if self._telling is None:
            self._telling = asyncio.create_task(self._tell(self._client))

    async def _tell(self, client: Redis) -> None:
        try:
            while self._waiting and self._guard.usable:
                lanes, self._waiting = self._waiting, {}
                async with self._guard.act():
                    listening = await client.publish(CHANNEL, _written(self._name, lanes))
                    if listening <= 1:
                        # Nobody but this process: whoever comes next begins with a survey.
                        self._alone_until = time.monotonic() + ALONE_S
                        self._waiting.clear()
        finally:
            self._telling = None

    async def listen(self, heard: Heard) -> None:
        """Hear the others' news, for ever; a server that is away is tried again, and so it is whatever else goes wrong."""
        while self._client is not None:
            try:
                await self._hear(self._client, heard)
            except (TimeoutError, OSError, RedisError):
                pass
            except Exception as error:  # noqa: BLE001 - a process that hears no more would go on without anybody's notice
                log.warning("hearing news failed: %s", type(error).__name__, extra={"places": places(error)})
            await asyncio.sleep(OPEN_S * random.uniform(0.5, 1.5))

    async def _hear(self, client: Redis, heard: Heard) -> None:
        async with client.pubsub() as channel:
            await channel.subscribe(CHANNEL)
            while True:
                said = await channel.get_message(ignore_subscribe_messages=True, timeout=SILENCE_S)
                if said is None:
                    await channel.ping()
                elif said["type"] == "message":
                    self._take_in(said["data"], heard)

    def _take_in(self, data: Any, heard: Heard) -> None:
        """One message. Never raises: what is wrong with one is not to cost the others."""
        try:
            lanes = _read(data, self._name)
            if lanes:
                heard(lanes)
        except Exception as error:  # noqa: BLE001 - anybody on the channel may have written it
            if time.monotonic() - self._said_at >= SAID_EVERY_S:
                self._said_at = time.monotonic()
                log.warning("news that cannot be used: %s", type(error).__name__, extra={"places": places(error)})

    async def close(self) -> None:
        """Let go of what is under way."""
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.wait([self._telling])


@contextlib.asynccontextmanager
async def news(client: Redis | None) -> AsyncIterator[News]:
    """News through this server; without one, nobody is told."""
    opened = News(client)
    try:
        yield opened
    finally:
        await opened.close()


@contextlib.asynccontextmanager
async def listening(news: News, heard: Heard) -> AsyncIterator[None]:
    """Hear the others beside the block."""
    task = asyncio.create_task(news.listen(heard), name="news")
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _written(name: str, lanes: Mapping[Lane, Place]) -> bytes:
    rows = [
        [lane.priority, lane.kind, lane.tenant_id.hex, place.rank, (place.run_at - _EPOCH) // _MICROSECOND, place.id]
        for lane, place in lanes.items()
    ]
    return orjson.dumps([name, rows])


def _read(data: Any, own: str) -> dict[Lane, Place]:
    """Another's news; nothing for our own. Raises ValueError and others for what is none."""
    name, rows = orjson.loads(data)
    if name == own:
        return {}
    if len(rows) > WAITING_MAX:
        raise ValueError("more lanes than are told of at once")
    return dict(_row(*row) for row in rows)


def _row(priority: Any, kind: Any, tenant: Any, rank: Any, micros: Any, job_id: Any) -> tuple[Lane, Place]:
    """A lane and a place that there can be."""
    if any(type(each) is not int for each in (priority, rank, micros, job_id)):
        raise TypeError("no number")
    if not (1 <= priority <= LOWEST and abs(rank) <= RANK_MAX and micros >= 0 and 1 <= job_id <= ID_MAX):
        raise ValueError("no place of a job")
    if len(kind) > KIND_MAX or _KIND.fullmatch(kind) is None:
        raise ValueError("no kind")
    return Lane(priority, kind, UUID(tenant)), Place(rank, _EPOCH + micros * _MICROSECOND, job_id)
