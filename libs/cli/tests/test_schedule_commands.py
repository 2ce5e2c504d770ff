"""`penguin schedule`: what each command asks of the tier, and how it tells the answer. A fake stands at the tier's stub."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from typer.testing import CliRunner, Result

from penguin.queue.v1 import queue_service_pb2 as jobs_pb
from penguin.queue.v1 import schedule_service_pb2 as pb
from penguin_cli import schedule_commands
from penguin_cli.app import build

TENANT = str(uuid4())
NEXT = Timestamp(seconds=1_772_366_400)
SCHEDULE = pb.Schedule(
    name="nightly", cron="30 2 * * *", time_zone="Europe/Berlin", kind="etl.run", next_at=NEXT, last_at=NEXT,
    last_job_id=77, missed=3, missed_runs=pb.MISSED_RUN_POLICY_RUN_ALL, overlap=pb.OVERLAP_POLICY_SKIP, rank=-2,
)  # fmt: skip


class FakeSchedules:
    """Queue as `connected` gives it: one answer to every method, and remembers what it was asked."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.asked = answer, dict[str, Any]()

    def stub(self, _: Any) -> Any:
        names = pb.DESCRIPTOR.services_by_name["ScheduleService"].methods_by_name
        return SimpleNamespace(**{name: name for name in names})

    async def insist(self, method: str, request: Any, *, deadline_s: float) -> Any:
        self.asked[method] = request
        return self.answer


Run = Callable[..., tuple[Result, Any]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run a command against a fake that answers so; its result, and the one request it made."""

    def run(answer: Any, *words: str, **more: Any) -> tuple[Result, Any]:
        fake = FakeSchedules(answer)

        @contextlib.asynccontextmanager
        async def connected(root: Path) -> AsyncIterator[Any]:
            yield SimpleNamespace(tiers={"queue": fake})

        monkeypatch.setattr(schedule_commands, "connected", connected)
        result = CliRunner().invoke(build(), ["--root", str(tmp_path), "schedule", *words, "-t", TENANT], **more)
        assert result.exit_code == 0, result.output
        ((method, asked),) = fake.asked.items()
        assert (asked.DESCRIPTOR.name, asked.tenant_id) == (f"{method}Request", TENANT)
        if "request_id" in asked.DESCRIPTOR.fields_by_name:
            assert UUID(asked.request_id)
        return result, asked

    return run


def test_schedules_are_listed_with_their_times(run: Run) -> None:
    rows = [SCHEDULE, pb.Schedule(name="rests", cron="0 0 L * *")]
    result, _ = run(pb.ListSchedulesResponse(schedules=rows), "list")
    for words in ("nightly", "30 2", "etl.run", "77", "rests", "paused"):
        assert words in result.output
    assert "no schedules" in run(pb.ListSchedulesResponse(), "list")[0].output


def test_one_is_shown_with_all_that_is_known(run: Run) -> None:
    result, asked = run(pb.GetScheduleResponse(schedule=SCHEDULE), "get", "nightly")
    assert asked.name == "nightly"
    for words in ("Europe/Berlin", "run_all", "skip", "the queue's -2", "job 77", "2026-03-01 12:00:00 UTC"):
        assert words in result.output


def test_its_next_times_are_shown(run: Run) -> None:
    result, asked = run(pb.GetScheduleResponse(next_times=[NEXT, NEXT]), "next", "nightly", "-n", "2")
    assert (asked.next_times, result.output.count("2026-03-01 12:00:00 UTC")) == (2, 2)


def test_one_is_put_as_it_is_said(run: Run, tmp_path: Path) -> None:
    body = tmp_path / "payload.json"
    body.write_bytes(b'{"id":"x"}')
    words = ["nightly", " 30 2  * * MON-FRI", "-k", "etl.run", "-z", "Europe/Berlin", "--missed", "run-all"]
    more = ["--overlap", "skip", "--deadline", "90", "--priority", "high", "--rank", "-2", "--payload", f"@{body}"]
    result, asked = run(pb.PutScheduleResponse(schedule=SCHEDULE), "put", *words, *more)
    schedule = asked.schedule
    assert (schedule.name, schedule.cron, schedule.kind) == ("nightly", "30 2 * * MON-FRI", "etl.run")
    assert (schedule.missed_runs, schedule.overlap) == (SCHEDULE.missed_runs, SCHEDULE.overlap)
    assert (schedule.start_deadline.seconds, schedule.priority, schedule.rank) == (90, jobs_pb.JOB_PRIORITY_HIGH, -2)
    assert (schedule.payload, schedule.paused) == (b'{"id":"x"}', False)
    assert "nightly: 2026-03-01 12:00:00 UTC" in result.output
    _, asked = run(pb.PutScheduleResponse(), "put", "n", "* * * * *", "-k", "k", "--payload", "@-", input='{"a":1}')
    assert (asked.schedule.payload, asked.schedule.time_zone, asked.schedule.priority) == (b'{"a":1}', "UTC", 0)


@pytest.mark.parametrize(
    ("words", "answer", "said"),
    [
        ("run", pb.RunScheduleResponse(job_id=9), "job 9"),
        ("delete", pb.DeleteScheduleResponse(), "nightly is gone"),
        ("pause", pb.PauseScheduleResponse(schedule=pb.Schedule(name="nightly")), "nightly: paused"),
        ("resume", pb.ResumeScheduleResponse(schedule=SCHEDULE), "nightly: 2026-03-01"),
    ],
)
def test_what_is_done_to_one_is_told(run: Run, words: str, answer: Any, said: str) -> None:
    result, asked = run(answer, words, "nightly")
    assert (asked.name, said in result.output) == ("nightly", True)
