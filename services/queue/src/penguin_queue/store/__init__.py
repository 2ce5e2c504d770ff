"""Queue's stores: one method, one transaction, one fact. Named SQL stands in the .sql files beside."""

from __future__ import annotations

from datetime import timedelta

from penguin_chassis.housekeeping import Duty
from penguin_queue.store.retention import comb, keep_partitions

# The last word on a job that is done is known for a repeat for so long, or as long as the job's queue keeps it: workers
# repeat one within a lease.
REPEATS_KNOWN = timedelta(days=7)

DUTIES = (Duty("job_partitions", 3600.0, keep_partitions), Duty("job_retention", 3600.0, comb))
