"""Carries sagas out. What is about to be asked for is journaled before, what came of it after; one journal write holds
both. An unknown outcome is asked again, never read as failure; what was begun is undone before a refusal is final. What a
closed tenant can neither finish nor undo is given up, and called no one for: nobody could mend it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc

from penguin_chassis.defects import places
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.erasure_ledger import LedgerAwayError
from penguin_orchestrator.errors import CLOSED, TierError
from penguin_orchestrator.messages import OutcomeUnknownError
from penguin_orchestrator.sagas.deeds import Deed, RefusedError
from penguin_orchestrator.sagas.definition import ACTION, COMPENSATION, Definition, Registry, Step
from penguin_orchestrator.sagas.journal import DONE, MOVING, Held, Journal, Record

log = logging.getLogger(__name__)

# Between tries of a step (seconds).
RETRY_MIN_S = 0.05
RETRY_MAX_S = 2.0
# How often what is refused for good, and must be done all the same, is tried in one round; then the saga is stuck.
REFUSALS = 3
# A saga given back is due again after this long, doubling (seconds); after so many rounds in a row in which nothing of it worked
# it is stuck.
DUE_MIN_S = 1.0
DUE_MAX_S = 15.0
ROUNDS = 300
# What has come of long steps is journaled so often, and the lease extended: who takes over begins there (seconds).
HEARTBEAT_S = 2.0
# How long a process that is ending takes to give a saga back (seconds).
GIVE_BACK_S = 1.0
# What stops a run, the gravest last.
_GRAVITY = ("", "later", "stuck", "refused")


@dataclass
class Ending:
    """How far a run brought a saga. `failure`: what stopped it, as it was raised here; None where another process saw it."""

    held: Held
    failure: Exception | None = None


@dataclass
class _Outcome:
    """What came of a step: done, refused (undo), closed (give up), stuck, or later (its outcome is not known, or it may work
    later)."""

    verdict: str
    failure: Exception | None = None


class Engine:
    """Runs sagas of known definitions, each until it ends or a run's patience does."""

    def __init__(self, tiers: Mapping[str, Tier], registry: Registry, journal: Journal | None = None) -> None:
        self.tiers = tiers
        self.registry = registry
        self.journal = journal or Journal(tiers["oltp"])

    async def run(
        self, held: Held, *, patience_s: float, progress: Callable[[Mapping[str, Any]], None] | None = None
    ) -> Ending:
        """Carry a saga that is ours on until it is finished, is stuck, or `patience_s` seconds of failures have passed since a
        step last ended or came further: it is given back then. One that the journal refuses to note what has come of is stuck.
        Raises OwnerLostError, TierError (the journal is away: whoever claims it goes on)."""
        definition = self.registry.find(held.kind, held.version)
        if definition is None:
            raise KeyError(f"{held.kind}/{held.version}")
        run = _Run(self, definition, held, patience_s, progress)
        try:
            if held.state != "compensating":
                await run.forward()
            if held.state == "compensating":
                await run.backward()
        except TierError as refused:
            # Asked again, the journal would say the same to whoever comes next; but not where it does not know a token yet.
            if refused.retryable or refused.of_token:
                raise
            await self.journal.advance(held, "stuck", [], error=described(refused))
            run.failure = refused
        except asyncio.CancelledError:
            await self._give_back(held)
            raise
        return Ending(held, run.failure)

    async def _give_back(self, held: Held) -> None:
        """Let another go on at once with what this process is told to leave; or else it waits for the lease's end."""
        if held.state in MOVING:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(GIVE_BACK_S):
                    begun = [record for record in held.records.values() if record.state == "begun"]
                    await self.journal.advance(held, held.state, begun, due_in_s=0.0)


