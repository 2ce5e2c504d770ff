"""The hourly round of ties: nothing outgrows it, and nothing stands for ever behind more than it looks at."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from penguin_chassis.pool import Database
from penguin_queue.store import settling
from penguin_queue.store.settling import Settling

AT = datetime(2026, 3, 1, tzinfo=UTC)
PAGE, PAGES = 10, 5


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds that a test can fill."""
    monkeypatch.setattr(settling, "PAGE", PAGE)
    monkeypatch.setattr(settling, "PAGES", PAGES)


async def count(db: Database, what: str) -> int:
    async with db.maintenance() as connection:
        found: int = await connection.fetchval(f"SELECT count(*) FROM {what}")
        return found


@pytest.mark.parametrize(
    ("table", "columns", "values"),
    [
        ("batches", "tenant_id, callback_id, total, open", "gen_random_uuid(), n, 1, false"),
        ("dependencies", "tenant_id, awaits, job_id", "gen_random_uuid(), 5, n"),
    ],
)
async def test_all_that_nobody_needs_goes_with_one_round(
    own_db: Database, table: str, columns: str, values: str
) -> None:
    async with own_db.maintenance() as connection:
        await connection.execute(
            f"INSERT INTO {table} ({columns}) SELECT {values} FROM generate_series(1, {4 * PAGE}) AS n"
        )
    await Settling().settle(own_db, AT)
    assert await count(own_db, table) == 0
    # Nobody is woken who is not there.
    assert await count(own_db, "wakes") == 0


async def test_what_stands_behind_more_than_a_round_looks_at_has_its_turn(own_db: Database) -> None:
    first, last, many = (
        "'00000000-0000-0000-0000-000000000001'::uuid",
        "'f0000000-0000-0000-0000-000000000001'::uuid",
        PAGE * PAGES,
    )
    async with own_db.maintenance() as connection:
        await connection.execute(f"""
            INSERT INTO jobs (id, run_at, created_at, tenant_id, kind_id, priority, max_attempts, state, payload)
                SELECT n, now(), now(), {first}, 1, 2, 3, 1, '' FROM generate_series(0, {many}) AS n;
            INSERT INTO unique_keys (tenant_id, kind_id, key, job_id, holds)
                SELECT {first}, 1, n::text, n, 3 FROM generate_series(1, {many}) AS n UNION ALL SELECT {last}, 1, 'k', 1000, 3;
            INSERT INTO dependencies (tenant_id, awaits, job_id)
                SELECT {first}, 0, n FROM generate_series(1, {many}) AS n UNION ALL SELECT {last}, 0, 1000;
            INSERT INTO batches (tenant_id, callback_id, total, open)
                SELECT {first}, n, 1, false FROM generate_series(1, {many}) AS n UNION ALL SELECT {last}, 1000, 1, false""")
    rounds, gone = Settling(), []
    for _ in range(3):
        await rounds.settle(own_db, AT)
        gone.append([many + 1 - await count(own_db, each) for each in ("unique_keys", "dependencies", "batches")])
    assert gone == [[0, 0, 0], [1, 1, 1], [1, 1, 1]]
