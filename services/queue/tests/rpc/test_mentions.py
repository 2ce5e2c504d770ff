"""Where the queue looks for a person: also in what workers said of attempts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from penguin_chassis import subjects
from penguin_chassis.pool import Database
from penguin_testkit.calling import TierClient
from penguin_testkit.mentions import mentioned

ADA = "ada@example.com"
AT = datetime(2026, 11, 20, 12, 30, 1, 234567, UTC)


async def test_what_workers_said_of_attempts_is_looked_through_page_by_page(
    queue: TierClient, db: Database, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subjects.mentions, "__defaults__", (2,))
    said = [("failed", f"no such user: {ADA.upper()}", "w"), ("failed", "timeout", "w"), (f"<{ADA}>", None, None),
            ("lost", "", ADA), ("failed", "not bob@example.com", "w")]  # fmt: skip
    async with db.tenant(tenant) as connection:
        for number, words in enumerate(said):
            # Two attempts each of three jobs.
            row = (number // 2, AT + timedelta(microseconds=number), tenant, number % 2, 1, *words)
            await connection.execute("INSERT INTO job_attempts VALUES ($1, $2, $3, $4, $5, $6, $7, $8)", *row)
    assert await mentioned(queue, tenant, ADA) == {
        ("job_attempts", "0/2026-11-20 12:30:01.234567", "message"),
        ("job_attempts", "1/2026-11-20 12:30:01.234569", "error"),
        ("job_attempts", "1/2026-11-20 12:30:01.234570", "worker_id"),
    }
