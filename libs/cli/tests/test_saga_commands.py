"""`penguin saga`: what each command asks of the journal, and how it tells the answer. A fake stands at the tier's stub."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from typer.testing import CliRunner, Result

from penguin.oltp.v1 import saga_service_pb2 as pb
from penguin.oltp.v1 import subject_service_pb2 as subject_pb
from penguin_cli import saga_commands, subject_commands
from penguin_cli.app import build

TENANT, SAGA = str(uuid4()), str(uuid4())
AT = Timestamp(seconds=1_772_366_400)
STUCK = pb.Saga(
    id=SAGA, tenant_id=TENANT, kind="tenant.onboard", version=1, state=pb.SAGA_STATE_STUCK, input=b'{"name":"[b]Acme"}',
    owner_epoch=3, attempts=2, last_error="queue NOT_FOUND", created_at=AT, reason="the tier is back", actor="ann",
    steps=[
        pb.SagaStepRecord(step="queue", operation=pb.SAGA_OPERATION_ACTION, state=pb.SAGA_STEP_STATE_DONE, attempts=1),
        pb.SagaStepRecord(
            step="queue", operation=pb.SAGA_OPERATION_COMPENSATION, state=pb.SAGA_STEP_STATE_BEGUN, attempts=7,
            last_error="queue NOT_FOUND NOT_FOUND",
        ),
    ],
)  # fmt: skip
Run = Callable[..., tuple[Result, dict[str, Any]]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run a command against a journal that answers so; its result, and what it was asked, by method."""

    def run(answer: Any, *words: str) -> tuple[Result, dict[str, Any]]:
        asked: dict[str, Any] = {}
        names = pb.DESCRIPTOR.services_by_name["SagaService"].methods_by_name

        async def insist(method: str, request: Any, *, deadline_s: float) -> Any:
            asked[method] = request
            return answer

        oltp = SimpleNamespace(stub=lambda _: SimpleNamespace(**{name: name for name in names}), insist=insist)

        @contextlib.asynccontextmanager
        async def connected(root: Path) -> AsyncIterator[Any]:
            yield SimpleNamespace(tiers={"oltp": oltp})

        monkeypatch.setattr(saga_commands, "connected", connected)
        return CliRunner().invoke(build(), ["--root", str(tmp_path), "saga", *words]), asked

    return run


def test_stuck_sagas_are_listed(run: Run) -> None:
    result, asked = run(pb.ListSagasResponse(sagas=[STUCK]), "list", "--state", "stuck", "-t", TENANT)
    assert result.exit_code == 0, result.output
    assert (asked["ListSagas"].state, asked["ListSagas"].tenant_id) == (pb.SAGA_STATE_STUCK, TENANT)
    for word in (SAGA, TENANT, "tenant.onboard/1", "stuck", "queue NOT_FOUND", "2026-03-01 12:00:00 UTC"):
        assert word in result.output
    crowded = pb.Saga()
    crowded.CopyFrom(STUCK)
    crowded.last_error = "notifications RESOURCE_EXHAUSTED BACKLOG_FULL " * 3
    result, _ = run(pb.ListSagasResponse(sagas=[crowded]), "list")
    # Whatever else gives way: they are there to be copied.
    assert SAGA in result.output
    assert TENANT in result.output
    result, asked = run(pb.ListSagasResponse(), "list")
    assert "no sagas" in result.output
    assert not asked["ListSagas"].tenant_id


def test_a_saga_is_shown_with_its_steps_and_what_was_done_by_hand(run: Run) -> None:
    result, asked = run(pb.GetSagaResponse(saga=STUCK), "show", SAGA, "-t", TENANT)
    assert result.exit_code == 0, result.output
    assert asked["GetSaga"].saga_id == SAGA
    for word in ("[b]Acme", "ann: the tier is back", "undo", "begun", "7", "queue NOT_FOUND NOT_FOUND", "nobody"):
        assert word in result.output, word


def test_who_lets_it_go_on_says_why(run: Run) -> None:
    going = pb.Saga(id=SAGA, state=pb.SAGA_STATE_COMPENSATING)
    result, asked = run(pb.RetrySagaResponse(saga=going), "retry", SAGA, "-t", TENANT, "--reason", "mended")
    assert (result.exit_code, asked["RetrySaga"].reason) == (0, "mended")
    assert asked["RetrySaga"].request_id
    assert "compensating" in result.output
    words = ("skip", SAGA, "queue", "--compensation", "-t", TENANT, "--reason", "removed by hand")
    result, asked = run(pb.SkipSagaStepResponse(saga=going), *words)
    assert result.exit_code == 0, result.output
    request = asked["SkipSagaStep"]
    assert (request.step, request.operation) == ("queue", pb.SAGA_OPERATION_COMPENSATION)
    assert request.reason == "removed by hand"
    for command in (("retry", SAGA), ("skip", SAGA, "queue")):
        result, asked = run(None, *command, "-t", TENANT)
        assert (result.exit_code, asked) == (2, {})
        assert "--reason" in result.output


def test_how_often_its_owners_left_it_is_told(run: Run) -> None:
    left = pb.Saga()
    left.CopyFrom(STUCK)
    left.last_error, left.takeovers = "OWNERS_LOST", 21
    result, _ = run(pb.GetSagaResponse(saga=left), "show", SAGA, "-t", TENANT)
    assert "left without a word  21 times" in " ".join(result.output.split("\n")), result.output


def test_a_receipt_says_who_answers_for_a_tier_that_was_skipped() -> None:
    erasure = subject_pb.Erasure(id=SAGA, subject="5" * 64)
    erasure.receipts.add(tier="olap", skipped_by="ann[b]")
    erasure.receipts.add(tier="oltp", counts={"emails": 2}, skipped_by="ann")
    erasure.receipts.add(tier="queue")
    console = Console(width=100)
    with console.capture() as shown:
        console.print(subject_commands.told(erasure))
    lines = [line.split("1970")[0].split() for line in shown.get().splitlines()]
    assert ["olap", *["not", "told;", "skipped", "by", "ann[b]"]] in lines
    assert ["oltp", *["2", "emails;", "skipped", "by", "ann"]] in lines
    assert ["queue", "nothing"] in lines
