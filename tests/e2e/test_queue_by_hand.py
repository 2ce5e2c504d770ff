"""`penguin queue` and `penguin schedule` against a real service: what each command does to jobs, and what it prints of it. Workers
are played by hand, so that every job is where the test has put it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import uuid4

import asyncpg
import pytest
from typer.testing import CliRunner

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_cli import session
from penguin_cli.app import build
from penguin_devstack.guardian import guarded_directory
from penguin_devstack.postgres import THROWAWAY_SETTINGS
from penguin_devstack.stack import LocalStack
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.config import PlatformConfig
from penguin_orchestrator.platform import Penguin

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(180)]

WAIT_S = 15.0
T = TypeVar("T")


class Hands:
    """A worker of one kind that does what it is told to, call by call."""

    def __init__(self, local: LocalStack, kind: str) -> None:
        self._local, self.kind = local, kind

    def _do(self, act: Callable[[Tier], Awaitable[T]]) -> T:
        async def connected() -> T:
            config = PlatformConfig(**self._local.environment("orchestrator"))  # type: ignore[arg-type]
            async with Penguin.connect(config) as penguin:
                return await act(penguin.tiers["queue"])

        return asyncio.run(connected())

    def lease(self, count: int = 1, *, lease_s: int = 60, wait_s: int = 10) -> dict[int, pb.LeaseRef]:
        """Leases of so many jobs, or of what there is, by the jobs' ids in order."""
        request = pb.LeaseJobsRequest(kinds=[self.kind], max_jobs=count, worker_id="by-hand")
        request.lease_duration.FromSeconds(lease_s)
        request.wait.FromSeconds(wait_s)

        async def lease(queue: Tier) -> list[pb.LeasedJob]:
            return list((await queue.call(queue.stub(QueueServiceStub).LeaseJobs, request, timeout=wait_s + 10)).jobs)

        refs = {each.job.id: pb.LeaseRef(job_id=each.job.id, lease_token=each.lease_token) for each in self._do(lease)}
        return dict(sorted(refs.items()))

    def _say(self, method: str, request: Any) -> Any:
        return self._do(lambda queue: queue.call(getattr(queue.stub(QueueServiceStub), method), request))

    def complete(self, *leases: pb.LeaseRef) -> None:
        reply = self._say("CompleteJobs", pb.CompleteJobsRequest(leases=leases))
        assert reply.completed == len(leases)

    def fail(self, lease: pb.LeaseRef, error: str, message: str = "") -> None:
        """For good."""
        failure = pb.JobFailure(lease=lease, error=error, message=message)
        self._say("FailJobs", pb.FailJobsRequest(failures=[failure]))


class Shell:
    """`penguin` on a running stack, for a tenant and a kind of one test alone."""

    def __init__(self, local: LocalStack) -> None:
        self.local = local
        self.tenant = str(uuid4())
        self.kind = f"hand.k{uuid4().hex[:12]}"
        self.hands = Hands(local, self.kind)

    def __call__(self, *words: str, code: int = 0, tenant: str | None = None) -> str:
        """Run a command; what it prints, and where it should end otherwise also what it says of that."""
        with pytest.MonkeyPatch.context() as patch:
            # A process has one tracer provider, and this one is pytest's.
            patch.setattr(session, "telemetry", lambda settings: contextlib.nullcontext())
            environment = {"PENGUIN_TOKEN_URL": "", "PENGUIN_TENANT": self.tenant if tenant is None else tenant}
            done = CliRunner().invoke(build(), ["--root", str(self.local.root), *words], env=environment)
        assert done.exit_code == code, f"{words}: {done.exit_code}\n{done.output}\n{done.exception!r}"
        return done.stdout if code == 0 else done.output

    def facts(self, job_id: int) -> dict[str, str]:
        """What `queue job` says, by its names."""
        lines = (
            re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in self("queue", "job", str(job_id)).splitlines()
        )
        return {line[0]: line[1] for line in lines if len(line) == 2}

    def enqueue(self, *words: str) -> list[int]:
        """The ids that `queue enqueue` prints; of a batch the callback's is the last."""
        printed = self("queue", "enqueue", self.kind, *words)
        return [int(found) for found in re.findall(r"^(?:job|callback) (\d+)", printed, re.MULTILINE)]

    def until(self, said: str, *words: str) -> str:
        """Run a command until what it prints has this; that."""
        ends = time.monotonic() + WAIT_S
        while said not in (printed := self(*words)):
            assert time.monotonic() < ends, f"{words} never said {said!r}:\n{printed}"
            time.sleep(0.1)
        return printed

    def listed(self, *words: str) -> list[int]:
        """The ids that `queue jobs` prints."""
        return sorted(int(found) for found in re.findall(r"^(\d+) ", self("queue", "jobs", *words), re.MULTILINE))


