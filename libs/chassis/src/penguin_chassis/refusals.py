"""Refusals that stand. A saga that takes what a step was refused for as final undoes the rest; a copy of the refused call that
is still on its way must not be carried out behind its back, when the state has come to allow it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penguin_chassis import barrier
from penguin_chassis.errors import as_fault

if TYPE_CHECKING:
    from penguin_chassis.barrier import Step
    from penguin_chassis.pool import Database

# What may be answered otherwise next time, and is asked for again; a defect of ours among it, which may have its cause in passing
# or be mended. A saga must read as final what is kept, and nothing else.
PASSING = frozenset(
    {"aborted", "deadline_exceeded", "internal", "resource_exhausted", "unauthenticated", "unavailable"}
)


class Refusals:
    """Keeps refusals at the step barrier of a tier's database."""

    def __init__(self) -> None:
        self._db: Database | None = None

    def of(self, db: Database) -> None:
        """Name the database. What has none, as a test's server, keeps none."""
        self._db = db

    async def final(self, step: Step, error: Exception) -> Exception:
        """What the caller of a step that ended in `error` is to be told, once that stands.

        Raises Unavailable, DeadlineExceeded: it could not be kept, and whoever asks again is answered anew.
        """
        fault = as_fault(error)
        if self._db is None or fault is None or fault.kind in PASSING:
            return error
        async with self._db.tenant(step.tenant_id) as connection:
            told = await barrier.refuse(connection, step, fault)
        return error if told is fault else told
