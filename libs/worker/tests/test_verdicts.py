"""Handlers that slip in what they say, or say nothing: what becomes of their jobs, and of those beside them."""

from __future__ import annotations

from libs.worker.tests.conftest import Configure
from libs.worker.tests.test_lines import all_are, at_work, put
from libs.worker.tests.waiting import eventually

from penguin_orchestrator.clients import Tier
from penguin_testkit.peers import Peers
from penguin_worker.jobs import Away, Job, Retry, Snooze
from penguin_worker.kinds import Kind


async def test_a_slip_in_a_verdict_costs_its_own_job_an_attempt_and_no_other_anything(
    peers: Peers, tiers: dict[str, Tier], configure: Configure
) -> None:
    slip = Away("smtp.unreachable")
    slip.after_s = "soon"  # type: ignore[assignment]
    said = [Retry(ValueError("x")), Away("x", "5"), slip, Snooze("early", None)]  # type: ignore[arg-type]

    async def handle(job: Job) -> None:
        if (n := ids.index(job.id)) < len(said):
            raise said[n]

    ids = put(peers, "noop", 30)
    for job_id in ids[:3]:
        peers.queue.jobs[job_id].job.max_attempts = 1
    async with at_work(tiers["queue"], configure(concurrency=10), noop=Kind(handle)) as worker:
        await eventually(lambda: all_are(peers, ids[4:], "completed"))
        await eventually(lambda: worker.in_hand == 0)
    bad = [peers.queue.jobs[job_id] for job_id in ids[:4]]
    assert [each.job.last_error for each in bad] == ["ValueError", "", "defect.TypeError", ""]
    assert [each.reasons for each in bad] == [[], ["x"], [], ["early"]]