@pytest.fixture(scope="module")
def queue_alone() -> Iterator[LocalStack]:
    """The queue's service with its servers, and no worker."""
    with guarded_directory("penguin-hand-") as folder:
        local = LocalStack(
            folder / "local",
            tiers=("queue",),
            with_workers=False,
            tied_to_caller=True,
            database_settings=THROWAWAY_SETTINGS,
        )
        try:
            asyncio.run(local.up())
            yield local
        finally:
            asyncio.run(local.down())


@pytest.fixture
def penguin(queue_alone: LocalStack) -> Shell:
    return Shell(queue_alone)


def shown(ids: Sequence[int]) -> str:
    """Ids as a command lists them."""
    return ", ".join(map(str, ids))


def test_a_poison_pill_is_a_dead_letter_that_says_so(penguin: Shell) -> None:
    queue = f"q{uuid4().hex[:8]}"
    assert penguin("queue", "put", queue, "--lost-leases", "1").strip() == f"{queue} is set"
    assert penguin("queue", "move", queue, penguin.kind).strip() == f"{penguin.kind} now in {queue}"
    # Its worker is well, as others' jobs show: were it silent altogether, the job would be spared for a while.
    penguin.enqueue(*["{}"] * 10)
    penguin.hands.complete(*penguin.hands.lease(10).values())
    (job_id,) = penguin.enqueue()
    for _ in range(2):
        assert list(penguin.hands.lease(lease_s=1)) == [job_id]
    printed = penguin.until("dead", "queue", "job", str(job_id))
    facts = penguin.facts(job_id)
    assert (facts["state"], facts["last error"], facts["lost leases"]) == ("dead", "lease_lost", "2")
    # A lost lease is no failure: of its attempts none is spent.
    assert facts["attempts"] == "0 of 10"
    assert len(re.findall(r"UTC\s+lost\s+lease_lost\s+by-hand", printed)) == 2
    assert penguin.listed("--state", "dead") == [job_id]
    assert "1 made ready again" in penguin("queue", "redrive", str(job_id))
    facts = penguin.facts(job_id)
    assert (facts["state"], facts.get("lost leases")) == ("ready", None)


def test_dead_letters_are_shown_and_redriven_one_by_one_and_by_filter(penguin: Shell) -> None:
    ids = penguin.enqueue("{}", "{}", "{}", "{}", "--max-attempts", "1")
    leases = penguin.hands.lease(4)
    assert list(leases) == ids
    mail, other = ids[:3], ids[3]
    for job_id in mail:
        penguin.hands.fail(leases[job_id], "smtp.550", "no such mailbox")
    penguin.hands.fail(leases[other], "test.other")
    assert penguin.listed("--state", "dead") == ids
    row = next(line for line in penguin("queue", "jobs").splitlines() if line.startswith(f"{mail[0]} "))
    assert re.search(rf"{penguin.kind}\s+dead\s+normal\s+1/1\s.*smtp\.550\s*$", row)
    printed = penguin("queue", "job", str(mail[0]))
    assert re.search(r"1\s+\S+ \S+ UTC\s+failed\s+smtp\.550\s+no such mailbox\s+by-hand", printed)
    assert penguin.facts(mail[0])["attempts"] == "1 of 1"

    assert penguin("queue", "redrive", "--error", "smtp", "--dry-run").splitlines() == [
        "3 would be made ready again", shown(mail),
    ]  # fmt: skip
    assert penguin.listed("--state", "dead") == ids
    assert penguin("queue", "redrive", str(mail[0])).strip() == "1 made ready again"
    assert penguin("queue", "redrive", "--error", "smtp", "--max", "1").splitlines() == [
        "1 made ready again", "1 more match; run it again for these",
    ]  # fmt: skip
    assert penguin("queue", "redrive", "--kind", penguin.kind, "--error", "smtp").strip() == "1 made ready again"
    assert penguin("queue", "redrive", "--error", "smtp").strip() == "0 made ready again"
    assert (penguin.listed("--state", "ready"), penguin.listed("--state", "dead")) == (mail, [other])
    said = penguin("queue", "redrive", str(mail[0]), str(other), code=1)
    assert "1 made ready again" in said
    assert f"1 passed over (no dead letters of this tenant): {mail[0]}" in said
    assert "name dead letters by their ids" in penguin("queue", "redrive", code=2)
    # Fresh attempts: they can fail once more.
    assert penguin.facts(other)["attempts"] == "0 of 1"
    penguin.hands.complete(*penguin.hands.lease(4).values())
    assert penguin.listed("--state", "completed") == ids


