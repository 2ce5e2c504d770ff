"""Looks into the stack's databases and at its receiving server, past every service."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
from tests.chaos.acts_checker import Kept, Saga
from tests.chaos.checker import Message, Stored

from penguin_devstack.spool import read_messages
from penguin_devstack.stack import LocalStack
from penguin_orchestrator.sagas.definition import ACTION

EMAILS = """SELECT tenant_id, id, recipient, status, attempt, content_storage_key, campaign_id, queued_at FROM emails
WHERE tenant_id = ANY ($1)"""
DOUBTS = """SELECT tenant_id, email_id, count(*) FROM email_attempts
WHERE tenant_id = ANY ($1) AND (outcome IS NULL OR outcome = 'unknown') GROUP BY 1, 2"""
OVERDUE = (
    "UPDATE content_objects SET claim_by = claim_by - $2::interval WHERE tenant_id = ANY ($1) AND state <> 'claimed'"
)
ON_THE_WAY = "SELECT count(*) FROM emails WHERE tenant_id = ANY ($1) AND status IN ('queued', 'sending')"
CONTENTS = "SELECT tenant_id, storage_key, state FROM content_objects WHERE tenant_id = ANY ($1)"
JOBS = """SELECT tenant_id, payload FROM jobs WHERE tenant_id = ANY ($1)
UNION ALL SELECT tenant_id, payload FROM completed_jobs WHERE tenant_id = ANY ($1)
UNION ALL SELECT tenant_id, payload FROM dead_jobs WHERE tenant_id = ANY ($1)"""
LIVE = "SELECT count(*) FROM jobs WHERE tenant_id = ANY ($1)"
UNFINISHED = "SELECT count(*) FROM sagas WHERE tenant_id = ANY ($1) AND finished_at IS NULL"
TEMPLATES = "SELECT tenant_id, content_storage_key FROM templates WHERE tenant_id = ANY ($1)"
LISTS = "SELECT tenant_id, storage_key FROM content_objects WHERE tenant_id = ANY ($1) AND lists_people"
CAMPAIGNS = "SELECT tenant_id, id, status FROM campaigns WHERE tenant_id = ANY ($1)"
ATTEMPTS = "SELECT tenant_id, email_id, started_at FROM email_attempts WHERE tenant_id = ANY ($1)"
LEADS = "SELECT tenant_id, list, email FROM leads WHERE tenant_id = ANY ($1)"
SAGAS = "SELECT tenant_id, id, kind, version, state, subject, input FROM sagas WHERE tenant_id = ANY ($1)"
STEPS = "SELECT tenant_id, saga_id, step, operation, state, result FROM saga_steps WHERE tenant_id = ANY ($1)"
TOLD = "SELECT tenant_id, subject_ref FROM notifications WHERE tenant_id = ANY ($1) AND type = 'campaign.completed'"
# What a job may be for, by what its payload calls it.
ABOUT = ("email_id", "campaign_id")
OWED = "SELECT count(*) FROM outbox WHERE tenant_id = ANY ($1)"


@contextlib.asynccontextmanager
async def _open(stack: LocalStack, tier: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(stack.database(tier).maintenance_url, timeout=10)
    try:
        yield connection
    finally:
        connection.terminate()


async def waiting(stack: LocalStack, tenants: Sequence[UUID]) -> dict[str, int]:
    """What is on its way."""
    async with _open(stack, "oltp") as oltp, _open(stack, "queue") as queue:
        return {
            "outbox rows": await oltp.fetchval(OWED, list(tenants)),
            "emails": await oltp.fetchval(ON_THE_WAY, list(tenants)),
            "jobs": await queue.fetchval(LIVE, list(tenants)),
            "sagas": await oltp.fetchval(UNFINISHED, list(tenants)),
        }


async def rest(stack: LocalStack, tenants: Sequence[UUID], within_s: float) -> dict[str, int]:
    """Wait until nothing is on its way any more; what is, after so many seconds."""
    found: dict[str, int] = {"everything": 1}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while any(found.values()):
                await asyncio.sleep(0.5)
                found = await waiting(stack, tenants)
    return found


async def stored(stack: LocalStack, tenants: Sequence[UUID], left: dict[str, int]) -> Stored:
    """All that there is."""
    ids = list(tenants)
    async with _open(stack, "oltp") as oltp, _open(stack, "queue") as queue, _open(stack, "content") as content:
        jobs = [(row["tenant_id"], json.loads(row["payload"])) for row in await queue.fetch(JOBS, ids)]
        return Stored(
            emails=await oltp.fetch(EMAILS, ids),
            contents=await content.fetch(CONTENTS, ids),
            jobs=Counter((tenant, UUID(job[what])) for tenant, job in jobs for what in ABOUT if what in job),
            doubts=Counter({(row[0], row[1]): row[2] for row in await oltp.fetch(DOUBTS, ids)}),
            waiting=left,
            received=received(stack),
            templates=frozenset(map(tuple, await oltp.fetch(TEMPLATES, ids))),
            lists=frozenset(map(tuple, await content.fetch(LISTS, ids))),
            cancelled=frozenset(
                (row["tenant_id"], row["id"])
                for row in await oltp.fetch(CAMPAIGNS, ids)
                if row["status"] == "cancelled"
            ),
        )


async def kept(stack: LocalStack, tenants: Sequence[UUID], stored: Stored) -> Kept:
    """What there is of acts that cross tiers."""
    ids = list(tenants)
    attempts: dict[tuple[UUID, UUID], list[datetime]] = defaultdict(list)
    leads: dict[tuple[UUID, str], Counter[str]] = defaultdict(Counter)
    async with _open(stack, "oltp") as oltp, _open(stack, "notifications") as notifications:
        for row in await oltp.fetch(ATTEMPTS, ids):
            attempts[row["tenant_id"], row["email_id"]].append(row["started_at"])
        for row in await oltp.fetch(LEADS, ids):
            leads[row["tenant_id"], row["list"]][row["email"]] += 1
        steps = await oltp.fetch(STEPS, ids)
        return Kept(
            campaigns={(row["tenant_id"], str(row["id"])): row["status"] for row in await oltp.fetch(CAMPAIGNS, ids)},
            emails=stored.emails,
            attempts=attempts,
            told=Counter(map(tuple, await notifications.fetch(TOLD, ids))),
            leads=leads,
            sagas=_sagas(await oltp.fetch(SAGAS, ids), steps),
            steps=Counter((row["tenant_id"], row["saga_id"]) for row in steps),
            jobs=stored.jobs,
            files=stored.lists,
        )


def _sagas(rows: Sequence[Any], steps: Sequence[Any]) -> list[Saga]:
    states: dict[tuple[UUID, UUID], dict[tuple[str, str], str]] = defaultdict(dict)
    results: dict[tuple[UUID, UUID], dict[str, Any]] = defaultdict(dict)
    for step in steps:
        its = step["tenant_id"], step["saga_id"]
        states[its][step["step"], step["operation"]] = step["state"]
        if step["operation"] == ACTION:
            results[its][step["step"]] = json.loads(step["result"])
    return [
        Saga(
            *its, row["kind"], row["version"], row["state"], row["subject"], states[its], json.loads(row["input"]),
            results[its],
        )
        for row in rows
        for its in [(row["tenant_id"], row["id"])]
    ]  # fmt: skip


def received(stack: LocalStack) -> dict[str, list[Message]]:
    """Each recipient's messages. The server never deduplicates."""
    found: dict[str, list[Message]] = defaultdict(list)
    for each in read_messages(stack.smtp_store):
        message = Message.of(each.received_at, each.content)
        for recipient in each.recipients:
            found[recipient].append(message)
    return found


async def overdue(stack: LocalStack, tenants: Sequence[UUID], by: timedelta) -> None:
    """As if contents that nobody has claimed had been stored so much earlier."""
    async with _open(stack, "content") as content:
        await content.execute(OVERDUE, list(tenants), by)


async def set_policy(stack: LocalStack, tenant: UUID, policy: str) -> None:
    """What is to be done where nobody knows whether an email was handed over."""
    async with _open(stack, "oltp") as oltp:
        await oltp.execute("UPDATE tenants SET unknown_outcome_policy = $2 WHERE tenant_id = $1", tenant, policy)
