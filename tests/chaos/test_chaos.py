"""A short run on the stack that the other tests of failures use; `make chaos` is a long one."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.chaos.__main__ import Options, chaos
from tests.chaos.faults import ORCHESTRATOR

from penguin_devstack.stack import LocalStack

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(300)]

# Its first fault is the end of whoever carries out acts.
FAULTS, SEED = 3, 14


async def test_nothing_is_lost_or_doubled(stack: LocalStack, tmp_path: Path) -> None:
    result = await chaos(stack, Options(seconds=50, seed=SEED, rate=40, faults=FAULTS), tmp_path)
    assert len(result.faults) == FAULTS
    assert result.verdict.wrong == []
    assert result.verdict.counts["ok"] + result.verdict.counts["recovered"] > 100
    assert result.acknowledged("launch") > 3
    assert result.acknowledged("import") > 0
    first = result.faults[0]
    assert (first.kind, first.part) == ("kill", ORCHESTRATOR)
    assert (tmp_path / "history.jsonl").read_text().count('"what": "fault"') == FAULTS
