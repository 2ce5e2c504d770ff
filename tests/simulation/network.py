"""The way between callers and tiers, within one process: calls are delayed, lost, answered to nobody, doubled and overtaken by one
another, as the seed has it."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc import StatusCode as Code
from tests.simulation.clock import SAGA_LEASE_S
from tests.simulation.servers import Server, ServerContext
from tests.simulation.statements import call_number

from penguin_orchestrator.clients import Tier

# Told of every call that a tier has answered: tier, method, request, reply.
Witness = Callable[[str, str, Any, Any], None]
# How late a call may arrive (seconds).
LATEST_S = 60.0
UNSENT = "failed to connect to all addresses"


@dataclass(frozen=True)
class Weather:
    """How calls fare: the chances of each mishap, and how long anything takes (seconds, and of which every so many is slow)."""

    refused: float = 0.02
    lost: float = 0.02
    late: float = 0.02
    deaf: float = 0.03
    doubled: float = 0.03
    usual_s: float = 0.02
    slow_s: float = 4.0
    slow: float = 0.02
    # Calls arrive at multiples of this (seconds).
    grid_s: float = 0.1
    # How often whoever carries a saga on stands still before it says so.
    frozen: float = 0.03


CALM = Weather(0, 0, 0, 0, 0, 0.001, 0.001, 0, 0.01, 0)
# For so long (seconds): another has its saga by then, or is about to.
FROZEN_S = (SAGA_LEASE_S, 2 * SAGA_LEASE_S)


@dataclass
class Process:
    """Who calls. Once it is dead nothing more of it is heard."""

    alive: bool = True
    # Until then it does nothing (the loop's time).
    still_until: float = 0.0
    tiers: dict[str, Tier] = field(default_factory=dict)


@dataclass
class Network:
    """What calls meet on their way; `away` are tiers that nobody reaches, `refuses` what is refused for good."""

    servers: dict[str, Server] = field(default_factory=dict)
    weather: Weather = CALM
    chance: random.Random = field(default_factory=lambda: random.Random(0))
    away: set[str] = field(default_factory=set)
    refuses: Callable[[str, str, Any], bool] = lambda tier, method, request: False
    witness: Witness | None = None
    # Told which method a tier has carried out.
    news: Callable[[str], None] = lambda method: None
    mishaps: Counter[str] = field(default_factory=Counter)
    under_way: set[asyncio.Task[Any]] = field(default_factory=set)
    # Who arrives at which moment, in the order in which they left.
    _arriving: dict[float, list[asyncio.Future[None]]] = field(default_factory=dict)
    _calls: int = 0
    # What has happened, in order.
    record: list[str] = field(default_factory=list)

    def channel(self, tier: str, process: Process) -> Channel:
        """The way of a process to a tier."""
        return Channel(self, tier, process)

    async def call(self, tier: str, method: _Method, request: Any, metadata: Any, timeout: float) -> Any:
        """One call as its caller has it."""
        if not method.process.alive:
            # Nothing of it runs on, its cleaning up neither.
            raise asyncio.CancelledError
        await self._stand_still(method)
        loop, draw = asyncio.get_running_loop(), self.chance.random
        ends, fate = loop.time() + timeout, self._fate(tier, method.name)
        if fate:
            self._note(fate, tier, method.name)
        if fate in {"refused", "lost", "late"}:
            if fate == "late":
                # It arrives when its caller has long given it up, and has perhaps been followed by another.
                self._serve(tier, method, request, metadata, ends, LATEST_S * draw())
            await asyncio.sleep(min(timeout, self._delay() * (1 if fate == "refused" else 10)))
            raise failed(*_SAID[fate == "refused"][draw() < 0.5])
        served = self._serve(tier, method, request, metadata, ends, self._delay())
        if fate == "doubled":
            self._serve(tier, method, request, metadata, ends + timeout, self._delay() + self._delay() * 5)
        if fate == "deaf":
            if draw() < 0.5:
                await asyncio.wait([served], timeout=timeout)
                raise failed(Code.UNAVAILABLE, "Connection reset by peer")
            await asyncio.sleep(max(0.0, ends - loop.time()))
            raise failed(Code.DEADLINE_EXCEEDED, "Deadline Exceeded")
        # The tier goes on where its caller has gone: what it does is late, not undone.
        done, _ = await asyncio.wait([served], timeout=max(0.0, ends - loop.time()))
        await asyncio.sleep(self._delay())
        if not done or loop.time() > ends:
            raise failed(Code.DEADLINE_EXCEEDED, "Deadline Exceeded")
        reply = served.result()
        if isinstance(reply, grpc.aio.AioRpcError):
            raise reply
        return reply

    async def _stand_still(self, method: _Method) -> None:
        """A process that is frozen says nothing, and afterwards goes on as if nothing had been."""
        process, now = method.process, asyncio.get_running_loop().time()
        if method.name == "AdvanceSaga" and self.chance.random() < self.weather.frozen:
            process.still_until = now + FROZEN_S[0] + self.chance.random() * (FROZEN_S[1] - FROZEN_S[0])
            self.mishaps["frozen"] += 1
            self.record.append("frozen")
        if process.still_until > now:
            await asyncio.sleep(process.still_until - now)

    def _fate(self, tier: str, method: str) -> str:
        """What befalls a call; nothing, mostly."""
        if tier in self.away:
            return "refused"
        fate, weather = self.chance.random(), self.weather
        for mishap in ("refused", "lost", "deaf", "late", "doubled"):
            fate -= getattr(weather, mishap)
            if fate < 0:
                return "" if mishap in {"late", "doubled"} and method in _ONCE else mishap
        return ""

    def _note(self, mishap: str, tier: str, name: str) -> None:
        self.mishaps[mishap] += 1
        self.record.append(f"{mishap} {tier}.{name}")

    def _delay(self) -> float:
        weather = self.weather
        most = weather.slow_s if self.chance.random() < weather.slow else weather.usual_s
        return self.chance.random() * most

    async def _arrive(self, delay: float) -> None:
        """Calls arrive at certain moments only: no time passes at the databases, and those that come at different times would
        never meet there."""
        loop, grid = asyncio.get_running_loop(), self.weather.grid_s
        at = (int((loop.time() + delay) / grid) + 1) * grid
        arrived = loop.create_future()
        if at not in self._arriving:
            self._arriving[at] = []
            loop.call_at(at, self._let_in, at)
        self._arriving[at].append(arrived)
        await arrived

    def _let_in(self, at: float) -> None:
        for arrived in self._arriving.pop(at):
            if not arrived.done():
                arrived.set_result(None)

    def _serve(
        self, tier: str, method: _Method, request: Any, metadata: Any, ends: float, delay: float
    ) -> asyncio.Task[Any]:
        loop = asyncio.get_running_loop()
        self._calls += 1
        number = self._calls

        async def serve() -> Any:
            call_number.set(number)
            await self._arrive(delay)
            context = ServerContext(metadata, ends, loop.time)
            if self.refuses(tier, method.name, method.read_request(request)):
                self.record.append(f"{tier}.{method.name} refused for good")
                return failed(Code.FAILED_PRECONDITION, "No.")
            try:
                reply = await self.servers[tier].handle(method.path, request, context)
            except grpc.aio.AioRpcError as error:
                self.record.append(f"{tier}.{method.name} {error.code().name}")
                return error
            self.record.append(f"{tier}.{method.name}")
            self.news(method.name)
            if self.witness is not None and not isinstance(reply, list):
                self.witness(tier, method.name, method.read_request(request), reply)
            return method.copied(reply)

        # Nothing of the caller's goes with it.
        task = loop.create_task(serve(), context=Context())
        self.under_way.add(task)
        task.add_done_callback(self.under_way.discard)
        return task

    def renew(self) -> None:
        """As if nobody had called yet."""
        self.record.clear()
        self.mishaps.clear()
        self._arriving.clear()
        self._calls = 0

    async def quiet(self) -> None:
        """Wait until nothing is on its way any more."""
        while self.under_way:
            await asyncio.wait(list(self.under_way))


# A copy that comes back to nobody would lease to nobody, and only make everything wait.
_ONCE = frozenset({"LeaseJobs", "LeaseOutbox", "ClaimSagas"})
# What a client is told of a call that nobody took, and of one that he hears no more of.
_SAID = {
    True: ((Code.UNAVAILABLE, "Socket closed"), (Code.UNAVAILABLE, UNSENT)),
    False: ((Code.DEADLINE_EXCEEDED, "Deadline Exceeded"), (Code.UNAVAILABLE, "Connection reset by peer")),
}


def failed(code: Code, details: str) -> grpc.aio.AioRpcError:
    """What gRPC itself says to a client."""
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


class _Method:
    """A method of a stub."""

    def __init__(
        self, network: Network, tier: str, process: Process, path: str, write: Any, read: Any, *, streams: str
    ) -> None:
        self._network, self._tier, self._write, self._read, self._streams = network, tier, write, read, streams
        self.process = process
        self._method = path.encode()
        self.path = path
        self.name = path.rsplit("/", 1)[-1]
        # Requests go by their bytes: what either side does to a message is its own affair.
        self._request_type: Any = None

    def copied(self, reply: Any) -> Any:
        """A reply as it arrives."""
        if isinstance(reply, list):
            return [self._read(each.SerializeToString()) for each in reply]
        return self._read(reply.SerializeToString())

    def read_request(self, request: Any) -> Any:
        """A request as it was sent."""
        return self._request_type.FromString(request) if isinstance(request, bytes) else request

    def __call__(self, request: Any, metadata: Any = (), timeout: float = 30.0) -> Any:
        if self._streams != "in":
            self._request_type = type(request)
        if self._streams == "out":
            return self._replies(request, metadata, timeout)
        return self._answer(request, metadata, timeout)

    async def _answer(self, request: Any, metadata: Any, timeout: float) -> Any:
        if self._streams == "in":
            sent: Any = [self._write(each) async for each in request]
        else:
            sent = self._write(request)
        return await self._network.call(self._tier, self, sent, metadata, timeout)

    async def _replies(self, request: Any, metadata: Any, timeout: float) -> AsyncIterator[Any]:
        for reply in await self._network.call(self._tier, self, self._write(request), metadata, timeout):
            yield reply


class Channel:
    """A channel to a tier, as stubs take it."""

    def __init__(self, network: Network, tier: str, process: Process) -> None:
        self._network = network
        self._tier = tier
        self._process = process

    def _method(self, streams: str) -> Callable[..., _Method]:
        def make(path: str, request_serializer: Any, response_deserializer: Any, **_: Any) -> _Method:
            return _Method(
                self._network, self._tier, self._process, path, request_serializer, response_deserializer,
                streams=streams,
            )  # fmt: skip

        return make

    @property
    def unary_unary(self) -> Callable[..., _Method]:
        return self._method("")

    @property
    def unary_stream(self) -> Callable[..., _Method]:
        return self._method("out")

    @property
    def stream_unary(self) -> Callable[..., _Method]:
        return self._method("in")

    @property
    def stream_stream(self) -> Callable[..., _Method]:
        """Nobody in the simulation talks both ways."""
        return self._method("both")
