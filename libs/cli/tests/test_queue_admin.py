"""Queues as the command line shows them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import RenderableType
from typer.testing import CliRunner

from penguin.queue.v1 import queue_admin_service_pb2 as pb
from penguin.queue.v1 import queue_service_pb2 as jobs_pb
from penguin_cli import queue_admin_commands
from penguin_cli.app import build
from penguin_cli.queue_admin_commands import rate_of, said_of, view


def test_depths_are_shown_with_ages_and_tenants(text_of: Callable[[RenderableType], str]) -> None:
    depths = pb.GetDepthsResponse(tenants=[pb.TenantDepth(tenant_id="t-1", waiting=1_000_000, leased=3)])
    row = depths.kinds.add(queue="default", kind="email.send", priority=jobs_pb.JOB_PRIORITY_LOW, ready=999_990, dead=7)
    row.held = 4_321
    row.oldest_ready_at.FromSeconds(1_000_000)
    depths.computed_at.FromSeconds(1_000_060)
    depths.rates.add(kind="email.send", enqueued_per_second=812.25, dead_per_second=1.5, dead_letter_ratio=0.25)
    text = text_of(view(depths, 1_000_090.0))
    for said in (
        "email.send",
        "low",
        "999,990",
        "1,000,000",
        "t-1",
        "7",
        "counted at",
        "812.2",
        "1.5",
        "25.0%",
        "held",
        "4,321",
    ):
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


class FakeTier:
    """Queue as `connected` gives it: one answer, and what it was asked."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.asked = answer, list[Any]()

    def stub(self, _: Any) -> Any:
        return SimpleNamespace(PutQueue="PutQueue", ListQueues="ListQueues")

    async def insist(self, method: str, request: Any, *, deadline_s: float) -> Any:
        self.asked.append(request)
        return self.answer

    async def call(self, method: str, request: Any, **_: Any) -> Any:
        return await self.insist(method, request, deadline_s=0)


Run = Callable[..., str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run a command of `penguin queue` against a fake; what it prints."""

    def run(fake: FakeTier, *words: str) -> str:
        @contextlib.asynccontextmanager
        async def connected(root: Path) -> AsyncIterator[Any]:
            yield SimpleNamespace(tiers={"queue": fake})

        monkeypatch.setattr(queue_admin_commands, "connected", connected)
        result = CliRunner().invoke(build(), ["--root", str(tmp_path), "queue", *words], env={"COLUMNS": "250"})
        assert result.exit_code == 0, result.output
        return result.output

    return run


def test_a_queue_is_put_with_what_it_keeps(run: Run) -> None:
    fake = FakeTier(pb.PutQueueResponse())
    run(fake, "put", "mail")
    run(fake, "put", "mail", "--completed-retention", "1", "--dead-retention", "30", "--dead-letters", "discard")
    usual, own = [asked.queue for asked in fake.asked]
    assert (usual.completed_retention.seconds, usual.dead_retention.seconds) == (7 * 86400, 365 * 86400)
    assert (own.completed_retention.seconds, own.dead_retention.seconds) == (3600, 30 * 86400)
    assert (usual.dead_letters, own.dead_letters) == (pb.DEAD_LETTERS_KEEP, pb.DEAD_LETTERS_DISCARD)


def test_queues_are_listed_with_what_they_keep(run: Run) -> None:
    reply = pb.ListQueuesResponse(queues=[pb.Queue(name="brief"), pb.Queue(name="usual")])
    brief, usual = reply.queues
    brief.completed_retention.FromSeconds(3600)
    brief.dead_letters = pb.DEAD_LETTERS_DISCARD
    usual.completed_retention.FromSeconds(7 * 86400)
    usual.dead_retention.FromSeconds(30 * 86400)
    lines = {line.split()[0]: line for line in run(FakeTier(reply), "list").splitlines()}
    for name, words in (("brief", ("1 h", "discarded")), ("usual", ("7 d", "30 d"))):
        for said in words:
            assert said in lines[name]