@pytest.mark.parametrize("resting", ["queue", "kind", "tenant"])
def test_what_rests_is_leased_by_nobody_until_it_is_resumed(penguin: Shell, resting: str) -> None:
    queue = f"q{uuid4().hex[:8]}"
    penguin("queue", "put", queue)
    penguin("queue", "move", queue, penguin.kind)
    name = {"queue": queue, "kind": penguin.kind, "tenant": penguin.tenant}[resting]
    target = (f"--{resting}", name)
    assert penguin("queue", "pauses").strip() == "nothing rests"
    assert penguin("queue", "pause", *target, tenant="").strip() == f"{resting} {name}: at rest"
    (job_id,) = penguin.enqueue()
    assert penguin.hands.lease(wait_s=1) == {}
    assert penguin("queue", "pauses").strip() == f"{resting} {name}"
    row = next(line for line in penguin("queue", "list").splitlines() if line.startswith(queue))
    assert ("paused" in row) == (resting == "queue")
    assert penguin("queue", "resume", *target, tenant="").strip() == f"{resting} {name}: resumed"
    assert list(penguin.hands.lease()) == [job_id]
    assert penguin("queue", "pauses").strip() == "nothing rests"
    assert "name a queue, or a kind, or a tenant" in penguin("queue", "pause", code=2)


def test_a_job_that_waits_is_cancelled_at_once_and_a_running_one_when_it_is_let_go(penguin: Shell) -> None:
    running, waiting = penguin.enqueue("{}", "{}")
    lease = penguin.hands.lease()[running]
    said = penguin("queue", "cancel", str(running), str(waiting))
    assert said.strip() == "1 cancelled, 1 marked (in workers' hands)"
    assert penguin.facts(waiting)["state"] == "cancelled"
    assert penguin.facts(running)["state"] == "leased to be cancelled"
    penguin.hands.fail(lease, "test.stopped")
    facts = penguin.facts(running)
    assert (facts["state"], facts["last error"]) == ("cancelled", "test.stopped")
    assert penguin.listed("--state", "cancelled") == [running, waiting]
    said = penguin("queue", "cancel", str(running), code=1)
    assert f"1 passed over (no jobs of this tenant, or over): {running}" in said


