"""Waits in leases: how many were granted to others between a job's being ready and its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from penguin_worker.jobs import Job


@dataclass
class Rounds:
    """Leases granted, as they come to be seen by the workers, who are all ours: each has a token of its own. What is on its
    way to us when a job is acknowledged counts as granted later, so waits come out too long rather than too short."""

    seen: dict[int, int] = field(default_factory=dict)
    # By tenant and number: how many there had been when a job was acknowledged; None where it had come before.
    stored_at: dict[tuple[UUID, int], int | None] = field(default_factory=dict)
    waited: list[float] = field(default_factory=list)

    def granted(self, token: int) -> int:
        """The number of a lease, in order."""
        return self.seen.setdefault(token, len(self.seen))

    def stored(self, tenant: UUID, number: int) -> None:
        """A job is acknowledged: from now on it is ready."""
        if self.stored_at.pop((tenant, number), 0) is None:
            self.waited.append(0.0)
        else:
            self.stored_at[tenant, number] = len(self.seen)

    def leased(self, job: Job) -> None:
        """It has come: how many leases were granted between."""
        own, key = self.granted(job.lease_token), (job.tenant_id, int(job.payload["number"]))
        before = self.stored_at.pop(key, None)
        if before is None:
            self.stored_at[key] = None
        else:
            self.waited.append(float(max(0, own - before)))
