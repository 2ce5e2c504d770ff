"""`penguin queue`: what each command asks of the tier, and how it tells the answer. Fakes stand at the tier's stub."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import RenderableType
from typer.testing import CliRunner, Result

from penguin.oltp.v1 import email_service_pb2 as email_pb
from penguin.queue.v1 import queue_service_pb2 as pb
from penguin_cli import knowledge, queue_commands, queue_tables
from penguin_cli.app import build

TENANT = str(uuid4())
JOB = pb.Job(
    id=7, kind="email.send", state=pb.JOB_STATE_LEASED, priority=pb.JOB_PRIORITY_HIGH, rank=-3, attempts=1, max_attempts=10,
    created_at=Timestamp(seconds=1_772_366_400), run_at=Timestamp(seconds=1_772_366_460), last_error="smtp.[451]",
    cancel_wanted=True,
)  # fmt: skip


class FakeQueue:
    """Queue as `connected` gives it: answers by method, and remembers what it was asked."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[Any] = []

    def stub(self, _: Any) -> Any:
        return SimpleNamespace(**{name: name for name in self.answers})

    async def insist(self, method: str, request: Any, *, deadline_s: float) -> Any:
        return await self.call(method, request, timeout=deadline_s)

    async def call(self, method: str, request: Any, *, timeout: float) -> Any:
        copy = type(request)()
        copy.CopyFrom(request)
        self.asked.append(copy)
        answer = self.answers[method]
        return answer.pop(0) if isinstance(answer, list) else answer


Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run a command of `penguin queue` against a fake."""

    def run(fake: FakeQueue, *words: str) -> Result:
        @contextlib.asynccontextmanager
        async def connected(root: Path) -> AsyncIterator[Any]:
            yield SimpleNamespace(tiers={"queue": fake})

        monkeypatch.setattr(queue_commands, "connected", connected)
        result = CliRunner().invoke(build(), ["--root", str(tmp_path), "queue", *words, "-t", TENANT])
        assert "Traceback" not in result.output
        assert all(asked.tenant_id == TENANT for asked in fake.asked)
        assert all(UUID(job.request_id) for asked in fake.asked for job in getattr(asked, "jobs", ()))
        assert all(UUID(asked.request_id) for asked in fake.asked if "request_id" in asked.DESCRIPTOR.fields_by_name)
        return result

    return run


def test_statistics_are_drawn_by_state_and_priority(run: Run) -> None:
    reply = pb.GetQueueStatsResponse(oldest_due_at=Timestamp(seconds=1_772_366_400))
    reply.counts.add(state=pb.JOB_STATE_READY, priority=pb.JOB_PRIORITY_LOW, count=1200)
    reply.counts.add(state=pb.JOB_STATE_CANCELLED, priority=pb.JOB_PRIORITY_HIGH, count=3)
    result = run(FakeQueue(GetQueueStats=reply), "stats")
    lines = {line.split()[0]: line.split()[1:] for line in result.output.splitlines()}
    assert (lines["ready"], lines["cancelled"]) == (["0", "0", "1,200", "1,200"], ["3", "0", "0", "3"])
    assert "due since 2026-03-01 12:00:00 UTC" in result.output
    assert "nothing is due" in run(FakeQueue(GetQueueStats=pb.GetQueueStatsResponse()), "stats").output


def test_jobs_are_listed_as_they_are_asked_for(run: Run) -> None:
    fake = FakeQueue(ListJobs=pb.ListJobsResponse(jobs=[JOB], next_page_token="more"))
    result = run(fake, "jobs", "--state", "leased", "--kind", "email.send", "-n", "1")
    assert (fake.asked[0].state, fake.asked[0].kind, fake.asked[0].page_size) == (pb.JOB_STATE_LEASED, "email.send", 1)
    for words in ("email.send", "leased to be cancelled", "high -3", "1/10", "smtp.[451]", "there are more"):
        assert words in result.output
    assert "no such jobs" in run(FakeQueue(ListJobs=pb.ListJobsResponse()), "jobs").output


def test_a_payload_is_shown_only_where_it_is_asked_for(run: Run, text_of: Callable[[RenderableType], str]) -> None:
    payloads = pb.GetJobPayloadsResponse(payloads=[pb.JobPayload(job_id=7, payload=b'{"email_id":"[e]"}')])
    fake = FakeQueue(
        GetJob=pb.GetJobResponse(job=JOB), ListJobAttempts=pb.ListJobAttemptsResponse(), GetJobPayloads=payloads
    )
    shown = run(fake, "job", "7").output
    assert "payload" not in shown
    assert "attempt " not in shown
    assert len(fake.asked) == 2
    assert '{"email_id":"[e]"}' in run(fake, "job", "7", "--payload").output
    assert list(fake.asked[-1].job_ids) == [7]
    assert "lost leases" not in text_of(queue_tables.job(JOB, None))


def test_a_job_is_shown_with_its_progress_its_result_and_the_attempts_at_it(run: Run) -> None:
    job = pb.Job(result="s3://[r]/7", state=pb.JOB_STATE_DISCARDED)
    job.progress.MergeFrom(pb.JobProgress(done=1500, total=3000, note="page [3]"))
    attempts = pb.ListJobAttemptsResponse(
        attempts=[
            pb.JobAttempt(attempt=2, outcome=pb.ATTEMPT_OUTCOME_LOST, error="lease_lost", worker_id="w-1"),
            pb.JobAttempt(attempt=1, outcome=pb.ATTEMPT_OUTCOME_FAILED, error="smtp.[451]", message="try later"),
        ]
    )
    fake = FakeQueue(GetJob=pb.GetJobResponse(job=job), ListJobAttempts=attempts)
    output = run(fake, "job", "7").output
    assert fake.asked[1].job_id == 7
    for words in (
        "discarded",
        "1,500 of 3,000 (50%), page [3]",
        "s3://[r]/7",
        "lost",
        "w-1",
        "smtp.[451]",
        "try later",
    ):
        assert words in output
    lines = [line.split()[0] for line in output.splitlines() if line.strip()]
    assert lines.index("2") < lines.index("1")


def test_a_cancellation_tells_what_ended_what_is_marked_and_what_was_passed_over(run: Run) -> None:
    fake = FakeQueue(CancelJobs=pb.CancelJobsResponse(cancelled_job_ids=[1, 2], cancelling_job_ids=[3]))
    result = run(fake, "cancel", "1", "2", "3")
    assert (result.exit_code, list(fake.asked[0].job_ids)) == (0, [1, 2, 3])
    assert "2 cancelled, 1 marked" in result.output
    refused = run(FakeQueue(CancelJobs=pb.CancelJobsResponse(skipped_job_ids=[4])), "cancel", "4")
    assert (refused.exit_code, "1 passed over" in refused.output) == (1, True)


def test_dead_letters_are_redriven_by_ids_or_by_what_they_are(run: Run) -> None:
    fake = FakeQueue(RedriveJobs=pb.RedriveJobsResponse(redriven=2))
    assert "2 made ready again" in run(fake, "redrive", "1", "2").output
    assert (list(fake.asked[0].job_ids), fake.asked[0].HasField("filter"), fake.asked[0].max_jobs) == ([1, 2], False, 0)
    fake = FakeQueue(RedriveJobs=pb.RedriveJobsResponse(redriven=3, remaining=1500, sample_job_ids=[5, 6]))
    result = run(
        fake, "redrive", "--kind", "email.send", "--error", "smtp.", "--after", "2026-03-01", "--max", "3", "--dry-run"
    )
    (asked,) = fake.asked
    assert (asked.filter.kind, asked.filter.error_prefix, asked.max_jobs, asked.dry_run) == (
        "email.send", "smtp.", 3, True,
    )  # fmt: skip
    assert asked.filter.finished_after.seconds == 1_772_323_200
    assert not asked.filter.HasField("finished_before")
    for words in ("3 would be made ready again", "5, 6 …", "1,500 more match"):
        assert words in result.output
    run(fake, "redrive", "--all")
    assert fake.asked[-1].HasField("filter")


def test_a_purge_names_a_state_and_may_be_tried_dry(run: Run) -> None:
    fake = FakeQueue(PurgeJobs=pb.PurgeJobsResponse(purged=5000, more=True))
    result = run(fake, "purge", "completed", "--before", "2026-03-01T12:00:00", "--dry-run")
    (asked,) = fake.asked
    assert (asked.filter.state, asked.filter.created_before.seconds) == (pb.JOB_STATE_COMPLETED, 1_772_366_400)
    assert (asked.max_jobs, asked.dry_run) == (5000, True)
    assert "5,000 would be removed" in result.output
    assert "more match" in result.output
    assert "5,000 removed" in run(fake, "purge", "dead", "--max", "10").output
    assert (fake.asked[-1].filter.state, fake.asked[-1].max_jobs) == (pb.JOB_STATE_DEAD, 10)


def test_a_priority_is_given_with_a_rank_or_leaves_it(run: Run) -> None:
    fake = FakeQueue(SetJobPriority=pb.SetJobPriorityResponse(changed=2))
    assert "2 given priority low" in run(fake, "priority", "low", "1", "2").output
    assert (fake.asked[0].priority, fake.asked[0].HasField("rank")) == (pb.JOB_PRIORITY_LOW, False)
    run(fake, "priority", "high", "1", "--rank", "-5")
    assert (fake.asked[-1].rank, list(fake.asked[-1].job_ids)) == (-5, [1])


async def test_the_job_of_an_email_is_found_by_its_payload() -> None:
    email_id = uuid4()
    ours = pb.JobPayload(job_id=8, payload=b'{"email_id":"%s"}' % str(email_id).encode())
    fake: Any = FakeQueue(
        ListJobs=pb.ListJobsResponse(jobs=[JOB, pb.Job(id=8)]),
        GetJobPayloads=[
            pb.GetJobPayloadsResponse(payloads=[pb.JobPayload(job_id=7, payload=b"{}")], deferred_ids=[8]),
            pb.GetJobPayloadsResponse(payloads=[ours]),
        ],
    )
    found = await knowledge.of_queue(fake, UUID(TENANT), email_id, email_pb.Email())
    assert isinstance(found, pb.Job)
    assert found.id == 8
    assert [list(asked.job_ids) for asked in fake.asked[1:]] == [[7, 8], [8]]


def test_a_job_is_enqueued_with_its_ties(run: Run) -> None:
    reply = pb.EnqueueJobsResponse(results=[pb.EnqueueJobResult(job_id=9, duplicate=True)])
    fake = FakeQueue(EnqueueJobs=reply)
    result = run(
        fake, "enqueue", "email.send", '{"n":1}', "--unique", "u", "--ordering-key", "o", "--after", "3", "--after", "4"
    )
    (new,) = fake.asked[0].jobs
    assert (new.payload, new.unique.key, new.ordering_key, list(new.waits_for)) == (b'{"n":1}', "u", "o", [3, 4])
    assert "job 9 has the key already" in result.output
    reply.results[0].error.message = "There is no such job."
    reply.results[0].error.field = "waits_for[0]"
    refused = run(fake, "enqueue", "email.send")
    assert (refused.exit_code, "waits_for[0]: There is no such job." in refused.output) == (1, True)


def test_a_job_is_enqueued_with_all_that_can_be_said_of_it(run: Run) -> None:
    fake = FakeQueue(EnqueueJobs=pb.EnqueueJobsResponse(results=[pb.EnqueueJobResult(job_id=n) for n in (9, 10)]))
    words = (
        'enqueue email.send {} {"n":2} --priority low --rank -3 --max-attempts 4 --run-at 2026-03-01T12:00:00 --rate-key r '
        "--unique u --holds-while leased --holds-while dead --holds-for 0.5 --replace --after 3 --run-if-failed"
    )
    result = run(fake, *words.split())
    first, second = fake.asked[0].jobs
    assert (first.payload, second.payload, first.request_id == second.request_id) == (b"{}", b'{"n":2}', False)
    for job in (first, second):
        assert (job.kind, job.priority, job.rank, job.max_attempts) == ("email.send", pb.JOB_PRIORITY_LOW, -3, 4)
        assert (job.run_at.seconds, job.rate_key, list(job.waits_for), job.run_if_failed) == (
            1_772_366_400, "r", [3], True,
        )  # fmt: skip
        assert (job.unique.key, job.unique.on_conflict) == ("u", pb.ON_CONFLICT_REPLACE)
        assert list(job.unique.holds_while) == [pb.JOB_STATE_LEASED, pb.JOB_STATE_DEAD]
        assert job.unique.holds_for.ToMilliseconds() == 500
    assert "job 9\njob 10" in result.output


def test_jobs_are_enqueued_as_members_of_a_batch(run: Run) -> None:
    reply = pb.EnqueueBatchResponse(first_job_id=5, count=2, callback_job_id=7)
    fake = FakeQueue(EnqueueBatch=reply)
    words = 'enqueue email.send {} {} --callback report.done --callback-payload {"r":1} --more --ordering-key o --rate-key r'
    output = run(fake, *words.split(), "--rank", "2").output
    (asked,) = fake.asked
    assert (asked.kind, list(asked.payloads), asked.ordering_key, asked.rate_key, asked.rank) == (
        "email.send", [b"{}", b"{}"], "o", "r", 2,
    )  # fmt: skip
    assert (asked.batch.callback.kind, asked.batch.callback.payload, asked.batch.more) == (
        "report.done", b'{"r":1}', True,
    )  # fmt: skip
    for said in ("job 5\njob 6", "callback 7 waits for them and further ones"):
        assert said in output
    assert "runs when all are over" in run(fake, "enqueue", "email.send", "--batch", "7").output
    assert (fake.asked[1].batch.callback_job_id, fake.asked[1].batch.more) == (7, False)
    assert not fake.asked[1].HasField("run_at")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--replace", "--unique"), ("--holds-for 5", "--unique"), ("--holds-while dead", "--unique"),
        ("--run-if-failed", "--after"), ("--more", "--callback"), ("--callback k --batch 7", "--batch"),
        ("--batch 7 --after 3", "--after"), ("--callback k --unique u", "--unique"), ("--rank 1001", "--rank"),
        ("--unique u --holds-while held", "held"), ("--unique u --holds-for 0", "--holds-for"),
    ],
)  # fmt: skip
def test_what_cannot_be_said_together_is_refused_before_anything_is_asked(run: Run, words: str, said: str) -> None:
    fake = FakeQueue()
    refused = run(fake, "enqueue", "email.send", *words.split())
    assert (refused.exit_code, said in refused.output, fake.asked) == (2, True, [])


def test_all_jobs_are_shown_page_by_page(run: Run) -> None:
    def pages() -> list[pb.ListJobsResponse]:
        sizes = (1000, 1000, 300)
        return [
            pb.ListJobsResponse(
                jobs=[pb.Job(id=n * 1000 + i + 1) for i in range(size)], next_page_token="ab "[n].strip()
            )
            for n, size in enumerate(sizes)
        ]

    fake = FakeQueue(ListJobs=pages())
    result = run(fake, "jobs", "--all", "--state", "ready")
    assert [(asked.page_token, asked.page_size) for asked in fake.asked] == [("", 1000), ("a", 1000), ("b", 1000)]
    assert {asked.state for asked in fake.asked} == {pb.JOB_STATE_READY}
    shown = [line.split()[0] for line in result.output.splitlines() if line[:1].isdigit()]
    assert shown == [str(n) for n in (*range(1, 2001), *range(2001, 2301))]
    assert "there are more" not in result.output
    some = pages()
    del some[1].jobs[500:]
    fake = FakeQueue(ListJobs=some)
    result = run(fake, "jobs", "-n", "1500")
    assert [asked.page_size for asked in fake.asked] == [1000, 500]
    assert "there are more" in result.output


def test_what_a_job_waits_for_is_shown(text_of: Callable[[RenderableType], str]) -> None:
    held = pb.Job(
        id=1,
        state=pb.JOB_STATE_HELD,
        ordering_key="o",
        rate_key="m[1]",
        waits=2,
        batch=pb.BatchProgress(total=5, dead=1, open=True),
    )
    text = text_of(queue_tables.job(held, None))
    for said in ("held", "m[1]", "2 jobs", "5 jobs: 0 completed, 1 dead", "more to come"):
        assert said in text
