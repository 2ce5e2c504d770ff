"""What must be true once everything is at rest, whatever has happened before."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from tests.simulation.actors import Mailbox
from tests.simulation.acts import DONE, REFUSED, Act, Play, Tenant

ENDED = frozenset({"sent", "failed", "suppressed", "cancelled", "outcome_unknown"})
EMAILS = "SELECT tenant_id, id, recipient, status, attempt, sending_at, content_storage_key, campaign_id FROM emails WHERE tenant_id = ANY ($1)"
CONTENTS = "SELECT tenant_id, storage_key, state FROM content_objects WHERE tenant_id = ANY ($1)"
TEMPLATES = "SELECT tenant_id, content_storage_key FROM templates WHERE tenant_id = ANY ($1)"
JOBS = """SELECT payload, lost_leases, 'live' AS state FROM jobs WHERE tenant_id = ANY ($1)
UNION ALL SELECT payload, lost_leases, 'done' FROM completed_jobs WHERE tenant_id = ANY ($1)
UNION ALL SELECT payload, lost_leases, 'dead' FROM dead_jobs WHERE tenant_id = ANY ($1) ORDER BY lost_leases"""
SAGAS = "SELECT tenant_id, kind, state, last_error FROM sagas WHERE tenant_id = ANY ($1)"
KNOWN = "SELECT tenant_id FROM tier_tenants WHERE tenant_id = ANY ($1)"
OWED = "SELECT tenant_id, destination, kind, attempt, last_error FROM outbox WHERE tenant_id = ANY ($1)"
TENANTS = "SELECT tenant_id FROM tenants WHERE tenant_id = ANY ($1)"
CAMPAIGNS = "SELECT id, status, sealed_at FROM campaigns WHERE tenant_id = ANY ($1)"


@dataclass
class End:
    """What the tiers hold of a history's tenants at its end."""

    emails: list[Any]
    contents: dict[str, tuple[UUID, str]]
    templates: list[Any]
    jobs: list[Any]
    sagas: list[Any]
    known: Counter[UUID]
    owed: list[Any]
    tenants: set[UUID]
    campaigns: dict[UUID, Any]


async def end_of(play: Play) -> End:
    """Look."""
    ids = [tenant.id for tenant in play.tenants]
    rows = play.world.rows
    known = Counter([row[0] for tier in play.world.dbs for row in await rows(tier, KNOWN, ids)])
    return End(
        emails=await rows("oltp", EMAILS, ids),
        contents={row["storage_key"]: (row["tenant_id"], row["state"]) for row in await rows("content", CONTENTS, ids)},
        templates=await rows("oltp", TEMPLATES, ids),
        jobs=await rows("queue", JOBS, ids),
        sagas=await rows("oltp", SAGAS, ids),
        known=known,
        owed=[row for tier in ("oltp", "content", "queue", "notifications") for row in await rows(tier, OWED, ids)],
        tenants={row[0] for row in await rows("oltp", TENANTS, ids)},
        campaigns={row["id"]: row for row in await rows("oltp", CAMPAIGNS, ids)},
    )


def violations(play: Play, mailbox: Mailbox, end: End) -> list[str]:
    """What is not as it was promised; nothing, if all is well."""
    found: list[str] = []
    found += [f"still owed: {o['destination']}/{o['kind']} attempt {o['attempt']} {o['last_error']}" for o in end.owed]
    found += [
        f"saga {saga['kind']} ended as {saga['state']} ({saga['last_error']})"
        for saga in end.sagas
        if saga["state"] not in {"succeeded", "compensated"} and not _given_up(play, saga)
    ]
    for act in play.acts:
        found += [f"{act}: {what}" for what in _act(act, play, end)]
    for tenant in play.tenants:
        found += [f"{tenant.mark}: {what}" for what in _delivered(tenant, mailbox, end)]
    return found + _kept_apart(play, end) + _agreeing(end)


def _given_up(play: Play, saga: Any) -> bool:
    """Whether it was given up for the one reason there is: its tenant was closed."""
    closed = {tenant.id for tenant in play.tenants if play.closes(tenant)}
    return saga["state"] == "abandoned" and saga["tenant_id"] in closed


def _act(act: Act, play: Play, end: End) -> list[str]:
    if act.kind.startswith("send"):
        return _sent(act, end)
    if act.kind == "onboard":
        return _onboarded(act, play, end)
    if act.kind == "launch":
        return _launched(act, play, end)
    return []


def _sent(act: Act, end: End) -> list[str]:
    """What was acknowledged is there once; what was not is all there, or nothing of it."""
    found = []
    rows = {row["recipient"]: row for row in end.emails if row["tenant_id"] == act.tenant.id}
    for address, sent in act.sent.items():
        row = rows.get(address)
        if row is None:
            found.append(f"acknowledged and lost: {address}")
        elif (row["id"], row["content_storage_key"]) != (sent.email_id, sent.storage_key):
            found.append(f"acknowledged as another email: {address}")
    there = [address in rows for address in act.addresses]
    if act.kind == "send" and any(there) and not all(there):
        found.append(f"half a batch stands: {sum(there)} of {len(there)}")
    if act.kind == "send" and act.told == REFUSED and any(there):
        found.append("told that nothing was done, and it stands")
    return found


