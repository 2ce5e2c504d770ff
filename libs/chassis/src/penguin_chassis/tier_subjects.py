"""The part of TierService that is about people: erased, exported, kept by a legal hold; and about databases restored."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

from penguin.tier.v1 import erasure_pb2 as pb
from penguin_chassis import barrier, calls, restoring, subjects
from penguin_chassis.faults import AlreadyExists, InvalidArgument, NotFound
from penguin_chassis.mutations import now, step_of
from penguin_chassis.paging import next_token, page_size, page_start
from penguin_chassis.pool import Database
from penguin_chassis.server import State
from penguin_chassis.subjects import Order, SubjectDuties, SubjectRecord
from penguin_chassis.wire import stamp

FIRST = UUID(int=0)


class NoSubjects:
    """The duties of a tier that holds nothing of a person's but what every tier has."""

    def phases(self, order: Order) -> Sequence[subjects.Phase]:
        """Nothing of its own."""
        return ()

    async def export(self, tenant_id: UUID, address: str, storage_keys: Sequence[str]) -> AsyncIterator[SubjectRecord]:
        """Nothing."""
        nothing: tuple[SubjectRecord, ...] = ()
        for record in nothing:
            yield record


class SubjectMethods:
    """Erasure, export, legal holds and restores of one tier."""

    _tier: str
    _db: Database
    _state: State
    _subjects: SubjectDuties

    async def EraseSubject(self, request: pb.EraseSubjectRequest, context: Any) -> pb.EraseSubjectResponse:  # noqa: N802
        """Erase a page of what is a person's."""
        at = now()
        order = Order(
            UUID(request.tenant_id), UUID(request.erasure_id), request.subject, request.address.lower(), at,
            tuple(request.storage_keys), tuple(map(UUID, request.email_ids)), tuple(request.list_keys),
        )  # fmt: skip
        told = await subjects.erase(self._db, self._subjects, step_of(request, at=at), order, request.cursor)
        receipt = pb.ErasureReceipt(
            tier=self._tier, erasure_id=request.erasure_id, subject=request.subject, counts=told.counts,
            chain_head=request.chain_head, erased_at=stamp(told.at),
        )  # fmt: skip
        return pb.EraseSubjectResponse(receipt=receipt, mentions=map(mention, told.mentions), cursor=told.cursor)

    async def ExportSubject(  # noqa: N802
        self, request: pb.ExportSubjectRequest, context: Any
    ) -> AsyncIterator[pb.ExportSubjectResponse]:
        """Tell what is a person's."""
        keys = list(request.storage_keys)
        async for found in self._subjects.export(UUID(request.tenant_id), request.address.lower(), keys):
            yield pb.ExportSubjectResponse(table=found.table, key=found.key, record=found.record)
        # A stream whose time is over ends in good order too.
        yield pb.ExportSubjectResponse(complete=True)

    async def CountSubjectRows(  # noqa: N802
        self, request: pb.CountSubjectRowsRequest, context: Any
    ) -> pb.CountSubjectRowsResponse:
        """Count what is a person's."""
        counts: Counter[str] = Counter()
        async for found in self._subjects.export(UUID(request.tenant_id), request.address.lower(), ()):
            counts[found.table] += 1
        return pb.CountSubjectRowsResponse(counts=counts)

    async def CheckErasure(self, request: pb.CheckErasureRequest, context: Any) -> pb.CheckErasureResponse:  # noqa: N802
        """Whether a hold stands in the way."""
        async with self._db.tenant(UUID(request.tenant_id)) as connection:
            await subjects.check(connection, UUID(request.tenant_id), request.subject, list(request.storage_keys))
        return pb.CheckErasureResponse()

    async def PutLegalHold(self, request: pb.PutLegalHoldRequest, context: Any) -> pb.PutLegalHoldResponse:  # noqa: N802
        """Keep a subject or a key."""
        step = step_of(request)
        call = calls.current_call()
        if request.storage_keys and not request.subject:
            raise InvalidArgument("Keys are kept besides a person.", field="storage_keys")
        row = {
            "tenant_id": step.tenant_id, "id": UUID(request.id), "subject": request.subject,
            "storage_key": request.storage_key, "reason": request.reason,
            "actor": call.caller.actor if call else "", "created_at": step.at, "subject_key": request.subject_key,
        }  # fmt: skip
        async with self._db.tenant(step.tenant_id) as connection:
            done = await barrier.claim(connection, step, dict[str, str])
            if done is None:
                await connection.execute(subjects.sql.no_removals)
                if await connection.execute(subjects.sql.put_hold, *row.values()) != "INSERT 0 1":
                    raise AlreadyExists("A hold with this id exists.", field="id")
                if request.storage_keys:
                    put_keys = subjects.sql.put_hold_keys
                    await connection.execute(put_keys, step.tenant_id, row["id"], list(request.storage_keys))
                await barrier.record(connection, step, {"id": request.id}, dict[str, str])
            hold_id = UUID(request.id if done is None else done.reply["id"])
            row = await self._hold(connection, step.tenant_id, hold_id) or row | {"kept_keys": 0}
        return pb.PutLegalHoldResponse(hold=_hold(row))

    async def ExtendLegalHold(  # noqa: N802
        self, request: pb.ExtendLegalHoldRequest, context: Any
    ) -> pb.ExtendLegalHoldResponse:
        """Keep more keys by a hold."""
        step, hold_id = step_of(request), UUID(request.hold_id)
        async with self._db.tenant(step.tenant_id) as connection:
            if await barrier.claim(connection, step, bool) is None:
                await connection.execute(subjects.sql.no_removals)
                if await connection.fetchval(subjects.sql.hold_stands, step.tenant_id, hold_id) is None:
                    raise NotFound("legal_hold", request.hold_id, field="hold_id")
                await connection.execute(
                    subjects.sql.put_hold_keys, step.tenant_id, hold_id, list(request.storage_keys)
                )
                await barrier.record(connection, step, True, bool)
            row = await self._hold(connection, step.tenant_id, hold_id)
        return pb.ExtendLegalHoldResponse(hold=None if row is None else _hold(row))

    async def _hold(self, connection: Any, tenant_id: UUID, hold_id: UUID) -> Any:
        after = UUID(int=hold_id.int - 1)
        rows = await connection.fetch(subjects.sql.list_holds, tenant_id, after, 1)
        return rows[0] if rows and rows[0]["id"] == hold_id else None

    async def ListLegalHolds(  # noqa: N802
        self, request: pb.ListLegalHoldsRequest, context: Any
    ) -> pb.ListLegalHoldsResponse:
        """A page of holds."""
        size = page_size(request.page_size)
        after = page_start(request, lambda key: UUID(*key), FIRST)
        async with self._db.tenant(UUID(request.tenant_id)) as connection:
            rows = await connection.fetch(subjects.sql.list_holds, UUID(request.tenant_id), after, size + 1)
        more = next_token(request, [str(rows[size - 1]["id"])]) if len(rows) > size else ""
        return pb.ListLegalHoldsResponse(holds=map(_hold, rows[:size]), next_page_token=more)

    async def ReleaseLegalHold(  # noqa: N802
        self, request: pb.ReleaseLegalHoldRequest, context: Any
    ) -> pb.ReleaseLegalHoldResponse:
        """End a hold."""
        step = step_of(request)
        async with self._db.tenant(step.tenant_id) as connection:
            if await barrier.claim(connection, step, bool) is None:
                gone = await connection.fetchval(subjects.sql.release_hold, step.tenant_id, UUID(request.hold_id))
                if gone is None:
                    raise NotFound("legal_hold", request.hold_id, field="hold_id")
                await barrier.record(connection, step, True, bool)
        return pb.ReleaseLegalHoldResponse()

    async def MarkRestored(self, request: pb.MarkRestoredRequest, context: Any) -> pb.MarkRestoredResponse:  # noqa: N802
        """Begin another life of the database."""
        incarnation = await restoring.mark_restored(self._db, now())
        await self._state.incarnation.refresh(self._db)
        return pb.MarkRestoredResponse(incarnation=str(incarnation))

    async def NoteLedger(self, request: pb.NoteLedgerRequest, context: Any) -> pb.NoteLedgerResponse:  # noqa: N802
        """Note how far the ledger of erasures has come."""
        mark = restoring.Mark(request.ledger.sequence, request.ledger.head)
        noted = await restoring.note(self._db, request.known_sequence, mark, now())
        await self._state.incarnation.refresh(self._db)
        ledger = pb.LedgerMark(sequence=noted.sequence, head=noted.head)
        return pb.NoteLedgerResponse(ledger=ledger, restoring=self._state.incarnation.restoring)

    async def MarkReplayed(self, request: pb.MarkReplayedRequest, context: Any) -> pb.MarkReplayedResponse:  # noqa: N802
        """Let tenants in again."""
        mark = restoring.Mark(request.ledger.sequence, request.ledger.head)
        unreplayed = [UUID(each) for each in request.unreplayed_tenant_ids]
        await restoring.mark_replayed(self._db, UUID(request.incarnation), mark, unreplayed, now())
        await self._state.incarnation.refresh(self._db)
        return pb.MarkReplayedResponse()


def mention(found: subjects.Mention) -> pb.Mention:
    """A mention on the wire."""
    return pb.Mention(table=found.table, key=found.key, place=found.place)


def _hold(row: Any) -> pb.LegalHold:
    return pb.LegalHold(
        id=str(row["id"]), tenant_id=str(row["tenant_id"]), subject=row["subject"], storage_key=row["storage_key"],
        reason=row["reason"], actor=row["actor"], created_at=stamp(row["created_at"]), kept_keys=row["kept_keys"],
    )  # fmt: skip
