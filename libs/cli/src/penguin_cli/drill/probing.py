"""What every check of a promise stands on, and the two plainest: that a part works, and that it refuses at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID

import grpc

from penguin_cli.drill import acts, judging
from penguin_cli.drill.acts import READS, Sample, letter
from penguin_cli.drill.faults import Scene
from penguin_cli.drill.findings import RECOVERY_S, Cell
from penguin_cli.drill.judging import Judgement
from penguin_cli.drill.matrix import SEND
from penguin_cli.drill.stand import eventually
from penguin_orchestrator import keys
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.messages import OutcomeUnknownError

# While others are down a call must not take longer than this, nor a job from enqueuing to its effect (seconds).
WORKS_S, JOB_S = 2.0, 6.0
REFUSED_S = 1.0
ROUNDS = 4
# For so long a database without room is written to, until it refuses (seconds).
NO_ROOM_S = 30.0
AWAY = (grpc.StatusCode.UNAVAILABLE,)


class Probe:
    """A check of one cell. `during` is to end when the time it is given is over."""

    def __init__(self, scene: Scene, cell: Cell) -> None:
        self.scene = scene
        self.cell = cell
        self.stand = scene.stand
        self.penguin = scene.stand.penguin
        self.sample: Sample = scene.stand.tenants[0]

    async def before(self) -> None:
        """What has to be there when the fault comes."""

    async def during(self, seconds: float) -> None:
        """Look, for so long."""

    async def after(self) -> None:
        """What must have come of it, once everything works again."""

    def wrong(self, *problems: str) -> None:
        """Take down what is not as promised."""
        self.cell.problems += problems

    def judged(self, judgement: Judgement) -> None:
        """Take down what was seen, and what is wrong with it."""
        said, problems = judgement
        self.cell.said.append(said)
        self.wrong(*problems)

    async def timed(self, act: Awaitable[Any], limit_s: float, what: str) -> float:
        """Carry out what must succeed, in time; how long it took."""
        began = time.monotonic()
        try:
            await act
        except (TierError, OutcomeUnknownError) as error:
            self.wrong(f"{what}: {error}")
        took = time.monotonic() - began
        if took > limit_s:
            self.wrong(f"{what} took {took:.2f} s; {limit_s:g} s are allowed")
        return took


class Works(Probe):
    """Reads and writes are answered; a job has its effect; an email is accepted, and arrives."""

    async def during(self, seconds: float) -> None:
        self.judged(judging.worked([await self._once() async for _ in rounds(seconds)]))

    async def _once(self) -> float:
        column = self.cell.column
        if column == SEND:
            return await self.accepted()
        read = await self.timed(READS[column](self.penguin, self.sample, acts.TIMEOUT_S), WORKS_S, "a read")
        key = keys.new_id()
        write = await self.timed(self.scene.load.write(column, self.sample, key), WORKS_S, "a write")
        if column == "queue":
            await self._worked_on(key)
        return max(read, write)

    async def accepted(self) -> float:
        """An email is taken; the account knows of it, and has it looked for afterwards."""
        address = self.scene.load.address()
        return await self.timed(self.scene.load.send(self.sample, [letter(self.sample, address)]), WORKS_S, "an email")

    async def _worked_on(self, key: UUID) -> None:
        effects = self.scene.load.account.effects

        async def applied() -> bool:
            return key in effects

        if await eventually(applied, JOB_S, 0.05) is None:
            self.wrong(f"a job was not worked on within {JOB_S:g} s")


class Refuses(Probe):
    """Every call is refused at once, with the reason."""

    async def during(self, seconds: float) -> None:
        times: list[float] = []
        async for _ in rounds(seconds):
            column = self.cell.column
            times += await self._refused(READS[column](self.penguin, self.sample, acts.TIMEOUT_S))
            times += await self._refused(self.scene.load.write(column, self.sample, keys.new_id()))
        self.judged(judging.refused(times, REFUSED_S))

    async def _refused(self, act: Awaitable[None]) -> list[float]:
        began = time.monotonic()
        try:
            await act
        except TierError as error:
            wanted = "UNREACHABLE" if self.scene.row.fault == "kill_service" else "TIER_DB_DOWN"
            if error.code not in AWAY or error.reason != wanted:
                self.wrong(f"refused with {error.code.name} {error.reason}, not UNAVAILABLE {wanted}")
            return [time.monotonic() - began]
        self.answered()
        return []

    def answered(self) -> None:
        """A call came through."""
        self.wrong("a call was answered though the tier is down")


class NoRoom(Refuses):
    """Reads go on (or are refused too, should the database have given up); writes are done, or refused at once."""

    async def during(self, seconds: float) -> None:
        column, refused, done = self.cell.column, list[float](), 0
        ends, latest = time.monotonic() + seconds, time.monotonic() + NO_ROOM_S
        while time.monotonic() < ends or (len(refused) < ROUNDS and time.monotonic() < latest):
            took = await self._refused(self.scene.load.write(column, self.sample, keys.new_id()))
            refused += took
            done += not took
            await self._refused(READS[column](self.penguin, self.sample, acts.TIMEOUT_S))
            await asyncio.sleep(0.02)
        self.cell.said.append(f"{done} writes done")
        self.judged(judging.refused(refused, REFUSED_S))

    def answered(self) -> None:
        """No harm in that."""


async def rounds(seconds: float, count: int = ROUNDS) -> AsyncIterator[int]:
    """So many rounds, spread over the time."""
    began = time.monotonic()
    for number in range(count):
        await asyncio.sleep(max(0.0, began + seconds * number / count - time.monotonic()))
        yield number


def recovery(scene: Scene, column: str) -> Callable[[], Awaitable[bool]]:
    """Whether a column works: a read and a write, a job's effect, or an email that arrives. The account has what is written."""
    stand, load = scene.stand, scene.load
    sample = stand.tenants[-1]

    async def tier_works() -> bool:
        key = keys.new_id()
        await READS[column](stand.penguin, sample, acts.TIMEOUT_S)
        await load.write(column, sample, key)
        return (
            column != "queue" or await eventually(lambda: _applied(load.account.effects, key), JOB_S, 0.05) is not None
        )

    async def send_works() -> bool:
        address = load.address()
        try:
            await load.send(sample, [letter(sample, address)])
        except OutcomeUnknownError:
            return False
        return await eventually(lambda: _arrived(scene, address), RECOVERY_S, 0.2) is not None

    return send_works if column == SEND else tier_works


async def _applied(effects: dict[UUID, set[int]], key: UUID) -> bool:
    return key in effects


async def _arrived(scene: Scene, address: str) -> bool:
    return (await scene.stand.received())[address] > 0
