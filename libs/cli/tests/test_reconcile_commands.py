"""`penguin reconcile`: what each command asks for, and how it tells the receipt. Fakes stand where the tiers would."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from typer.testing import CliRunner, Result

from penguin.oltp.v1 import reconcile_service_pb2 as pb
from penguin_cli import reconcile_commands
from penguin_cli.app import build
from penguin_orchestrator.reconciling.receipts import Terms

TENANT = str(uuid4())
RUN = pb.ReconcileRun(
    id=str(uuid4()), status=pb.RECONCILE_STATUS_FINISHED, started_at=Timestamp(seconds=1_772_366_400),
    terms=pb.ReconcileTerms(apply=True, grace=Duration(seconds=604800), cap=1000),
    counts={"found.orphans": 50, "found.dangling": 0, "quarantined": 50},
)  # fmt: skip


class FakeTiers:
    """The receipts, and a reconciler that remembers its terms."""

    def __init__(self, run: pb.ReconcileRun) -> None:
        self.answer = run
        self.terms: Terms | None = None

    def stub(self, _: Any) -> Any:
        names = pb.DESCRIPTOR.services_by_name["ReconcileService"].methods_by_name
        return SimpleNamespace(**{name: name for name in names})

    async def insist(self, method: str, request: Any, *, deadline_s: float) -> Any:
        finding = pb.ReconcileFinding(tenant_id=TENANT, kind="dangling", subject="k/1", source="oltp.emails")
        return {
            "ListReconcileRuns": pb.ListReconcileRunsResponse(runs=[self.answer]),
            "GetReconcileRun": pb.GetReconcileRunResponse(run=self.answer),
            "ListReconcileFindings": pb.ListReconcileFindingsResponse(findings=[finding]),
        }[method]

    async def run(self, terms: Terms) -> pb.ReconcileRun:
        self.terms = terms
        return self.answer


def invoke(monkeypatch: pytest.MonkeyPatch, root: Path, fake: FakeTiers, *words: str) -> Result:
    @contextlib.asynccontextmanager
    async def connected(_: Path) -> AsyncIterator[Any]:
        yield SimpleNamespace(tiers={"oltp": fake}, reconciler=fake)

    monkeypatch.setattr(reconcile_commands, "connected", connected)
    return CliRunner().invoke(build(), ["--root", str(root), "reconcile", *words])


def test_without_a_word_it_only_tells(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = FakeTiers(RUN)
    result = invoke(monkeypatch, tmp_path, fake)
    assert result.exit_code == 0, result.output
    assert fake.terms == Terms(apply=False, tenant_id=None, grace=timedelta(days=7), cap=1000)
    assert "found.orphans" in result.output


def test_its_terms_are_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = FakeTiers(RUN)
    words = ("--apply", "--tenant", TENANT, "--grace", "12h", "--cap", "5")
    assert invoke(monkeypatch, tmp_path, fake, *words).exit_code == 0
    assert fake.terms == Terms(apply=True, tenant_id=UUID(TENANT), grace=timedelta(hours=12), cap=5)


def test_a_refused_run_says_why_and_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    refused = pb.ReconcileRun(
        id=str(uuid4()), status=pb.RECONCILE_STATUS_REFUSED, refused_reason="olap does not answer: UNAVAILABLE"
    )
    result = invoke(monkeypatch, tmp_path, FakeTiers(refused))
    assert result.exit_code == 1
    assert "olap does not answer" in result.output


def test_a_run_that_left_something_uncompared_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = pb.ReconcileRun(id=str(uuid4()), status=pb.RECONCILE_STATUS_FINISHED, counts={"found.uncompared": 1})
    result = invoke(monkeypatch, tmp_path, FakeTiers(run), "--tenant", TENANT)
    assert result.exit_code == 1
    assert run.id in result.output
    run.counts["found.uncompared"] = 0
    assert invoke(monkeypatch, tmp_path, FakeTiers(run), "--tenant", TENANT).exit_code == 0


@pytest.mark.parametrize("grace", ["7", "d", "-1d", "1w", ""])
def test_a_grace_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, grace: str) -> None:
    fake = FakeTiers(RUN)
    result = invoke(monkeypatch, tmp_path, fake, "--grace", grace)
    assert result.exit_code == 2
    assert fake.terms is None


def test_receipts_are_listed_and_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    listed = invoke(monkeypatch, tmp_path, FakeTiers(RUN), "list")
    assert "50 orphans" in listed.output
    assert "dangling" not in listed.output
    shown = invoke(monkeypatch, tmp_path, FakeTiers(RUN), "show", RUN.id)
    assert "k/1" in shown.output
    assert invoke(monkeypatch, tmp_path, FakeTiers(RUN), "show", "nonsense").exit_code == 2
