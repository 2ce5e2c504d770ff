"""What an enqueue may say of keys, ties and batches: a value outside the contract is refused, its field is named, and nothing
is stored. The methods' own cases name one field each."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from services.queue.tests.rows import batch_request, enqueue_request, new_job
from tests.contract.wire import Change, World, changed, method_at, right_token

from penguin.queue.v1 import queue_service_pb2 as pb

SERVICE = "penguin.queue.v1.QueueService"
LONG = "k" * 201
YEAR_S = 31_536_000


def unique(**fields: Any) -> Change:
    """The second job asks for a key so."""
    return lambda request: request.jobs[1].unique.MergeFrom(pb.UniqueKey(**{"key": "k"} | fields))


def second(name: str, value: Any) -> Change:
    """A field of the second job; a list is its values."""
    if isinstance(value, list):
        return lambda request: getattr(request.jobs[1], name).extend(value)
    return lambda request: setattr(request.jobs[1], name, value)


def callback(**fields: Any) -> Change:
    """The batch's callback is so."""
    right = {"kind": "test.over", "payload": b"{}"}
    return lambda request: request.batch.callback.MergeFrom(pb.BatchCallback(**right | fields))


def batch(**fields: Any) -> Change:
    """The batch is so."""
    return lambda request: request.batch.CopyFrom(pb.JobBatch(**fields))


ROWS: list[tuple[str, Change]] = [
    ("jobs[1].unique.key", unique(key=LONG)),
    ("jobs[1].unique.key", lambda request: request.jobs[1].unique.SetInParent()),
    ("jobs[1].unique.holds_while[0]", unique(holds_while=[pb.JOB_STATE_CANCELLED])),
    ("jobs[1].unique.holds_while[0]", unique(holds_while=[pb.JOB_STATE_UNSPECIFIED])),
    ("jobs[1].unique.holds_while", unique(holds_while=[pb.JOB_STATE_DEAD, pb.JOB_STATE_DEAD])),
    ("jobs[1].unique.holds_for", unique(holds_for=Duration())),
    ("jobs[1].unique.holds_for", unique(holds_for=Duration(seconds=-1))),
    ("jobs[1].unique.holds_for", unique(holds_for=Duration(seconds=YEAR_S + 1))),
    ("jobs[1].unique.on_conflict", unique(on_conflict=99)),
    ("jobs[1].kind", second("kind", LONG)),
    ("jobs[1].ordering_key", second("ordering_key", LONG)),
    ("jobs[1].rate_key", second("rate_key", LONG)),
    ("jobs[1].waits_for[1]", second("waits_for", [7, 0])),
    ("jobs[1].waits_for", second("waits_for", [7, 7])),
    ("jobs[1].waits_for", second("waits_for", list(range(1, 102)))),
    ("jobs[1].waits_for_items[0]", second("waits_for_items", [-1])),
    ("jobs[1].waits_for_items[0]", second("waits_for_items", [1000])),
    ("jobs[1].waits_for_items[1]", second("waits_for_items", [0, 1])),
    ("jobs[1].waits_for_items", second("waits_for_items", [0, 0])),
]
COLUMNS: list[tuple[str, Change]] = [
    ("ordering_key", lambda request: setattr(request, "ordering_key", LONG)),
    ("rate_key", lambda request: setattr(request, "rate_key", LONG)),
    ("batch.job", batch(more=True)),
    ("batch.callback_job_id", batch(callback_job_id=-1)),
    ("batch.callback_job_id", batch(callback_job_id=0)),
    ("batch.callback.kind", callback(kind="No Kind")),
    ("batch.callback.payload", callback(payload=b"[]")),
    ("batch.callback.payload", callback(payload=b"{" + b" " * 65_536 + b"}")),
    ("batch.callback.priority", callback(priority=99)),
    ("batch.callback.max_attempts", callback(max_attempts=101)),
    ("batch.callback.rank", callback(rank=-1001)),
]


async def stored(world: World) -> list[pb.Job]:
    """The tenant's jobs."""
    reply = await world.call(f"{SERVICE}/ListJobs", pb.ListJobsRequest(tenant_id=str(world.tenant)))
    return list(reply.jobs)


async def refused(world: World, method: str, request: Any, field: str) -> None:
    """It is refused for this field, and nothing came of it."""
    path = f"{SERVICE}/{method}"
    refusal = await world.refusal(path, request, right_token(world, method_at(path), request))
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD"), refusal
    assert field in refusal.fields
    assert await stored(world) == []


@pytest.mark.parametrize("tier", ["queue"])
@pytest.mark.parametrize(("field", "breaking"), ROWS)
async def test_a_bad_value_of_a_new_job_is_named(world: World, field: str, breaking: Change) -> None:
    right = enqueue_request(world.tenant, new_job(), new_job())
    await refused(world, "EnqueueJobs", changed(right, breaking), field)


@pytest.mark.parametrize("tier", ["queue"])
@pytest.mark.parametrize(("field", "breaking"), COLUMNS)
async def test_a_bad_value_of_a_batch_is_named(world: World, field: str, breaking: Change) -> None:
    await refused(world, "EnqueueBatch", changed(batch_request(world.tenant, "test.run"), breaking), field)


@pytest.mark.parametrize("tier", ["queue"])
async def test_the_greatest_values_are_taken(world: World) -> None:
    key = "k" * 200
    whole = pb.UniqueKey(
        key=key, holds_for=Duration(seconds=YEAR_S), on_conflict=pb.ON_CONFLICT_REPLACE,
        holds_while=[pb.JOB_STATE_READY, pb.JOB_STATE_LEASED, pb.JOB_STATE_COMPLETED, pb.JOB_STATE_DEAD],
    )  # fmt: skip
    tied = new_job(unique=whole, ordering_key=key, rate_key=key, waits_for_items=[0], run_if_failed=True)
    reply = await world.call(f"{SERVICE}/EnqueueJobs", enqueue_request(world.tenant, new_job(), tied))
    assert [result.WhichOneof("outcome") for result in reply.results] == ["job_id"] * 2
    request = changed(
        batch_request(world.tenant, "test.run", ordering_key=key, rate_key=key), callback(max_attempts=100, rank=1000)
    )
    first = await world.call(f"{SERVICE}/EnqueueBatch", request)
    assert first.callback_job_id > 0
    assert len(await stored(world)) == 5