@pytest.mark.parametrize(("policy", "jobs", "missed"), [("skip", 0, 6), ("run-once", 1, 5), ("run-all", 6, 0)])
def test_a_schedule_makes_up_for_what_it_missed_as_it_says(penguin: Shell, policy: str, jobs: int, missed: int) -> None:
    last = datetime.now(UTC).replace(second=0, microsecond=0, tzinfo=None) - timedelta(minutes=30)
    # Half an hour off UTC's hours, all year.
    words = (f"{(last.minute + 30) % 60} * * * *", "--zone", "Asia/Kolkata", "--kind", penguin.kind, "--missed", policy)
    following = f"{last + timedelta(hours=1)} UTC"
    assert penguin("schedule", "put", "hourly", *words).strip() == f"hourly: {following}"
    asyncio.run(penguin.local.stop("queue", signal.SIGKILL))
    try:
        # It went before the first of six runs: hours are not waited for.
        asyncio.run(_set_next(penguin.local, penguin.tenant, last.replace(tzinfo=UTC) - timedelta(hours=5)))
    finally:
        asyncio.run(penguin.local.start("queue"))
    printed = penguin.until(following, "schedule", "get", "hourly")
    facts = dict(re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in printed.splitlines())
    assert facts["missed runs"] == f"{policy.replace('-', '_')} after 0:01:00"
    assert (facts["next"], facts["missed"]) == (following, str(missed))
    made = penguin.listed("--kind", penguin.kind)
    assert len(made) == jobs
    assert facts["last"] == (f"{last} UTC, job {made[-1]}" if jobs else "never")
    row = penguin("schedule", "list").splitlines()[1]
    assert row.startswith("hourly")
    assert row.split()[-1] == str(missed or made[-1])
    assert list(penguin.hands.lease(10, wait_s=5 if jobs else 0)) == made
    assert penguin("schedule", "delete", "hourly").strip() == "hourly is gone"


async def _set_next(local: LocalStack, tenant: str, at: datetime) -> None:
    connection = await asyncpg.connect(local.database("queue").maintenance_url)
    try:
        done = await connection.execute(
            "UPDATE schedules SET next_at = $2 WHERE tenant_id = $1::text::uuid", tenant, at
        )
        assert done == "UPDATE 1"
    finally:
        await connection.close()


def test_a_unique_key_is_had_by_one_job_until_it_is_over(penguin: Shell) -> None:
    unique = ("--unique", "report-7")
    (first,) = penguin.enqueue('{"n":1}', *unique)
    said = penguin("queue", "enqueue", penguin.kind, '{"n":2}', *unique)
    assert said.strip() == f"job {first} has the key already"
    assert penguin("queue", "job", str(first), "--payload").count('{"n":1}') == 1
    # Who has it and waits can be given another's payload, and stays the same job.
    assert penguin.enqueue('{"n":3}', *unique, "--replace") == [first]
    assert '{"n":3}' in penguin("queue", "job", str(first), "--payload")
    leases = penguin.hands.lease()
    assert f"job {first} has the key already" in penguin("queue", "enqueue", penguin.kind, *unique)
    penguin.hands.complete(leases[first])
    (second,) = penguin.enqueue(*unique)
    assert second != first
    assert penguin.listed("--kind", penguin.kind) == sorted([first, second])
    said = penguin("queue", "enqueue", penguin.kind, *unique, "--callback", "hand.done", code=2)
    assert "members of a batch have no --unique key" in said


def test_who_is_redriven_has_its_unique_key_again_unless_another_has_got_it(penguin: Shell) -> None:
    unique = ("--unique", "report-8")
    (first,) = penguin.enqueue(*unique)
    penguin.hands.fail(penguin.hands.lease()[first], "test.failed")
    penguin("queue", "redrive", str(first))
    assert penguin("queue", "enqueue", penguin.kind, *unique).strip() == f"job {first} has the key already"
    penguin.hands.fail(penguin.hands.lease()[first], "test.failed")
    (second,) = penguin.enqueue(*unique)
    penguin("queue", "redrive", str(first))
    assert penguin("queue", "enqueue", penguin.kind, *unique).strip() == f"job {second} has the key already"
    assert sorted(penguin.hands.lease(2)) == sorted([first, second])


def test_jobs_of_an_ordering_key_go_one_after_the_other(penguin: Shell) -> None:
    first, second, third = penguin.enqueue("{}", "{}", "{}", "--ordering-key", "mailbox-7")
    assert [penguin.facts(each)["state"] for each in (first, second, third)] == ["ready", "held", "held"]
    assert penguin.facts(third)["ordering key"] == "mailbox-7"
    assert penguin.listed("--state", "held") == sorted([second, third])
    for job_id in (first, second, third):
        leases = penguin.hands.lease(3)
        assert list(leases) == [job_id], "more than one of the key is in flight, or out of order"
        penguin.hands.complete(leases[job_id])
    assert penguin.listed("--state", "completed") == sorted([first, second, third])


