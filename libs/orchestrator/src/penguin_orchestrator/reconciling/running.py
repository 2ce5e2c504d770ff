"""One run of reconcile: tenant by tenant, part by part, each told to the receipt before the next. It may be killed at any
point: what it had not told is looked at again, and finds the world as it is."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from penguin.oltp.v1 import reconcile_service_pb2 as pb
from penguin_orchestrator import keys
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.erasure_ledger import ErasureLedger
from penguin_orchestrator.reconciling.comparing import Comparison, Difference
from penguin_orchestrator.reconciling.facts import FactsComparison
from penguin_orchestrator.reconciling.jobs import PART, JobsComparison
from penguin_orchestrator.reconciling.mending import A_CALL, Confirmed, Found, Mender, confirmed, told
from penguin_orchestrator.reconciling.reading import (
    KeyReader,
    LeftOutError,
    Places,
    RefusedError,
    UncomparedError,
    in_portions,
)
from penguin_orchestrator.reconciling.receipts import FOUND, Part, Receipt, Terms
from penguin_orchestrator.reconciling.subjects import Orders, SubjectsComparison, ordered

# How long after its keys were minted a generation is closed: by then their contents' claim_by has passed (six hours after
# they were put), and so has whatever a clock or a slow caller may add.
CLOSED_AFTER = timedelta(hours=8)
KEYS, QUARANTINE, JOBS, FACTS, SUBJECTS, LEFT_OUT = "keys", "quarantine", PART, "facts", "subjects", "left_out"


def closed_before(now_s: float) -> int:
    """Generations before this one are closed: nobody mints, puts or claims a key of theirs any more."""
    return max(0, keys.generation(now_s - CLOSED_AFTER.total_seconds()))


@dataclass(frozen=True)
class _Work:
    """What every part of a run works with."""

    reader: KeyReader
    places: Places
    receipt: Receipt
    terms: Terms
    # What the ledger of erasures has ordered; None where this process has no ledger.
    orders: Orders | None


class Reconciler:
    """Runs reconcile over the tiers."""

    def __init__(
        self, tiers: Mapping[str, Tier], clock: Callable[[], float] = time.time, *, ledger: ErasureLedger | None = None
    ) -> None:
        self._tiers = tiers
        self._ledger = ledger
        self._clock = clock

    async def run(self, terms: Terms, *, min_interval: timedelta = timedelta()) -> pb.ReconcileRun:
        """Run once, and return the receipt; a run that could not go on says why in it.

        Raises TierError where there is no receipt to be had: OLTP is away, another run is under way or too short ago.
        """
        receipt = await Receipt.start(self._tiers["oltp"], terms, min_interval)
        try:
            reader = KeyReader(self._tiers)
            orders = await ordered(self._ledger) if self._ledger is not None else None
            work = _Work(reader, await reader.places(), receipt, terms, orders)
            tenants = [terms.tenant_id] if terms.tenant_id else await reader.tenants(work.places)
            # Of a tenant whose every key is gone there may be erased people all the same.
            erased = tenants if terms.tenant_id else sorted({*tenants, *(orders or ())})
            # Keys first, of all tenants: the other pairs ask more tiers.
            for parts, those in (
                (((QUARANTINE, self._sweep), (KEYS, self._compare)), tenants),
                (((JOBS, self._compare_jobs), (FACTS, self._compare_facts)), tenants),
                (((SUBJECTS, self._look_for_erased),), erased),
            ):
                for tenant_id in those:
                    for name, part in parts:
                        await self._do(name, part, work, tenant_id)
        except RefusedError as error:
            return await receipt.finish(str(error))
        return await receipt.finish()

    @staticmethod
    async def _do(name: str, part: Callable[[_Work, UUID], Awaitable[None]], work: _Work, tenant_id: UUID) -> None:
        """Do one part of a tenant; one that may not be changed is left out of it, and so is one that cannot be compared, which
        is told: those behind it are not to wait for it."""
        try:
            await part(work, tenant_id)
        except LeftOutError:
            await _leave_out(work, tenant_id, "tenants_left_out")
        except UncomparedError as error:
            await work.reader.places()  # a tier that answers nothing at all ends the run
            found = Found("uncompared", f"{name}: {error}"[:500], "")
            await _leave_out(work, tenant_id, "tenants_uncompared", f"{FOUND}uncompared", found=[found])

    async def _compare(self, work: _Work, tenant_id: UUID) -> None:
        """Compare a tenant's closed generations, part by part."""
        part = work.receipt.part(tenant_id, KEYS)
        if part.done:
            return
        comparison = Comparison(work.reader, work.places, tenant_id)
        end, moved = closed_before(self._clock()), work.reader.bytes_moved
        async with aclosing(comparison.differences(part.to_generation, end)) as differences:
            async for difference in differences:
                result = await confirmed(work.reader, work.places, tenant_id, difference)
                acts = await self._settle(work, part, result)
                _count(part, difference, result)
                part.to_generation = difference.end
                part.done = difference.end >= end
                part.counts["bytes"] += work.reader.bytes_moved - moved
                moved = work.reader.bytes_moved
                await work.receipt.record(part, acts)

    async def _settle(self, work: _Work, part: Part, result: Confirmed) -> list[Found]:
        """Quarantine orphans and revive what is wanted, if the run may; returns what is to be told of it."""
        if not work.terms.apply:
            return told(result, {}, work.places)
        room = max(0, work.terms.cap - work.receipt.total("quarantined"))
        put_aside = result.orphans[:room]
        mender = Mender(self._tiers["content"], part.tenant_id)
        await _within_cap(work, part, "quarantined", put_aside, mender.quarantine)
        if result.wanted:
            await work.receipt.record(part)  # still ours?
            part.counts["revived"] += await mender.revive(result.wanted)
        part.counts["over_cap"] += len(result.orphans) - len(put_aside)
        found = told(result, {"orphan": "quarantined", "wanted": "revived"}, work.places)
        beyond = set(result.orphans[room:])
        for each in found:
            if each.subject in beyond:
                each.action = ""
        return found

    async def _sweep(self, work: _Work, tenant_id: UUID) -> None:
        """Delete what has been in quarantine for the grace and nobody refers to, each key looked up right before."""
        part = work.receipt.part(tenant_id, QUARANTINE)
        before = datetime.fromtimestamp(self._clock(), UTC) - work.terms.grace
        mender = Mender(self._tiers["content"], tenant_id)
        token = ""
        while not part.done:
            waiting, token = await mender.quarantined(before, token)
            moved = work.reader.bytes_moved
            referred = await work.reader.referred(work.places, tenant_id, waiting)
            wanted = [key for key in waiting if key in referred]
            left = [key for key in waiting if key not in referred]
            await self._take_out(work, part, mender, wanted)
            doomed, held = list[str](), set[str]()
            # What turns out to be held has taken no room: those behind it are not to wait for it.
            while left and (room := _room(work)):
                doomed += left[:room]
                held |= await self._dispose(work, part, mender, left[:room], before)
                left = left[room:]
            part.counts["bytes"] += work.reader.bytes_moved - moved
            part.done = not token or not _room(work)
            await work.receipt.record(part, _disposed(work.terms, work.places, doomed, wanted, held))

    @staticmethod
    async def _take_out(work: _Work, part: Part, mender: Mender, wanted: Sequence[str]) -> None:
        # Where nothing may be changed it is counted where the keys are compared.
        if wanted and work.terms.apply:
            await work.receipt.record(part)
            part.counts[f"{FOUND}wanted"] += len(wanted)
            part.counts["revived"] += await mender.revive(wanted)

    @staticmethod
    async def _dispose(work: _Work, part: Part, mender: Mender, doomed: Sequence[str], before: datetime) -> set[str]:
        """Returns the keys that a legal hold keeps."""
        held = set[str]()
        if not work.terms.apply:
            part.counts["deletable"] += len(doomed)
            return held

        async def delete(keys: Sequence[str]) -> int:
            deleted, kept = await mender.delete(keys, before)
            held.update(kept)
            return deleted

        await _within_cap(work, part, "deleted", doomed, delete)
        part.counts["held"] += len(held)
        return held

    async def _compare_jobs(self, work: _Work, tenant_id: UUID) -> None:
        """Compare the emails that wait with their jobs; those that lack theirs get it through OLTP's outbox."""
        part = work.receipt.part(tenant_id, JOBS)
        if part.done:
            return
        comparison = JobsComparison(self._tiers, tenant_id, datetime.fromtimestamp(self._clock(), UTC))
        found = await comparison.run()
        done: dict[str, str] = {}
        if work.terms.apply and found.lacking:
            await work.receipt.record(part)
            done = await comparison.requeue(work.receipt.run.id, found.lacking)
            part.counts.update(Counter(done.values()))
        part.counts.update(
            {"emails_waiting": found.waiting, "jobs": found.jobs, "jobs_cut": int(found.cut),
             f"{FOUND}lacking_job": len(found.lacking), f"{FOUND}needless_job": len(found.needless),
             f"{FOUND}jobs_owed": int(found.overdue), f"{FOUND}uncompared": int(found.too_many)}
        )  # fmt: skip
        part.done = True
        await work.receipt.record(part, [
            *(Found("lacking_job", email_id, "oltp.emails", done.get(email_id, "")) for email_id in found.lacking),
            *(Found("needless_job", str(job_id), "queue.jobs") for job_id in found.needless),
            *([Found("jobs_owed", "queue", "oltp.outbox")] if found.overdue else []),
            *([Found("uncompared", f"{JOBS}: more than one run looks through", "")] if found.too_many else []),
        ])  # fmt: skip

    async def _compare_facts(self, work: _Work, tenant_id: UUID) -> None:
        """Compare OLAP's cells with a recount; a day that differs is loaded anew, as is what waits to be loaded for too long."""
        part = work.receipt.part(tenant_id, FACTS)
        if part.done:
            return
        now = datetime.fromtimestamp(self._clock(), UTC)
        comparison = FactsComparison(self._tiers, tenant_id, now.date())
        unloaded = await comparison.unloaded(now)
        if unloaded and work.terms.apply:
            await work.receipt.record(part)
            await comparison.refresh()
        days, differing = await comparison.run()
        if differing and work.terms.apply:
            await work.receipt.record(part)
            for day in differing:
                await comparison.reload(day)
            part.counts["reloaded"] += len(differing)
        part.counts.update(
            {"days": days, f"{FOUND}differing_day": len(differing), f"{FOUND}unloaded_day": len(unloaded)}
        )
        part.done = True
        done = "reloaded" if work.terms.apply else ""
        await work.receipt.record(part, [
            *(Found("differing_day", day, "olap.facts", done) for day in differing),
            *(Found("unloaded_day", day, "olap.facts", "loaded" if done else "") for day in unloaded),
        ])  # fmt: skip

    async def _look_for_erased(self, work: _Work, tenant_id: UUID) -> None:
        """Look for people who were erased; without the ledger nobody knows whom to look for, and that is counted."""
        part = work.receipt.part(tenant_id, SUBJECTS)
        if part.done:
            return
        comparison = SubjectsComparison(self._tiers, work.reader, tenant_id, datetime.fromtimestamp(self._clock(), UTC))
        found: list[Found] = []
        # Whoever looks for nobody leaves the round where it was: the next run goes by this part.
        part.to_generation = await work.receipt.left_off(tenant_id, SUBJECTS)
        if work.orders is None:
            part.counts["erased_not_looked_for"] = len(await comparison.recorded())
        else:
            gone = await comparison.run(work.orders.get(tenant_id, ()), part.to_generation)
            part.to_generation = gone.reached
            found = [
                *(Found("erased_person", f"{erasure}/{place}", place) for erasure, place in gone.left),
                *(Found("erasure_open", each, "oltp.erasures") for each in gone.open),
                *(Found("erasure_unordered", each, "oltp.erasures") for each in gone.unordered),
            ]
            part.counts.update(
                {"erased_looked_for": gone.looked_for, "erased_not_looked_for": gone.not_looked_for,
                 f"{FOUND}erased_person": len({erasure for erasure, _ in gone.left}),
                 f"{FOUND}erasure_open": len(gone.open), f"{FOUND}erasure_unordered": len(gone.unordered)}
            )  # fmt: skip
        part.done = True
        await work.receipt.record(part, found)


