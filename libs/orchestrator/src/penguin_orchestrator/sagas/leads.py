"""The saga that imports leads: the file lies in Content, where any process finds it. A row's request is known by saga and
line, so that whoever goes on, and from wherever, makes each row once."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import asdict
from datetime import timedelta
from typing import Any
from weakref import WeakKeyDictionary

from penguin.common.v1 import errors_pb2
from penguin.oltp.v1 import lead_service_pb2 as lead_pb
from penguin_orchestrator import blobs, keys, leadfiles
from penguin_orchestrator.blobs import File, put_file
from penguin_orchestrator.errors import TierError, first_failure
from penguin_orchestrator.leadbatches import BATCH_BYTES, LEADS_PER_CALL, create_leads
from penguin_orchestrator.leadfiles import LeadReader, Report, Row
from penguin_orchestrator.leadrecords import Format, LeadFileError, Problem, Survey
from penguin_orchestrator.sagas import files
from penguin_orchestrator.sagas.deeds import Deed, RefusedError
from penguin_orchestrator.sagas.definition import Definition, Step

# How long a file waits for its import to end, and a report to be fetched.
FILE_KEPT = timedelta(days=30)
REPORT_KEPT = timedelta(days=30)
CSV = "text/csv"
# Batches of one import on their way at once: one is being stored while another is being written.
PARALLEL = 2
# What only the tier objected to, kept in the journal until the report is made (rows); the rest is only counted.
ODD_KEPT = 300
_EXISTS = errors_pb2.ERROR_REASON_ALREADY_EXISTS
_ERASED = errors_pb2.ERROR_REASON_SUBJECT_ERASED
# A row that was made, and whose answer an erasure has forgotten since.
_FORGOTTEN = errors_pb2.ERROR_REASON_SAGA_COMPENSATED
# What would help with what only the tier objected to.
_DETAILS = {"SUBJECT_ERASED": "the person was erased, and stays so"}
_gates: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


def _gate() -> asyncio.Semaphore:
    """One file is read at a time, as its addresses are held in memory meanwhile."""
    return _gates.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(1))


def _chunks(deed: Deed) -> AsyncGenerator[bytes, None]:
    return blobs.attachment_chunks(deed.tiers["content"], deed.tenant_id, deed.input["key"], 0)


async def _check(deed: Deed) -> Mapping[str, Any]:
    """What the file is like, and whether it holds leads at all."""
    survey = Survey()
    async with aclosing(_chunks(deed)) as chunks:
        try:
            async for chunk in chunks:
                await asyncio.to_thread(survey.feed, chunk)
            form = survey.done()
            leadfiles.check_heading(form, survey.head, deed.input["columns"], deed.input["list"])
        except LeadFileError as error:
            raise RefusedError(error.reason) from error
    return asdict(form)


async def _rows(deed: Deed) -> AsyncGenerator[list[Row], None]:
    """The file's rows, as many at a time as come at once."""
    form = Format(**deed.result("check"))
    reader = LeadReader(form, deed.input["columns"], deed.input["list"], deed.saga_id)
    async with _gate(), aclosing(_chunks(deed)) as chunks:
        try:
            async for chunk in chunks:
                yield await asyncio.to_thread(reader.feed, chunk)
        except TierError as error:
            if error.reason != "NOT_FOUND":
                raise
            # Somebody in it was erased, and the file with them: what was made stays, the rest is left out.
            yield [Row(0, None, Problem(0, "", "FILE_GONE", "the file was removed meanwhile: import the rest anew"))]
        else:
            yield await asyncio.to_thread(lambda: reader.feed(b"", last=True))


class _Creation:
    """Leads on their way to OLTP, in order: what is told of is done, up to its line."""

    def __init__(self, deed: Deed, group: asyncio.TaskGroup) -> None:
        self._deed = deed
        self._group = group
        self._under_way: deque[tuple[list[tuple[int, lead_pb.NewLead]], asyncio.Task[Any]]] = deque()
        self._waiting: list[tuple[int, lead_pb.NewLead]] = []
        self._size = 0
        self.told: dict[str, Any] = {
            "line": 0, "lines": deed.result("check")["lines"], "created": 0, "existed": 0, "odd": [], "odd_more": 0,
        } | deed.so_far  # fmt: skip

    async def add(self, line: int, lead: lead_pb.NewLead) -> None:
        """One more, unless it was dealt with before."""
        if line <= self.told["line"]:
            return
        self._waiting.append((line, lead))
        self._size += lead.ByteSize()
        if len(self._waiting) >= LEADS_PER_CALL or self._size >= BATCH_BYTES:
            await self.send()

    async def send(self) -> None:
        """Let what waits go."""
        if not self._waiting:
            return
        if len(self._under_way) >= PARALLEL:
            await self.settle()
        batch, self._waiting, self._size = self._waiting, [], 0
        work = create_leads(self._deed.tiers["oltp"], self._deed.tenant_id, [lead for _, lead in batch])
        self._under_way.append((batch, self._group.create_task(work)))

    async def settle(self, *, all_: bool = False) -> None:
        """Wait for the first that is on its way, or for all; count, and tell."""
        while self._under_way:
            batch, task = self._under_way.popleft()
            for (line, lead), result in zip(batch, await task, strict=True):
                self._count(line, lead, result)
            self.told["line"] = batch[-1][0]
            self._deed.report(**self.told)
            if not all_:
                return

    def _count(self, line: int, lead: lead_pb.NewLead, result: lead_pb.CreateLeadResult) -> None:
        if result.WhichOneof("outcome") == "lead":
            self.told["created"] += 1
        elif result.error.reason == _EXISTS:
            self.told["existed"] += 1
        elif len(self.told["odd"]) < ODD_KEPT:
            told = _ERASED if result.error.reason == _FORGOTTEN else result.error.reason
            reason = errors_pb2.ErrorReason.Name(told).removeprefix("ERROR_REASON_")
            self.told["odd"].append([line, "email" if told == _ERASED else result.error.field[:80], reason])
        else:
            self.told["odd_more"] += 1


