"""Runs the demo: phases in their order, timed, and the checks after them. A failed phase ends it; a failed check does not."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from datetime import UTC, datetime
from uuid import UUID

from rich.console import Console

from penguin.oltp.v1 import email_service_pb2 as email_pb
from penguin_cli import reports, tracing
from penguin_cli.demo import acts, checks, isolation, received, setting
from penguin_cli.demo.events import Simulation, simulate
from penguin_cli.demo.setting import Setting
from penguin_cli.demo.summary import Summary
from penguin_cli.session import connected
from penguin_devstack.issuer import Issuer
from penguin_devstack.stack import LocalStack
from penguin_orchestrator.platform import Penguin

# Who must show in one email's trace: it was made, stored, relayed, queued and sent.
TRACED = ("penguin-cli", "penguin-content", "penguin-oltp", "penguin-relay", "penguin-queue", "penguin-worker")
_TRACE_WAIT_S = 5.0


async def run(stack: LocalStack, count: int, seed: int, summary: Summary, out: Console) -> None:
    """Everything that the demo does on a stack that is up. Raises what ends it early; what was found until then is in the
    summary."""
    async with connected(stack.root, traced=True, local=True) as penguin:
        await _campaign(penguin, stack, count, seed, summary, out)


async def _campaign(penguin: Penguin, stack: LocalStack, count: int, seed: int, summary: Summary, out: Console) -> None:
    since, run_name = datetime.now(UTC), secrets.token_hex(4)
    with summary.phase("onboard two tenants"):
        tenants = await setting.onboard(penguin, run_name)
    with summary.phase("load leads"):
        await setting.load_leads(penguin, *tenants, count)
    with summary.phase("mailbox, template, campaign"):
        stage = await setting.prepare(penguin, run_name, tenants)
    summary.ids = {"tenant_a": str(stage.tenant_a), "tenant_b": str(stage.tenant_b), "campaign": str(stage.campaign_id)}
    out.print(f"campaign {stage.campaign_id} of tenant {stage.tenant_a}: {count} leads")
    with summary.phase("launch and deliver"):
        await acts.deliver(penguin, stage, stack.root, count, out, summary)
    out.print(f"{count} emails handed over, {summary.figures['emails_per_s']:g} a second")
    with summary.phase("launch again"):
        again = await acts.launch_again(penguin, stage)
    emails = await checks.emails_of(penguin, stage.tenant_a, stage.campaign_id)
    simulation = simulate(emails, seed)
    with summary.phase("opens, clicks, replies, bounces"):
        summary.check("repeated_events_count_once", await acts.report_events(penguin, stage, simulation))
        summary.check("replies_read_back_as_they_came", await acts.receive_replies(penguin, stage, simulation.replied))
    with summary.phase("etl"):
        report = await acts.load_facts(penguin, stage, datetime.now(UTC))
    with summary.phase("campaign completed"):
        summary.check("completion_was_notified_once", await acts.completion(penguin, stage))
    out.print(reports.campaign(f"First contact {stage.run}", report))
    with summary.phase("trace"):
        summary.check("one_email_is_traced_through_every_tier", _trace(stack, emails, out))
    with summary.phase("checks"):
        again += await acts.launch_again(penguin, stage)
        await _check(penguin, stack, stage, since, emails, simulation, again, summary)
        await _check_counts(penguin, stage, count, simulation, checks.measures_of(report.totals), summary)


def _trace(stack: LocalStack, emails: list[email_pb.Email], out: Console) -> list[str]:
    """Print one email's trace; which process does not show in it."""
    email_id, ends = UUID(emails[len(emails) // 2].id), time.monotonic() + _TRACE_WAIT_S
    while True:
        roots = tracing.way_of(stack.otlp_store, email_id)
        missing = set(TRACED) - {node.span.service for root in roots for node in root.walk()}
        if not missing or time.monotonic() > ends:
            break
        time.sleep(0.1)
    if roots:
        out.print(tracing.drawn(email_id, roots))
    return [f"{name} does not show in the trace of {email_id}" for name in sorted(missing)]


async def _check(
    penguin: Penguin, stack: LocalStack, stage: Setting, since: datetime, emails: list[email_pb.Email],
    simulation: Simulation, again: list[str], summary: Summary,
) -> None:  # fmt: skip
    """What arrived, what is stored, who sees it, and that nothing is left over."""
    arrived = received.received_from(stack.smtp_store, stage.mailbox, since)
    contents = await checks.contents_of(penguin, stage.tenant_a, [email.content_storage_key for email in emails])
    delivery = received.delivery_problems(emails, arrived)
    summary.figures["delivered"] = len(emails) - len(delivery)
    summary.check("every_recipient_received_exactly_one_message", delivery)
    summary.check("nothing_else_was_received", received.stray_problems(emails, arrived))
    summary.check("parts_equal_what_is_stored", received.part_problems(emails, arrived, contents))
    summary.check("every_message_is_its_recipients_own", received.personal_problems(emails, arrived))
    now = await checks.emails_of(penguin, stage.tenant_a, stage.campaign_id)
    if len(now) != len(emails):
        again.append(f"there are {len(now)} emails now, and were {len(emails)}")
    summary.check("launching_again_sends_nothing", again)
    replies = min(acts.REPLIES, len(simulation.replied))
    kept = len(emails) + replies + 1  # and the template
    summary.check(
        "no_orphan_content",
        await checks.until_none(lambda: checks.orphan_problems(penguin, stage.tenant_a, kept)),
    )
    summary.check("outboxes_are_drained", await checks.until_none(lambda: checks.outbox_problems(penguin)))
    summary.check(
        "no_job_is_left_or_dead", await checks.until_none(lambda: checks.queue_problems(penguin, stage.tenant_a))
    )
    summary.check(
        "the_second_tenant_sees_nothing_of_the_first",
        await isolation.problems(penguin, Issuer(stack.issuer_dir), stage.tenant_a, stage.tenant_b),
    )


async def _check_counts(
    penguin: Penguin, stage: Setting, count: int, simulation: Simulation, facts: Counter[str], summary: Summary
) -> None:
    """Ledger, OLAP and simulation must count alike."""
    ledger = await checks.ledger_counts(penguin, stage.tenant_a, stage.campaign_id)
    asked = Counter(emails=count, sent=count)
    summary.check(
        "every_email_of_the_ledger_is_sent", checks.differing(("emails", "sent"), ledger, asked, ("ledger", "asked"))
    )
    summary.check("olap_equals_the_ledger", checks.counted_like_ledger(facts, ledger))
    summary.check("olap_equals_the_simulated_events", checks.counted_like_simulation(facts, simulation.emails))
    summary.figures |= {"recipients": count, "events": len(simulation.events), "repeated_events": simulation.repeats}