def test_a_job_waits_for_others(penguin: Shell) -> None:
    one, other = penguin.enqueue("{}", "{}")
    (last,) = penguin.enqueue("--after", str(one), "--after", str(other))
    facts = penguin.facts(last)
    assert (facts["state"], facts["waits for"]) == ("held", "2 jobs")
    leases = penguin.hands.lease(3)
    assert sorted(leases) == sorted([one, other])
    penguin.hands.complete(leases[one])
    assert "held" in penguin.until("1 jobs", "queue", "job", str(last))
    penguin.hands.complete(leases[other])
    leases = penguin.hands.lease(3)
    assert list(leases) == [last]
    penguin.hands.complete(leases[last])
    # A dead letter is waited for until it is redriven and done; but not by who is to run however it ends.
    (failing,) = penguin.enqueue("--max-attempts", "1")
    (patient,) = penguin.enqueue("--after", str(failing))
    (anyhow,) = penguin.enqueue("--after", str(failing), "--run-if-failed")
    penguin.hands.fail(penguin.hands.lease()[failing], "test.failed")
    leases = penguin.hands.lease(3)
    assert list(leases) == [anyhow]
    penguin.hands.complete(leases[anyhow])
    assert penguin.facts(patient)["state"] == "held"
    assert "1 made ready again" in penguin("queue", "redrive", str(failing))
    for job_id in (failing, patient):
        leases = penguin.hands.lease(3)
        assert list(leases) == [job_id]
        penguin.hands.complete(leases[job_id])
    # Who is cancelled takes with him who waits for him.
    (gone,) = penguin.enqueue("--run-at", "2999-01-01")
    (with_him,) = penguin.enqueue("--after", str(gone))
    penguin("queue", "cancel", str(gone))
    assert "awaited_cancelled" in penguin.until("cancelled", "queue", "job", str(with_him))
    said = penguin("queue", "enqueue", penguin.kind, "--run-if-failed", code=2)
    assert "--run-if-failed is of jobs that it comes --after" in said


def test_the_callback_of_a_batch_runs_when_all_are_over(penguin: Shell) -> None:
    printed = penguin("queue", "enqueue", penguin.kind, "{}", "{}", "--callback", penguin.kind, "--more")
    assert printed.splitlines()[-1].endswith("waits for them and further ones")
    one, two, callback = (int(found) for found in re.findall(r"\b\d+\b", printed))
    printed = penguin("queue", "enqueue", penguin.kind, "--batch", str(callback))
    assert printed.splitlines()[-1] == f"callback {callback} runs when all are over"
    three = int(re.findall(r"\d+", printed)[0])
    assert penguin.facts(one)["callback"] == str(callback)
    facts = penguin.facts(callback)
    assert (facts["state"], facts["batch"]) == ("held", "3 jobs: 0 completed, 0 dead, 0 cancelled")
    leases = penguin.hands.lease(4)
    assert sorted(leases) == sorted([one, two, three])
    penguin.hands.complete(leases[one])
    penguin.hands.fail(leases[two], "test.failed")
    penguin.until("1 completed, 1 dead", "queue", "job", str(callback))
    assert penguin.hands.lease(wait_s=0) == {}
    penguin("queue", "cancel", str(three))
    penguin.hands.fail(leases[three], "test.stopped")
    leases = penguin.hands.lease()
    assert list(leases) == [callback]
    assert penguin.facts(callback)["batch"] == "3 jobs: 1 completed, 1 dead, 1 cancelled"
    penguin.hands.complete(leases[callback])
    assert penguin.facts(callback)["state"] == "completed"


def test_another_tenants_job_is_none(penguin: Shell) -> None:
    (job_id,) = penguin.enqueue()
    stranger = str(uuid4())
    said = penguin("queue", "job", str(job_id), tenant=stranger, code=1)
    assert "NOT_FOUND" in said
    assert "0 cancelled" in penguin("queue", "cancel", str(job_id), tenant=stranger, code=1)
    assert penguin("queue", "jobs", tenant=stranger).strip() == "no such jobs"
    assert penguin.facts(job_id)["state"] == "ready"
