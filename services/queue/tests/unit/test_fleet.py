"""Poison, or workers that are away."""

from __future__ import annotations

from penguin_queue.domain.fleet import HALF_LIFE_S, MANY, SPARED, Fleet


def test_a_job_that_kills_its_workers_is_not_spared_while_others_are_worked_at() -> None:
    fleet = Fleet()
    for at in range(0, 600, 30):
        fleet.heard(50, at)
        assert fleet.lost(3, at) == 0


def test_few_leases_that_run_out_are_some_jobs_doing() -> None:
    fleet = Fleet()
    assert fleet.lost(MANY - 1, 0) == 0


def test_when_all_leases_run_out_at_once_nobody_is_to_blame_and_that_is_forgotten_with_time() -> None:
    fleet = Fleet()
    fleet.heard(500, 0)
    assert fleet.lost(400, 1) == 0
    assert fleet.lost(400, 2) == SPARED
    fleet.heard(5000, 10 * HALF_LIFE_S)
    assert fleet.lost(3, 10 * HALF_LIFE_S) == 0