def _room(work: _Work) -> int:
    """How many contents the run may still delete, or tell that it would."""
    return max(0, work.terms.cap - work.receipt.total("deleted") - work.receipt.total("deletable"))


async def _leave_out(work: _Work, tenant_id: UUID, *counts: str, found: Sequence[Found] = ()) -> None:
    part = work.receipt.part(tenant_id, LEFT_OUT)
    for count in counts:
        part.counts[count] = 1
    part.done = True
    await work.receipt.record(part, found)


async def _within_cap(
    work: _Work, part: Part, count: str, keys: Sequence[str], act: Callable[[Sequence[str]], Awaitable[int]]
) -> None:
    """Do what the cap bounds, a call at a time, each told to the receipt as done before it is: whoever takes the run on has so
    much less room, whatever became of it. What turns out not to have been there is taken off again."""
    for portion in in_portions(keys, A_CALL):
        part.counts[count] += len(portion)
        await work.receipt.record(part)  # and it is still ours
        try:
            done = await act(portion)
        except (LeftOutError, UncomparedError):
            part.counts[count] -= len(portion)  # it was refused: others may have the room, whoever goes on with the run
            await work.receipt.record(part)
            raise
        part.counts[count] += done - len(portion)


def _disposed(
    terms: Terms, places: Places, doomed: Sequence[str], wanted: Sequence[str], held: Container[str]
) -> list[Found]:
    source = places.quarantine.name
    deleted, revived = ("deleted", "revived") if terms.apply else ("", "")
    return [
        *(Found("deletable", key, source, "held" if key in held else deleted) for key in doomed),
        *(Found("wanted", key, source, revived) for key in wanted),
    ]


def _count(part: Part, difference: Difference, result: Confirmed) -> None:
    for place, count in difference.counted.items():
        part.counts[f"keys.{place.name}"] += count
    part.counts[f"{FOUND}orphans"] += len(result.orphans)
    part.counts[f"{FOUND}dangling"] += len(result.dangling)
    part.counts[f"{FOUND}wanted"] += len(result.wanted)
    part.counts["misfiled"] += len(result.misfiled)
