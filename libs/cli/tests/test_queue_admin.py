"""Queues as the command line shows them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from rich.console import RenderableType

from penguin.queue.v1 import queue_admin_service_pb2 as pb
from penguin.queue.v1 import queue_service_pb2 as jobs_pb
from penguin_cli.queue_admin_commands import rate_of, said_of, view


def test_depths_are_shown_with_ages_and_tenants(text_of: Callable[[RenderableType], str]) -> None:
    depths = pb.GetDepthsResponse(tenants=[pb.TenantDepth(tenant_id="t-1", waiting=1_000_000, leased=3)])
    row = depths.kinds.add(queue="default", kind="email.send", priority=jobs_pb.JOB_PRIORITY_LOW, ready=999_990, dead=7)
    row.oldest_ready_at.FromSeconds(1_000_000)
    depths.computed_at.FromSeconds(1_000_060)
    text = text_of(view(depths, 1_000_090.0))
    for said in ("email.send", "low", "999,990", "1,000,000", "t-1", "7", "counted at"):
        assert said in text


def test_no_jobs_are_said_to_be_none(text_of: Callable[[RenderableType], str]) -> None:
    assert "no jobs" in text_of(view(pb.GetDepthsResponse(), 0.0))


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (pb.PauseTarget(queue="mail"), "queue mail"),
        (pb.PauseTarget(kind="email.send"), "kind email.send"),
        (pb.PauseTarget(tenant=pb.TenantPause(tenant_id="t")), "tenant t"),
        (pb.PauseTarget(tenant=pb.TenantPause(tenant_id="t", kind="k")), "tenant t, kind k"),
    ],
)
def test_whose_jobs_rest(target: pb.PauseTarget, said: str) -> None:
    assert said_of(target) == said


@pytest.mark.parametrize(
    ("text", "jobs", "ms", "burst"), [("400/86400:20", 400, 86_400_000, 20), ("5/0.5", 5, 500, 0), ("1/1", 1, 1000, 0)]
)
def test_a_rate_is_read_as_it_is_written(text: str, jobs: int, ms: int, burst: int) -> None:
    rate = rate_of(text)
    assert (rate.jobs, rate.per.ToMilliseconds(), rate.burst) == (jobs, ms, burst)
