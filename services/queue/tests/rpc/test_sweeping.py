"""The sweep: what time brings does not wait for what follows from jobs that have left."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from libs.worker.tests.waiting import until
from services.queue.tests.conftest import Serve
from services.queue.tests.rpc.test_queues import Admin

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin_chassis.pool import database
from penguin_chassis.settings import PoolSettings
from penguin_queue.domain.jobs import Ready
from penguin_queue.store import wakes
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

    monkeypatch.setattr(wakes, "drain", drain)
    async with serve(await databases.clone("queue"), "") as client:
        admin = Admin(client, kind)

        async def broken() -> bool:
            return bool(tried)

        await until(broken, 10)
        soon = Timestamp()
        soon.FromDatetime(datetime.now(UTC) + timedelta(seconds=0.3))
        (job_id,) = await admin.enqueue(tenant, run_at=soon)
        assert [each.job.id for each in await admin.lease(wait_s=10)] == [job_id]


async def test_a_key_in_hand_delays_nobody_elses_time_and_nobody_who_waits_for_another(
    serve: Serve, databases: Databases, tenant: UUID, kind: str
) -> None:
    urls = await databases.clone("queue")
    async with (
        serve(urls, "") as client,
        database(PoolSettings(urls.app_url, urls.maintenance_url, max_size=2)) as db,
    ):
        admin, other = Admin(client, kind), Admin(client, f"{kind}.other")
        ids = await admin.enqueue(tenant, 2, ordering_key="k")
        theirs = await other.enqueue(uuid4(), 2, ordering_key="k")
        (leased,) = await admin.lease(1, wait_s=5)
        async with asyncio.timeout(10):
            # As by a process that was frozen while it enqueued under the key.
            async with db.maintenance() as connection:
                await connection.execute("SELECT pg_advisory_xact_lock(turn_lock($1, 'k'))", tenant)
                await admin.complete(leased)
                await other.complete(*await other.lease(1, wait_s=5))
                assert [each.job.id for each in await other.lease(1, wait_s=5)] == [theirs[1]]
                soon = Timestamp()
                soon.FromDatetime(datetime.now(UTC) + timedelta(seconds=0.2))
                later = await other.enqueue(uuid4(), run_at=soon)
                assert [each.job.id for each in await other.lease(1, wait_s=5)] == list(later)
                assert (await admin.get(tenant, ids[1])).state == pb.JOB_STATE_HELD
            assert [each.job.id for each in await admin.lease(1, wait_s=5)] == [ids[1]]
