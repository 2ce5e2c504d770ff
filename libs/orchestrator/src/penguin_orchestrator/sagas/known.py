"""Every definition that this version knows. One that has been begun anywhere stays until none of it is left."""

from __future__ import annotations

from penguin_orchestrator.erasure_ledger import ErasureLedger
from penguin_orchestrator.sagas.campaigns import CANCEL, LAUNCH, PAUSE, RESUME
from penguin_orchestrator.sagas.definition import Registry
from penguin_orchestrator.sagas.exports import EXPORT
from penguin_orchestrator.sagas.leads import IMPORT
from penguin_orchestrator.sagas.subjects import Erasing
from penguin_orchestrator.sagas.tenants import CLOSE, ONBOARD

KNOWN = Registry((ONBOARD, CLOSE, LAUNCH, RESUME, PAUSE, CANCEL, IMPORT, EXPORT))


def known(ledger: ErasureLedger | None) -> Registry:
    """All that a process knows: to erase people it must have the ledger. Without, such sagas wait for one that has."""
    return KNOWN if ledger is None else Registry((*KNOWN, Erasing(ledger).definition()))
