"""Where OLTP looks for a person: also in what reconcile found."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from penguin_chassis import subjects
from penguin_chassis.pool import Database
from penguin_testkit.calling import TierClient
from penguin_testkit.mentions import mentioned

ADA = "ada@example.com"


async def test_what_reconcile_found_is_looked_through_page_by_page(
    oltp: TierClient, db: Database, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subjects.mentions, "__defaults__", (2,))
    run = uuid4()
    found = ["a/b", f"k/x/{ADA}", "k/y", f"mailto:{ADA.upper()}", "z/bob@example.com"]
    async with db.tenant(tenant) as connection:
        await connection.execute(
            "INSERT INTO reconcile_runs (tenant_id, id, apply, grace_s, cap, status, owner, leased_until, started_at, refused_reason)"
            " VALUES ($1, $2, false, 0, 0, 'refused', $2, now(), now(), $3)", tenant, run, f"oltp said {ADA}",
        )  # fmt: skip
        for subject in found:
            await connection.execute(
                "INSERT INTO reconcile_findings VALUES ($1, $2, 'orphan', $3, 'content.claimed', '', now())",
                tenant, run, subject,
            )  # fmt: skip
    assert await mentioned(oltp, tenant, ADA) == {
        ("reconcile_runs", str(run), "refused_reason"),
        *(("reconcile_findings", f"{run}/orphan/{found[n]}", "subject") for n in (1, 3)),
    }
