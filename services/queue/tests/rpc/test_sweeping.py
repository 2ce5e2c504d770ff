"""The sweep: what time brings does not wait for what follows from jobs that have left."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from libs.worker.tests.waiting import until
from services.queue.tests.conftest import Serve
from services.queue.tests.rpc.test_queues import Admin

from penguin_queue.domain.jobs import Ready
from penguin_queue.store import leases
from penguin_testkit.databases import Databases


class Broken(Exception):
    """Wakes cannot be seen to."""


async def test_scheduled_jobs_and_lost_leases_come_back_whatever_becomes_of_wakes(
    serve: Serve, databases: Databases, tenant: UUID, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    async def drain(*_: Any) -> tuple[list[Ready], bool]:
        tried.append(1)
        raise Broken

    monkeypatch.setattr(leases, "drain", drain)
    async with serve(await databases.clone("queue"), "") as client:
        admin = Admin(client, kind)

        async def broken() -> bool:
            return bool(tried)

        await until(broken, 10)
        soon = Timestamp()
        soon.FromDatetime(datetime.now(UTC) + timedelta(seconds=0.3))
        (job_id,) = await admin.enqueue(tenant, run_at=soon)
        assert [each.job.id for each in await admin.lease(wait_s=10)] == [job_id]