def _onboarded(act: Act, play: Play, end: End) -> list[str]:
    tiers, stands = end.known[act.tenant.id], act.tenant.id in end.tenants
    if (tiers, stands) not in {(0, False), (len(play.world.dbs), True)}:
        return [f"known to {tiers} tiers, and {'a' if stands else 'no'} tenant"]
    if act.told == DONE and not stands:
        return ["acknowledged and lost"]
    if act.told == REFUSED and stands:
        return ["told that nothing was done, and it stands"]
    return []


def _launched(act: Act, play: Play, end: End) -> list[str]:
    written = Counter(row["recipient"] for row in end.emails if row["campaign_id"] == act.tenant.campaign)
    if any(count > 1 for count in written.values()):
        return ["a lead has two emails"]
    cancelled = any(each.kind == "cancel" and each.tenant is act.tenant for each in play.acts)
    launched = any(
        saga["tenant_id"] == act.tenant.id and saga["kind"] == "campaign.launch" and saga["state"] == "succeeded"
        for saga in end.sagas
    )
    if (act.told == DONE or launched) and not cancelled and set(written) != set(act.tenant.leads):
        return [f"launched, and {len(set(act.tenant.leads) - set(written))} leads have no email"]
    statuses = {row["status"] for identifier, row in end.campaigns.items() if identifier == act.tenant.campaign}
    if launched and not cancelled and statuses != {"completed"}:
        return [f"launched, sent, and the campaign is {statuses}"]
    return []


def _delivered(tenant: Tenant, mailbox: Mailbox, end: End) -> list[str]:
    """Every email has come to rest, and each recipient has what the ledger says."""
    found = []
    for row in end.emails:
        if row["tenant_id"] != tenant.id:
            continue
        address, status, came = row["recipient"], row["status"], mailbox.received[row["recipient"]]
        if status not in ENDED:
            found.append(f"an email stays {status} ({address}, attempt {row['attempt']})")
        if status == "sent" and not came:
            found.append(f"counts as sent and never came: {address}")
        # Whoever chose to have it sent again has it once for each attempt at the most.
        if came > (row["attempt"] if tenant.policy == "resend" else 1):
            found.append(f"came {came} times under {tenant.policy}, in {row['attempt']} attempts: {address}")
        if status == "outcome_unknown" and tenant.policy == "hold" and not row["sending_at"]:
            found.append(f"held in doubt, and nobody has begun: {address}")
        if status in {"cancelled", "suppressed"} and came:
            found.append(f"{status}, and it came: {address}")
        if status == "failed" and address not in mailbox.refused:
            found.append(f"given up for no reason: {address}")
    return found


def _agreeing(end: End) -> list[str]:
    """Tiers agree: keys with rows, jobs with emails."""
    found = []
    referred = {row["content_storage_key"] for row in [*end.emails, *end.templates]}
    for key in referred:
        state = end.contents.get(key, (None, "gone"))[1]
        if state != "claimed":
            found.append(f"an email or template refers to a content that is {state}")
    for key, (_, state) in end.contents.items():
        if key not in referred and state == "claimed":
            found.append("a content is claimed, and nothing refers to it: nobody will ever remove it")
    asked = Counter(bytes(row["payload"]) for row in end.jobs if b"email_id" in bytes(row["payload"]))
    # A late word that it was never handed over owes it another, where its first worker was given up.
    lost = Counter({bytes(row["payload"]): row["lost_leases"] for row in end.jobs})
    found += [f"{count} jobs for one email" for job, count in asked.items() if count > 1 + lost[job]]
    found += [f"a job is {row['state']}" for row in end.jobs if row["state"] != "done"]
    named = b"".join(asked)
    # Of a tenant that was closed before its jobs were made, emails are taken back instead.
    open_emails = [row for row in end.emails if row["status"] != "cancelled"]
    found += ["an email that nobody has a job for" for row in open_emails if str(row["id"]).encode() not in named]
    return found


def _kept_apart(play: Play, end: End) -> list[str]:
    """No tenant has what is another's."""
    marks = {tenant.id: tenant.mark for tenant in play.tenants}
    owners = {row["content_storage_key"]: row["tenant_id"] for row in [*end.emails, *end.templates]}
    found = [
        "an email stands under another tenant"
        for row in end.emails
        if not row["recipient"].startswith(marks[row["tenant_id"]] + "-")
    ]
    found += [
        "a content stands under another tenant"
        for key, (tenant, _) in end.contents.items()
        if owners.get(key, tenant) != tenant
    ]
    return found
