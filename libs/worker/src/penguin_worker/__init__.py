"""Runs jobs of the Queue tier: a library for writing workers, and the platform's own (SMTP sending, ETL, campaign completion).

A worker is functions by kind. Each gets its job and, read as the type it asks for, its payload:

```python
from penguin_orchestrator.platform import Penguin
from penguin_worker.config import WorkerConfig
from penguin_worker.jobs import Job
from penguin_worker.kinds import Kinds
from penguin_worker.leasing import Worker

kinds = Kinds()

@kinds.on("report.build", Report, limit=4, timeout_s=60)
async def build(job: Job, report: Report) -> None:
    await reports.build(report.report_id, request_id=job.effect_key("build"))

async def main(stopped: asyncio.Event) -> None:
    async with Penguin.connect() as penguin:
        await Worker(penguin.tiers["queue"], WorkerConfig()).run(kinds, stopped)
```

Returning is done; a returned text, or `Done(result=…)`, says where to find what came of it. Raising says what else it is
(`jobs`): Retry, Snooze, Away, Release or Reject; any other exception is a defect and costs an attempt. A long handler tells how
far it has come by `job.progress(done, total, note)`. Jobs come at least once: bring effects about under `Job.effect_key`, which
stays the same from attempt to attempt, or, in a database of your own, within `effects.once`, a layer that has them applied once
and keeps late attempts out. A function that blocks goes through `threads.in_thread`; what stands around every handler is a
layer of `middleware`. Handlers that end without waiting share a task; from its first wait on, one has its task to itself. A
lease is kept for as long as its handler runs; when it is lost all the same, the handler is cancelled.
"""
