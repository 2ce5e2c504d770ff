"""Leads from a file: into Content first, then by a saga that any process can go on with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import orjson

from penguin_orchestrator import blobs, keys, leadfiles
from penguin_orchestrator.blobs import File, drop_file, put_file
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.leadrecords import LeadFileError
from penguin_orchestrator.sagas.carrying import Sagas, SagaUnfinishedError
from penguin_orchestrator.sagas.journal import Held
from penguin_orchestrator.sagas.leads import CSV, FILE_KEPT

__all__ = ["ImportedLeads", "LeadFileError", "Leads"]

KIND = "leads.import"
# How long an outage is ridden out before the caller is told that the import goes on by itself (seconds).
DEADLINE_S = 120.0
FILENAME_LENGTH = 200
Progress = Callable[[int, int], None]


@dataclass
class ImportedLeads:
    """What an import did: `rows` of the file, each created, there before (in its list), or left out for one of `reasons`."""

    saga_id: UUID
    rows: int = 0
    created: int = 0
    existed: int = 0
    left_out: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    encoding: str = ""

    @classmethod
    def of(cls, held: Held) -> ImportedLeads:
        """From the journal of a saga that has ended."""
        # Of a step that was skipped, what had come of it.
        made: dict[str, Any] = {"rows": 0, "created": 0, "existed": 0, "reasons": {}, **held.results["create"]}
        form: dict[str, Any] = {"encoding": "", **held.results["check"]}
        left_out = made["rows"] - made["created"] - made["existed"]
        return cls(
            held.id, made["rows"], made["created"], made["existed"], left_out, dict(made["reasons"]), form["encoding"]
        )


class Leads:
    """Imports leads for any tenant."""

    def __init__(self, content: Tier, sagas: Sagas) -> None:
        self._content = content
        self._sagas = sagas

    async def import_file(
        self, tenant_id: UUID, data: bytes, audience: str, *, columns: Mapping[str, str] | None = None,
        filename: str = "leads.csv", begun: Callable[[UUID], None] | None = None, progress: Progress | None = None,
    ) -> ImportedLeads:  # fmt: skip
        """Import a CSV file into a list. The same file into the same list, while that is under way, is the same import;
        later it adds what is missing.

        `columns`: fields by column, for columns that are not called as they should be. `begun` is told the saga's id as
        soon as any process can finish it, `progress` the line that is reached and the lines there are. Raises LeadFileError
        (nothing is done), TierError, SagaError.
        """
        columns = dict(columns or {})
        leadfiles.survey(data, columns, audience)
        key, saga_id = keys.storage_key(), keys.new_id()
        file = File(filename[:FILENAME_LENGTH], CSV, data)
        await put_file(self._content, tenant_id, key, str(keys.new_id()), file, FILE_KEPT)
        same = hashlib.sha256(orjson.dumps([audience, sorted(columns.items())]) + hashlib.sha256(data).digest())
        input_ = {"list": audience, "key": key, "columns": columns}
        standing: list[Held] = []

        def stands(held: Held) -> None:
            standing.append(held)
            if begun is not None:
                begun(held.id)

        try:
            held = await self._sagas.carry_out(
                KIND, tenant_id, input_, subject=same.hexdigest(), saga_id=saga_id, patience_s=DEADLINE_S,
                begun=stands, progress=_told(progress),
            )  # fmt: skip
        finally:
            if standing and standing[0].input["key"] != key:
                await drop_file(self._content, tenant_id, key)
        return ImportedLeads.of(held)

    async def resume(self, tenant_id: UUID, saga_id: UUID, *, progress: Progress | None = None) -> ImportedLeads:
        """Go on with an import, or wait for whoever does; raises as `import_file`."""
        held = await self._sagas.join(KIND, tenant_id, saga_id, patience_s=DEADLINE_S, progress=_told(progress))
        return ImportedLeads.of(held)

    async def report(self, tenant_id: UUID, saga_id: UUID) -> bytes:
        """What an import left out, as CSV. Raises SagaUnfinishedError until it is made, and TierError (NOT_FOUND where there is
        no such import, or its report has had its time)."""
        held = await self._sagas.find(KIND, tenant_id, saga_id)
        made = held.results.get("report")
        if made is None:
            raise SagaUnfinishedError(held)
        if "key" not in made:
            return leadfiles.Report().data()
        return await blobs.download_attachment(self._content, tenant_id, made["key"], 0)


def _told(progress: Progress | None) -> Callable[[Mapping[str, Any]], None]:
    def told(so_far: Mapping[str, Any]) -> None:
        if progress is not None and "line" in so_far:
            progress(so_far["line"], so_far["lines"])

    return told
