"""A leased job: its trace, its lease, and what is said of it once."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from opentelemetry import trace

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin_worker.jobs import Job, Reject, Retry, Verdict, unpacked

PRODUCER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def job(**fields: object) -> Job:
    usual = Job(7, uuid4(), "email.send", {}, 3, time.monotonic() + 30, traceparent=PRODUCER)
    return replace(usual, **fields)  # type: ignore[arg-type]


def test_the_first_try_continues_its_producers_trace() -> None:
    context, links = job().origin()
    assert f"{trace.get_current_span(context).get_span_context().trace_id:032x}" == PRODUCER[3:35]
    assert links == []


@pytest.mark.parametrize("before", ["attempts", "lost_leases", "snoozes"])
def test_a_later_try_begins_a_trace_that_is_linked(before: str) -> None:
    context, links = job(**{before: 1}).origin()
    assert not trace.get_current_span(context).get_span_context().is_valid
    assert [f"{link.context.trace_id:032x}" for link in links] == [PRODUCER[3:35]]


def test_a_job_without_a_producer_begins_its_own() -> None:
    assert job(traceparent="").origin() == (None, [])


def test_a_lease_is_held_until_it_runs_out_or_is_lost() -> None:
    assert job().held
    assert not job(lost=True).held
    assert not job(lease_until=time.monotonic() - 0.01).held


def test_the_first_verdict_stands() -> None:
    said: list[Verdict] = []
    one = job(on_settled=lambda _, verdict: said.append(verdict))
    one.settle(Retry("smtp.451"))
    one.settle()
    assert [verdict and verdict.error for verdict in said] == ["smtp.451"]


@pytest.mark.parametrize("payload", [b"", b"not json", b"[1]", b'{"email_id": 7}'])
def test_a_payload_that_says_nothing_is_refused_by_its_handler(payload: bytes) -> None:
    lot = pb.LeasedJobs(tenant_id=str(uuid4()), kind="email.send", lease_token=3, job_ids=[7], payloads=[payload])
    (read,) = unpacked(lot, 0.0)
    with pytest.raises(Reject):
        read.uuid("email_id")


def test_columns_become_jobs_and_those_left_out_are_zeros() -> None:
    tenant = uuid4()
    lot = pb.LeasedJobs(
        tenant_id=str(tenant), kind="email.send", lease_token=3, job_ids=[7, 8], payloads=[b"{}", b"{}"]
    )
    lot.created_at_micros[:] = [1_000_000, 2_500_000]
    lot.attempts[:] = [0, 2]
    lot.max_attempts[:] = [10, 5]
    lot.traceparents[:] = [PRODUCER]
    first, second = unpacked(lot, 9.0)
    assert (first.id, first.tenant_id, first.lease_token, first.lease_until, first.attempts) == (7, tenant, 3, 9.0, 0)
    assert (second.id, second.attempts, second.max_attempts, second.snoozes, second.lost_leases) == (8, 2, 5, 0, 0)
    assert (first.traceparent, second.traceparent) == (PRODUCER, PRODUCER)
    assert second.created_at == datetime(1970, 1, 1, 0, 0, 2, 500_000, tzinfo=UTC)
    lot.traceparents[:] = []
    assert unpacked(lot, 9.0)[0].traceparent == ""


def test_one_payload_that_says_nothing_takes_nothing_from_the_others() -> None:
    payloads = [b'{"n": 1}', b"", b"not json", b"7", b'{"n": 2}']
    lot = pb.LeasedJobs(tenant_id=str(uuid4()), kind="x", lease_token=3, job_ids=range(1, 6), payloads=payloads)
    said: list[int] = []
    jobs = unpacked(lot, 0.0, lambda each, _: said.append(each.id))
    assert [each.payload for each in jobs] == [{"n": 1}, {}, {}, {}, {"n": 2}]
    jobs[4].settle()
    assert said == [5]
    # As its class has it, and like any other that was made by its fields.
    assert (jobs[0].cancel, jobs[0].lost, jobs[0].result, jobs[0].untold(0.0)) == (None, False, "", None)
    assert replace(jobs[1], id=9).created_at == datetime(1970, 1, 1, tzinfo=UTC)
    with pytest.raises(AttributeError):
        _ = jobs[0].nowhere  # type: ignore[attr-defined]


def test_what_is_settled_is_no_longer_held() -> None:
    one = job()
    one.settle()
    assert not one.held


def test_an_effect_has_one_key_at_every_attempt() -> None:
    first = job()
    later = replace(first, attempts=3, lease_token=99)
    assert first.effect_key("invoice") == later.effect_key("invoice")
    assert first.effect_key("invoice") != first.effect_key("letter")
    assert first.effect_key("invoice") != replace(first, id=8).effect_key("invoice")
