"""What is done for one person: erased from every tier, or all that is held of them exported, which is on record; and erasures
done again after a restore."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from penguin.oltp.v1 import subject_service_pb2 as pb
from penguin.oltp.v1.subject_service_pb2_grpc import SubjectServiceStub
from penguin.tier.v1 import erasure_pb2 as tier_pb
from penguin.tier.v1.tier_service_pb2_grpc import TierServiceStub
from penguin_orchestrator import keys
from penguin_orchestrator.blobs import File, drop_file, put_file
from penguin_orchestrator.clients import DEADLINE_S, Tier
from penguin_orchestrator.erasure_ledger import ERASE, ERASED, WITHDRAWN, Entry, ErasureLedger, LedgerError, ended
from penguin_orchestrator.erasure_receipts import digest
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.replaying import Replay, Replayed, erasures, holds, restoring
from penguin_orchestrator.sagas.carrying import PATIENCE_S, Progress, SagaError, Sagas, SagaUnfinishedError
from penguin_orchestrator.sagas.definition import ACTION
from penguin_orchestrator.sagas.exports import EXPORT, KEPT, Exported, items, records, stored
from penguin_orchestrator.sagas.journal import Held
from penguin_orchestrator.sagas.subjects import KIND, PAGE, TIERS

# Tiers that keep what stands under keys, and how many keys one part of a hold names.
KEY_TIERS = ("oltp", "content")
KEYS_A_PART = 10_000
# Parts that a hold has at most: ids that are this near to each other are of one hold.
PARTS = 10_000


class Subjects:
    """People of tenants, by their addresses."""

    def __init__(self, tiers: Mapping[str, Tier], sagas: Sagas, ledger: ErasureLedger | None) -> None:
        self._tiers = tiers
        self._sagas = sagas
        self._ledger = ledger

    @property
    def ledger(self) -> ErasureLedger:
        """The ledger of erasures; raises LedgerError where this process has none."""
        if self._ledger is None:
            raise LedgerError(
                "there is no ledger: ERASURE_LEDGER_PATH, ERASURE_LEDGER_COPY_PATH and ERASURE_LEDGER_KEY_PATH name it"
            )
        return self._ledger

    async def erase(self, tenant_id: UUID, address: str, *, progress: Progress | None = None) -> pb.Erasure:
        """Erase a person from every tier. An erasure of theirs that is under way is joined.

        Raises LedgerError (nothing done), TierError (LEGAL_HOLD: nothing erased), SagaError (it goes on by itself).
        """
        ledger = self.ledger
        subject = ledger.subject(tenant_id, address)
        order = Entry(ERASE, keys.new_id(), tenant_id, subject, datetime.now(UTC), address.lower())
        await asyncio.to_thread(ledger.append, order)
        held = await self._carried_out(order, progress)
        erasure_id = str(held.input["erasure_id"])
        async for erasure in self.erasures(tenant_id):
            if erasure.id == erasure_id:
                return erasure
        raise LookupError(erasure_id)

    async def _carried_out(self, order: Entry, progress: Progress | None) -> Held:
        """Begin an order's saga, or join the one that stands. The order is withdrawn where no saga of its own will carry it out:
        what was refused is not to be replayed, and another's order stands in the ledger itself."""
        stood: list[Held] = []
        try:
            held = await self._sagas.carry_out(
                KIND, order.tenant_id, {"erasure_id": str(order.erasure_id)}, saga_id=order.erasure_id,
                subject=order.subject, progress=progress, begun=stood.append,
            )  # fmt: skip
        except TierError as error:
            # With an unknown outcome it may have begun, and goes on by itself.
            if stood or not error.outcome_unknown:
                await self._withdraw_unless_carried(order, stood)
            raise
        except SagaError as error:
            await self._withdraw_unless_carried(order, [error.held])
            raise
        await self._withdraw_unless_carried(order, [held])
        return held

    async def _withdraw_unless_carried(self, order: Entry, held: Sequence[Held]) -> None:
        """An order whose own saga stands is that saga's to withdraw."""
        if all(each.id != order.erasure_id for each in held):
            await asyncio.to_thread(self.ledger.append, ended(order, WITHDRAWN))

    async def erasures(self, tenant_id: UUID) -> AsyncIterator[pb.Erasure]:
        """What was erased, with the tiers' receipts; raises TierError."""
        async for erasure in erasures(self._tiers["oltp"], tenant_id):
            yield erasure

    async def verify(self, tenant_id: UUID, *, unbound: Callable[[str], object] | None = None) -> list[str]:
        """What of a tenant's receipts does not agree with the ledger, or is somebody's word in a tier's place; nothing where all do.
        `unbound` is told erasures whose receipts the ledger has no digest of, as they are from before it kept one: what these count
        is OLTP's word. Raises LedgerError, TierError."""
        await asyncio.to_thread(self.ledger.verify)
        # OLTP before records are looked up: what it has receipts of is in the ledger by then, and bound.
        recorded = {erasure.id: erasure async for erasure in self.erasures(tenant_id)}
        orders = {str(order.erasure_id): order for order, _ in await asyncio.to_thread(self.ledger.orders)}
        orders = {key: order for key, order in orders.items() if order.tenant_id == tenant_id}
        bound = await asyncio.to_thread(self.ledger.bound)
        since = min(
            (e.sequence for e in await asyncio.to_thread(self.ledger.entries) if e.kind == ERASED), default=None
        )
        faults: list[str] = []
        for key, erasure in recorded.items():
            order = orders.get(key)
            if order is None:
                faults.append(f"{key}: receipts of what the ledger does not have")
                continue
            faults += self._disagreeing(erasure, order)
            digests = bound.get(order.erasure_id, [])
            if digest(erasure) in digests:
                continue
            if digests and all(digests):
                faults.append(f"{key}: the receipts are not those that were given")
            elif not digests and since is not None and order.sequence > since:
                faults.append(f"{key}: receipts of what the ledger does not say was carried out")
            elif unbound is not None:
                unbound(key)
        return faults + [f"{each}: ordered, and without receipts" for each in orders if each not in recorded]

    def _disagreeing(self, erasure: pb.Erasure, order: Entry) -> list[str]:
        """What of an erasure's receipts does not agree with its order, or was said by nobody who did it."""
        faults: list[str] = []
        if erasure.subject != order.subject or order.subject != self.ledger.subject(order.tenant_id, order.address):
            faults.append(f"{erasure.id}: the receipts are another subject's")
        if {receipt.tier for receipt in erasure.receipts} != set(TIERS):
            faults.append(f"{erasure.id}: not every tier gave a receipt")
        if any(receipt.chain_head != order.digest for receipt in erasure.receipts):
            faults.append(f"{erasure.id}: a receipt names another record of the ledger")
        skipped = [receipt for receipt in erasure.receipts if receipt.skipped_by]
        return faults + [f"{erasure.id}: {each.tier} was skipped by {each.skipped_by}" for each in skipped]

    async def export(
        self, tenant_id: UUID, address: str, *, begun: Callable[[UUID], None] | None = None,
        patience_s: float = PATIENCE_S,
    ) -> UUID:  # fmt: skip
        """Have all that the tiers hold of a person put into files, for `exported` to fetch; returns the export's id. It is on
        record who had it exported. `begun` is told the id as soon as any process can finish it.

        Raises LedgerError and TierError (nothing is exported), SagaError (SagaUnfinishedError: it goes on by itself).
        """
        content, order = self._tiers["content"], keys.storage_key()
        export_id = await self._on_record(tenant_id, address)
        file = File("order.txt", "text/plain", address.lower().encode())
        await put_file(content, tenant_id, order, str(keys.new_id()), file, KEPT, as_platform=True)

        def stands(held: Held) -> None:
            if begun is not None:
                begun(held.id)

        try:
            await self._sagas.carry_out(
                EXPORT.kind, tenant_id, {"order": order}, saga_id=export_id, begun=stands, patience_s=patience_s
            )
        except TierError as error:
            if not error.outcome_unknown:
                await drop_file(content, tenant_id, order, as_platform=True)
            raise
        return export_id

    async def resume_export(self, tenant_id: UUID, export_id: UUID) -> None:
        """Go on with an export, or wait for whoever does; raises TierError (NOT_FOUND), SagaError."""
        await self._sagas.join(EXPORT.kind, tenant_id, export_id)

    async def exported(self, tenant_id: UUID, export_id: UUID) -> AsyncIterator[Exported]:
        """What an export found, and why a tier's part of it is not (any more) to be had. Raises TierError (NOT_FOUND: there is no
        such export), SagaUnfinishedError."""
        held = await self._sagas.find(EXPORT.kind, tenant_id, export_id)
        if held.state != "succeeded":
            raise SagaUnfinishedError(held)
        for tier in TIERS:
            made = held.results[tier]
            skipped = held.records[tier, ACTION].state == "skipped"
            missing = "SKIPPED" if skipped else made.get("missing", "")
            try:
                if "key" in made:
                    async for record in stored(self._tiers["content"], tenant_id, made["key"]):
                        yield record
            except TierError as error:
                missing = f"{error.code.name} {error.reason}"
            if missing:
                yield Exported(tier, "", "", b"", missing)

    async def drop_export(self, tenant_id: UUID, export_id: UUID) -> None:
        """Remove an export's files: they have been fetched. Raises TierError."""
        held = await self._sagas.find(EXPORT.kind, tenant_id, export_id)
        for key in (made["key"] for made in held.results.values() if "key" in made):
            await drop_file(self._tiers["content"], tenant_id, key, as_platform=True)

    async def tell(self, tenant_id: UUID, address: str) -> AsyncIterator[Exported]:
        """All that the tiers hold of a person, as it is read, and kept nowhere; where one is away, that is said in place of its
        records. It is on record who was told. Raises LedgerError and TierError where it cannot be: then nothing is told."""
        await self._on_record(tenant_id, address)
        storage_keys: list[str] = []
        try:
            storage_keys = [item.storage_key async for item in items(self._tiers["oltp"], tenant_id, address)]
        except TierError as error:
            yield Exported("content", "", "", b"", f"which contents are theirs is not known: oltp {error.reason}")
        for tier in TIERS:
            try:
                async for record in records(self._tiers, tier, tenant_id, address, storage_keys):
                    yield record
            except TierError as error:
                yield Exported(tier, "", "", b"", f"{error.code.name} {error.reason}")

    async def exports(self, tenant_id: UUID, address: str = "") -> AsyncIterator[pb.SubjectExport]:
        """Who had whose data exported, or this person's; raises TierError, and LedgerError for a person's."""
        request = pb.ListExportsRequest(tenant_id=str(tenant_id), page_size=PAGE)
        if address:
            request.subject = self.ledger.subject(tenant_id, address)
        method = self._tiers["oltp"].stub(SubjectServiceStub).ListExports
        while True:
            page = await self._tiers["oltp"].call(method, request)
            for export in page.subject_exports:
                yield export
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def _on_record(self, tenant_id: UUID, address: str) -> UUID:
        """Say who is about to be told of whom, before anything is read; returns the export's id."""
        export_id, oltp = keys.new_id(), self._tiers["oltp"]
        request = pb.RecordExportRequest(
            tenant_id=str(tenant_id), request_id=str(keys.new_id()), export_id=str(export_id),
            subject=self.ledger.subject(tenant_id, address),
        )  # fmt: skip
        await oltp.insist(oltp.stub(SubjectServiceStub).RecordExport, request, deadline_s=DEADLINE_S)
        return export_id

    async def hold(self, tenant_id: UUID, reason: str, *, address: str = "", key: str = "") -> UUID:
        """Keep a person, or what stands under a key, in every tier; returns the hold's id once each has it.

        The keys that OLTP knows to be the person's by now are kept by name; of those that come later it tells Content. Raises
        TierError: then nothing is promised, and what was told already stays until it is released.
        """
        hold_id = keys.new_id()
        if key:
            for tier in KEY_TIERS:
                await self._put(tier, _held(tenant_id, hold_id, reason, storage_key=key))
            return hold_id
        subject, subject_key = self.ledger.subject(tenant_id, address), self.ledger.subject_key(tenant_id)
        theirs = await self._keys(tenant_id, address)
        parts = [theirs[n : n + KEYS_A_PART] for n in range(0, len(theirs), KEYS_A_PART)] or [[]]
        # OLTP last: what is written once it knows it tells the others of, who must know of the hold by then.
        for tier in reversed(TIERS):
            known = {"subject_key": subject_key} if tier == "oltp" else {}
            for number, part in enumerate(parts if tier in KEY_TIERS else [[]]):
                part_id = _part(hold_id, number)
                await self._put(tier, _held(tenant_id, part_id, reason, subject=subject, storage_keys=part, **known))
        await self._extend(tenant_id, hold_id, sorted({*await self._keys(tenant_id, address)}.difference(theirs)))
        return hold_id

    async def _keys(self, tenant_id: UUID, address: str) -> list[str]:
        """The keys of a person's contents, as OLTP knows them."""
        found = items(self._tiers["oltp"], tenant_id, address)
        return sorted({item.storage_key async for item in found if item.storage_key})

    async def _extend(self, tenant_id: UUID, hold_id: UUID, storage_keys: list[str]) -> None:
        """Keep what came between the look and the hold."""
        for n in range(0, len(storage_keys), KEYS_A_PART):
            for tier in KEY_TIERS:
                here = self._tiers[tier]
                request = tier_pb.ExtendLegalHoldRequest(
                    tenant_id=str(tenant_id), request_id=str(keys.new_id()), hold_id=str(hold_id),
                    storage_keys=storage_keys[n : n + KEYS_A_PART],
                )  # fmt: skip
                await here.insist(here.stub(TierServiceStub).ExtendLegalHold, request, deadline_s=DEADLINE_S)

    async def release(self, tenant_id: UUID, hold_id: UUID) -> None:
        """End a hold in every tier that has it; raises TierError (NOT_FOUND: none has)."""
        ended = [await self._released(tier, tenant_id, hold_id) for tier in TIERS]
        missing = [error for error in ended if error is not None]
        if len(missing) == len(TIERS):
            raise missing[0]

    async def _put(self, tier: str, request: tier_pb.PutLegalHoldRequest) -> None:
        here = self._tiers[tier]
        await here.insist(here.stub(TierServiceStub).PutLegalHold, request, deadline_s=DEADLINE_S)

    async def _released(self, tier: str, tenant_id: UUID, hold_id: UUID) -> TierError | None:
        """End the tier's parts of a hold, the first one last: as long as any stands whoever goes on finds it. Why there was none to
        end."""
        here = self._tiers[tier]
        parts = [UUID(each.id) async for each in self.holds(tier, tenant_id)]
        parts = [each for each in parts if 0 <= each.int - hold_id.int < PARTS] or [hold_id]
        missing: TierError | None = None
        for part in sorted(parts, reverse=True):
            request = tier_pb.ReleaseLegalHoldRequest(
                tenant_id=str(tenant_id), request_id=str(keys.new_id()), hold_id=str(part)
            )
            try:
                await here.insist(here.stub(TierServiceStub).ReleaseLegalHold, request, deadline_s=DEADLINE_S)
            except TierError as error:
                if error.reason != "NOT_FOUND":
                    raise
                missing = error
        return missing

    async def holds(self, tier: str, tenant_id: UUID) -> AsyncIterator[tier_pb.LegalHold]:
        """A tier's holds."""
        async for hold in holds(self._tiers[tier], tenant_id):
            yield hold

    async def mark_restored(self, tier: str) -> str:
        """Say that a tier's database was restored: it serves no tenant until erasures are replayed. Returns its incarnation."""
        here = self._tiers[tier]
        reply = await here.call(here.stub(TierServiceStub).MarkRestored, tier_pb.MarkRestoredRequest())
        return str(reply.incarnation)

    async def restoring(self) -> dict[str, str]:
        """Tiers that wait for a replay, or with a tenant that does, with their incarnations. Raises TierError where one does not
        answer, LedgerError where the ledger lacks what one was told of."""
        return await restoring(self._tiers, self._ledger)

    async def replay(self, *, progress: Callable[[Replayed], Any] | None = None) -> Replayed:
        """Carry every erasure of the ledger out again, and let the tiers in that waited for it. What a legal hold keeps, or
        waits for somebody's decision, is told. Raises LedgerError (no tier is let in), TierError, SagaError: to be called again."""
        return await Replay(self._tiers, self._sagas, self.ledger).run(progress=progress)


def _held(tenant_id: UUID, hold_id: UUID, reason: str, **on: Any) -> tier_pb.PutLegalHoldRequest:
    return tier_pb.PutLegalHoldRequest(
        tenant_id=str(tenant_id), request_id=str(keys.new_id()), id=str(hold_id), reason=reason, **on
    )


def _part(hold_id: UUID, number: int) -> UUID:
    """The id of a part of a hold: those of one hold follow each other."""
    return UUID(int=hold_id.int + number)