async def _create(deed: Deed) -> Mapping[str, Any]:
    """Every row that can be one. What the file itself forbids is counted anew in each reading, being the same in each."""
    rows, reasons = 0, Counter[str]()
    async with first_failure(), asyncio.TaskGroup() as group:
        creation = _Creation(deed, group)
        async with aclosing(_rows(deed)) as pieces:
            async for piece in pieces:
                for row in piece:
                    rows += 1
                    if row.lead is not None:
                        await creation.add(row.line, row.lead)
                    elif row.problem is not None:
                        reasons[row.problem.reason] += 1
        await creation.send()
        await creation.settle(all_=True)
    reasons.update(reason for _, _, reason in creation.told["odd"])
    # Rows of a file that is gone are not read again: those that were made count all the same.
    rows = max(rows, creation.told["created"] + creation.told["existed"] + reasons.total())
    return creation.told | {"rows": rows, "reasons": dict(reasons)}


async def _report(deed: Deed) -> Mapping[str, Any]:
    """What was left out, line by line, under the key that was minted for it; where all was taken there is nothing to keep."""
    report = await _told(deed)
    if await _there(deed):
        if not report.listed and not report.left_out:
            return {"listed": 0, "left_out": 0}
        try:
            await _put(deed, report)
        except TierError as error:
            # Who stored it first has stored it: of one file there is one report.
            if error.reason != "ALREADY_EXISTS":
                raise
        # An erasure takes the file before it looks for reports: one that came by meanwhile has missed this one.
        if await _there(deed):
            return _stored(deed, report)
    # What was read of it before it went, now or by whoever was at it before, may name whoever was erased with it.
    await files.drop(deed, deed.keys["report"])
    report = await _told(deed)
    await _put(deed, report)
    return _stored(deed, report)


async def _put(deed: Deed, report: Report) -> None:
    # Each try is another request: what it stores depends on whether the file still is.
    file, request_id = File("import-report.csv", CSV, report.data()), str(keys.new_id())
    await put_file(deed.tiers["content"], deed.tenant_id, deed.keys["report"], request_id, file, REPORT_KEPT)


def _stored(deed: Deed, report: Report) -> Mapping[str, Any]:
    return {"listed": report.listed, "left_out": report.left_out, "key": deed.keys["report"]}


async def _there(deed: Deed) -> bool:
    """Whether the file still is."""
    async with aclosing(_chunks(deed)) as chunks:
        try:
            async for _ in chunks:
                break
        except TierError as error:
            if error.reason != "NOT_FOUND":
                raise
            return False
    return True


async def _told(deed: Deed) -> Report:
    # One that was skipped has counted as far as it came.
    created: dict[str, Any] = {"odd": [], "odd_more": 0, **deed.results["create"]}
    report = Report()
    odd = deque(
        Problem(line, field, reason, _DETAILS.get(reason, "OLTP refused it")) for line, field, reason in created["odd"]
    )
    async with aclosing(_rows(deed)) as pieces:
        async for piece in pieces:
            for problem in (row.problem for row in piece if row.problem is not None):
                while odd and odd[0].line < problem.line:
                    report.add(odd.popleft())
                report.add(problem)
    for problem in odd:
        report.add(problem)
    report.left_out += created["odd_more"]
    return report


async def _drop_file(deed: Deed) -> None:
    """The file is people's data, and has been read."""
    await files.drop(deed, deed.input["key"])


IMPORT = Definition(
    "leads.import",
    1,
    (
        # Before it nothing is done but the file uploaded: a file that cannot be read is only removed.
        Step("check", "content", _check, _drop_file, pivot=True),
        Step("create", "oltp", _create),
        Step("report", "content", _report, mints={"report": keys.storage_key}),
        Step("clear", "content", _drop_file, tidies=True),
    ),
    # One file is read at a time; the next is looked through meanwhile.
    places=2,
)