class _Run:
    """One saga in hand."""

    def __init__(
        self, engine: Engine, definition: Definition, held: Held, patience_s: float,
        progress: Callable[[Mapping[str, Any]], None] | None,
    ) -> None:  # fmt: skip
        self._engine = engine
        self._definition = definition
        self._held = held
        self._patience_s = patience_s
        self._progress = progress
        self._began = self._standing()
        # How it stood at the first failure since something last worked, and when patience with these ends.
        self._failing: str | None = None
        self._ends = 0.0
        self.failure: Exception | None = None

    async def forward(self) -> None:
        """Act until all is done, or something is refused."""
        held, definition = self._held, self._definition

        def ready() -> list[Step]:
            if self._given_up(ACTION):
                return definition.tidying(held.named(ACTION, DONE | {"refused"}))
            return definition.forward(held.named(ACTION, DONE))

        await self._carry(ACTION, ready, "running", "succeeded")

    async def backward(self) -> None:
        """Undo what was begun, the last first."""
        held = self._held

        def ready() -> list[Step]:
            return self._definition.backward(held.named(ACTION), held.named(COMPENSATION, DONE | {"refused"}))

        await self._carry(COMPENSATION, ready, "compensating", "compensated")

    def _given_up(self, operation: str) -> str:
        """Why the saga is not to come to this direction's end: what a closed tenant refused that had to be; or nothing."""
        for record in self._held.records.values():
            must = self._must(self._definition.step(record.step), operation)
            if record.operation == operation and record.state == "refused" and must:
                return record.last_error
        return ""

    async def _carry(self, operation: str, ready: Callable[[], list[Step]], moving: str, ended: str) -> None:
        """Begin what is ready, journal it with what has come of the others, and wait; to the end of this direction."""
        tasks: dict[asyncio.Task[_Outcome], Record] = {}
        changes: list[Record] = []
        stop = ""
        beat = time.monotonic() + HEARTBEAT_S
        try:
            while True:
                under_way = {record.step for record in tasks.values()}
                # What is given up is tidied once none of its steps is under way any more.
                waits = stop or (tasks and self._given_up(operation))
                begun = [] if waits else [step for step in ready() if step.name not in under_way]
                if stop == "refused":
                    await _cancel(tasks)  # what they did is not known: they are undone with the rest
                    tasks.clear()
                if not begun and not tasks:
                    await self._end(stop or "done", changes, moving, ended, self._given_up(operation))
                    return
                records = [self._begin(step, operation) for step in begun]
                if changes or records or time.monotonic() >= beat:
                    beat = time.monotonic() + HEARTBEAT_S
                    await self._engine.journal.advance(self._held, moving, [*changes, *records, *tasks.values()])
                    changes = []
                for step, record in zip(begun, records, strict=True):
                    tasks[asyncio.create_task(self._try(step, record))] = record
                done, _ = await asyncio.wait(
                    tasks, timeout=max(0.0, beat - time.monotonic()), return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    record, outcome = tasks.pop(task), task.result()
                    changes.append(record)
                    if outcome.verdict != "done":
                        self.failure = outcome.failure or self.failure
                    # Given up, it still tidies, and undoes what can be.
                    if outcome.verdict not in {"done", "closed"}:
                        stop = max(stop, outcome.verdict, key=_GRAVITY.index)
        finally:
            await _cancel(tasks)

    async def _end(self, how: str, changes: list[Record], moving: str, ended: str, given_up: str) -> None:
        held, journal = self._held, self._engine.journal
        if how == "done" and given_up:
            await journal.advance(held, "abandoned", changes, error=given_up)
            return
        error = described(self.failure) if self.failure is not None and how != "done" else ""
        # As the journal counts: rounds before something worked are forgiven.
        rounds = held.rounds if self._standing() == self._began else 0
        if how == "later" and rounds + 1 >= ROUNDS:
            how = "stuck"
        if how == "later":
            delay = min(DUE_MIN_S * 2 ** min(rounds, 10), DUE_MAX_S) * random.uniform(0.5, 1.0)
            await journal.advance(held, moving, changes, due_in_s=delay, error=error)
            return
        state = {"done": ended, "stuck": "stuck", "refused": "compensating"}[how]
        await journal.advance(held, state, changes, error=error)

    def _standing(self) -> str:
        """What has come of all steps by now."""
        told = [(r.step, r.operation, r.state, r.result) for r in self._held.records.values()]
        return repr([each for each in told if each[2] != "begun" or each[3]])

    def _patience_ends(self) -> float:
        """Until when failures are borne, after one of them (monotonic seconds)."""
        if (standing := self._standing()) != self._failing:
            self._failing, self._ends = standing, time.monotonic() + self._patience_s
        return self._ends

    def _begin(self, step: Step, operation: str) -> Record:
        """The step's record, with what is minted for it the first time."""
        records = self._held.records
        record = records.get((step.name, operation))
        if record is None:
            made = {name: mint() for name, mint in step.mints.items()} if operation == ACTION else {}
            record = records[step.name, operation] = Record(step.name, operation, keys=made)
        record.state = "begun"
        return record

    async def _try(self, step: Step, record: Record) -> _Outcome:
        """Ask until the outcome is known, or there is no patience left."""
        must = self._must(step, record.operation)
        refusals, delay = 0, RETRY_MIN_S
        while True:
            record.attempts += 1
            try:
                await self._once(step, record)
            except Exception as failure:  # noqa: BLE001 - what nobody foresaw must not be read as a refusal
                verdict = _verdict(failure)
                record.last_error = described(failure)
                if verdict == "closed" or (verdict == "refused" and not must):
                    record.state = "refused"
                    return _Outcome(verdict if must else "refused", failure)
                refusals += verdict != "later"
                if refusals >= REFUSALS:
                    return _Outcome("stuck", failure)
                pause = max(getattr(failure, "retry_after_s", None) or 0.0, delay * random.uniform(0.5, 1.0))
                if time.monotonic() + pause >= self._patience_ends():
                    return _Outcome("later", failure)
            else:
                record.state, record.last_error = "done", ""
                return _Outcome("done")
            await asyncio.sleep(pause)
            delay = min(delay * 2, RETRY_MAX_S)

    def _must(self, step: Step, operation: str) -> bool:
        """Whether it has to be done, whatever it is refused for."""
        return operation == COMPENSATION or self._definition.decided(step.name)

    async def _once(self, step: Step, record: Record) -> None:
        held = self._held
        act = step.act if record.operation == ACTION else (step.undo or step.act)
        action = held.records[step.name, ACTION]
        deed = Deed(
            self._engine.tiers, held.tenant_id, held.id, step.name, record.operation, held.input, action.keys,
            {**held.results, step.name: action.result}, record.result, self._progress, held.skipped,
            self._must(step, record.operation),
        )  # fmt: skip
        record.result = dict(await act(deed) or deed.so_far)


async def _cancel(tasks: Mapping[asyncio.Task[_Outcome], Record]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.gather(*tasks, return_exceptions=True)


def _verdict(failure: Exception) -> str:
    """Whether to ask again (later), to undo (refused), to undo or give up (closed), or to call somebody (defect)."""
    if isinstance(failure, RefusedError):
        return "refused"
    if isinstance(failure, OutcomeUnknownError | LedgerAwayError):
        return "later"
    if not isinstance(failure, TierError):
        log.error("a step failed: %s", type(failure).__name__, extra={"places": places(failure)})
        return "defect"
    if failure.reason == CLOSED:
        return "closed"
    # Expired: it came too late and was not done. Aborted: somebody was faster, and it may be asked again; but not what was
    # undone before.
    again = failure.code is grpc.StatusCode.ABORTED and failure.reason != "SAGA_COMPENSATED"
    return "later" if failure.retryable or failure.of_token or again or failure.reason == "STEP_EXPIRED" else "refused"


def described(failure: Exception) -> str:
    """The class of a failure, as it is journaled: nothing that anybody said."""
    if isinstance(failure, TierError):
        return f"{failure.tier} {failure.code.name} {failure.reason}".strip()
    return str(failure) if isinstance(failure, RefusedError) else type(failure).__name__
