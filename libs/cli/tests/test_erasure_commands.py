"""`penguin erasure verify`: what it tells of a tenant's receipts, and how it ends."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from typer.testing import CliRunner

from penguin_cli import erasure_commands
from penguin_cli.app import build

TENANT = str(uuid4())


@pytest.mark.parametrize(
    ("faults", "unbound", "code", "said"),
    [
        ([], [], 0, ["every receipt agrees with it"]),
        ([], ["e1"], 0, ["e1: from before receipts were bound to the ledger", "every receipt agrees with it"]),
        (["e2: olap was skipped by ann[b]"], ["e1"], 1, ["e1: from before receipts", "e2: olap was skipped by ann[b]"]),
    ],
)
def test_receipts_that_somebody_answers_for_fail_it_and_those_of_old_do_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, faults: list[str], unbound: list[str], code: int, said: list[str]
) -> None:
    async def verify(tenant_id: UUID, *, unbound: Callable[[str], object]) -> list[str]:
        assert str(tenant_id) == TENANT
        for each in old:
            unbound(each)
        return faults

    @contextlib.asynccontextmanager
    async def connected(root: Path) -> AsyncIterator[Any]:
        yield SimpleNamespace(subjects=SimpleNamespace(verify=verify))

    old = unbound
    monkeypatch.setattr(erasure_commands, "connected", connected)
    result = CliRunner().invoke(build(), ["--root", str(tmp_path), "erasure", "verify", "-t", TENANT])
    assert result.exit_code == code, result.output
    for words in said:
        assert words in result.output
    assert ("every receipt agrees" in result.output) is (code == 0)
