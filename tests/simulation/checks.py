"""What must be true once everything is at rest, whatever has happened before."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from tests.simulation.acknowledged import SAGAS as MOVES
from tests.simulation.acknowledged import Found, held_against, wayward
from tests.simulation.actors import Mailbox
from tests.simulation.acts import DONE, REFUSED, Act, Play, Tenant
from tests.simulation.chronicle import CANCELLED, Chronicle

from penguin_oltp.domain.subjects import ERASED

ENDED = frozenset({"sent", "failed", "suppressed", "cancelled", "outcome_unknown"})
EMAILS = "SELECT tenant_id, id, recipient, status, attempt, sending_at, content_storage_key, campaign_id FROM emails WHERE tenant_id = ANY ($1)"
CONTENTS = "SELECT tenant_id, storage_key, state FROM content_objects WHERE tenant_id = ANY ($1)"
TEMPLATES = "SELECT tenant_id, content_storage_key FROM templates WHERE tenant_id = ANY ($1)"
JOBS = """SELECT tenant_id, payload, lost_leases, 'live' AS state FROM jobs WHERE tenant_id = ANY ($1)
UNION ALL SELECT tenant_id, payload, lost_leases, 'done' FROM completed_jobs WHERE tenant_id = ANY ($1)
UNION ALL SELECT tenant_id, payload, lost_leases, CASE last_error WHEN 'lease_lost' THEN 'given up' ELSE 'dead' END
FROM dead_jobs WHERE tenant_id = ANY ($1) ORDER BY lost_leases"""
SAGAS = "SELECT tenant_id, kind, state, last_error FROM sagas WHERE tenant_id = ANY ($1)"
KNOWN = "SELECT tenant_id, state FROM tier_tenants WHERE tenant_id = ANY ($1)"
OWED = "SELECT tenant_id, destination, kind, attempt, last_error FROM outbox WHERE tenant_id = ANY ($1)"
TENANTS = "SELECT tenant_id, status FROM tenants WHERE tenant_id = ANY ($1)"
CAMPAIGNS = """SELECT c.id, c.status, c.version, t.status AS tenant FROM campaigns AS c JOIN tenants AS t USING (tenant_id)
WHERE tenant_id = ANY ($1)"""


@dataclass
class End:
    """What the tiers hold of a history's tenants at its end."""

    emails: list[Any]
    contents: dict[str, tuple[UUID, str]]
    templates: list[Any]
    jobs: list[Any]
    sagas: list[Any]
    # Of the tiers that know a tenant, its state there.
    known: dict[UUID, dict[str, str]]
    owed: list[Any]
    tenants: dict[UUID, str]
    campaigns: dict[UUID, Any]


async def end_of(play: Play) -> End:
    """Look."""
    ids = [tenant.id for tenant in play.tenants]
    rows = play.world.rows
    known: dict[UUID, dict[str, str]] = {tenant: {} for tenant in ids}
    for tier in play.world.dbs:
        for row in await rows(tier, KNOWN, ids):
            known[row["tenant_id"]][tier] = row["state"]
    return End(
        emails=await rows("oltp", EMAILS, ids),
        contents={row["storage_key"]: (row["tenant_id"], row["state"]) for row in await rows("content", CONTENTS, ids)},
        templates=await rows("oltp", TEMPLATES, ids),
        jobs=await rows("queue", JOBS, ids),
        sagas=await rows("oltp", SAGAS, ids),
        known=known,
        owed=[row for tier in ("oltp", "content", "queue", "notifications") for row in await rows(tier, OWED, ids)],
        tenants={row["tenant_id"]: row["status"] for row in await rows("oltp", TENANTS, ids)},
        campaigns={row["id"]: row for row in await rows("oltp", CAMPAIGNS, ids)},
    )


def violations(play: Play, mailbox: Mailbox, end: End, chronicle: Chronicle) -> list[str]:
    """What is not as it was promised; nothing, if all is well."""
    found: list[str] = []
    found += [f"still owed: {o['destination']}/{o['kind']} attempt {o['attempt']} {o['last_error']}" for o in end.owed]
    found += [
        f"saga {saga['kind']} ended as {saga['state']} ({saga['last_error']})"
        for saga in end.sagas
        if saga["state"] not in {"succeeded", "compensated"} and not _given_up(end, saga)
    ]
    for act in play.acts:
        found += [f"{act}: {what}" for what in _act(act, play, end, chronicle)]
    for campaign in end.campaigns.values():
        found += wayward(campaign, chronicle, closed=campaign["tenant"] == "closed")
    for tenant in play.tenants:
        found += [f"{tenant.mark}: {what}" for what in _delivered(tenant, mailbox, end)]
    return found + _kept_apart(play, end) + _agreeing(end)


def _given_up(end: End, saga: Any) -> bool:
    """Whether it was given up for the one reason there is: its tenant was closed."""
    return saga["state"] == "abandoned" and _closed(end, saga["tenant_id"])


def _closed(end: End, tenant_id: UUID) -> bool:
    return end.tenants.get(tenant_id) == "closed"


def _act(act: Act, play: Play, end: End, chronicle: Chronicle) -> list[str]:
    if act.kind.startswith("send"):
        return _sent(act, play, end)
    if act.kind == "onboard":
        return _onboarded(act, play, end)
    if act.kind not in MOVES:
        return []
    tenant = act.tenant
    campaign = end.campaigns[tenant.campaign] if tenant.campaign is not None else None
    emails = [row for row in end.emails if row["tenant_id"] == tenant.id]
    told = Found(
        chronicle,
        campaign,
        emails,
        {tier: end.known[tenant.id].get(tier, "unknown") for tier in play.world.dbs},
        end.tenants.get(tenant.id, "gone"),
    )
    written = _written(act, play, end) if act.kind in {"launch", "resume"} else []
    return [*held_against(act, told), *written]


def _sent(act: Act, play: Play, end: End) -> list[str]:
    """What was acknowledged is there once; what was not is all there, or nothing of it."""
    found = []
    own = [row for row in end.emails if row["tenant_id"] == act.tenant.id]
    rows, ids = {row["recipient"]: row for row in own}, {row["id"]: row for row in own}
    for address, sent in act.sent.items():
        row = rows.get(address, ids.get(sent.email_id) if address in play.erased else None)
        if row is None:
            found.append(f"acknowledged and lost: {address}")
        elif (row["id"], row["content_storage_key"]) != (sent.email_id, sent.storage_key):
            found.append(f"acknowledged as another email: {address}")
    there = [address in rows for address in act.addresses if address not in play.erased]
    if act.kind == "send" and any(there) and not all(there):
        found.append(f"half a batch stands: {sum(there)} of {len(there)}")
    if act.kind == "send" and act.told == REFUSED and any(there):
        found.append("told that nothing was done, and it stands")
    return found


def _onboarded(act: Act, play: Play, end: End) -> list[str]:
    tiers, stands = len(end.known[act.tenant.id]), act.tenant.id in end.tenants
    if (tiers, stands) not in {(0, False), (len(play.world.dbs), True)}:
        return [f"known to {tiers} tiers, and {'a' if stands else 'no'} tenant"]
    if act.told == DONE and not stands:
        return ["acknowledged and lost"]
    if act.told == REFUSED and stands:
        return ["told that nothing was done, and it stands"]
    return []


def _written(act: Act, play: Play, end: End) -> list[str]:
    """Of a campaign that was launched everybody has an email in the end, unless it was cancelled, or its tenant closed."""
    tenant = act.tenant
    assert tenant.campaign is not None
    campaign = end.campaigns[tenant.campaign]
    written = Counter(row["recipient"] for row in end.emails if row["campaign_id"] == tenant.campaign)
    if any(count > 1 and address != ERASED for address, count in written.items()):
        return ["a lead has two emails"]
    launched = any(
        saga["tenant_id"] == tenant.id and saga["kind"] == MOVES[act.kind] and saga["state"] == "succeeded"
        for saga in end.sagas
    )
    if not launched or campaign["status"] == CANCELLED or _closed(end, tenant.id):
        return []
    if lacking := set(tenant.leads) - set(written) - play.erased:
        return [f"launched, and {len(lacking)} leads have no email"]
    if campaign["status"] != "completed":
        return [f"launched, sent, and the campaign is {campaign['status']}"]
    return []


def _delivered(tenant: Tenant, mailbox: Mailbox, end: End) -> list[str]:
    """Every email has come to rest, and each recipient has what the ledger says; of whom was erased it says no more."""
    found = ["an email was sent to nobody"] if mailbox.received[ERASED] else []
    for row in end.emails:
        if row["tenant_id"] != tenant.id:
            continue
        address, status, came = row["recipient"], row["status"], mailbox.received[row["recipient"]]
        if status not in ENDED:
            found.append(f"an email stays {status} ({address}, attempt {row['attempt']})")
        if address == ERASED:
            continue
        if status == "sent" and not came:
            found.append(f"counts as sent and never came: {address}")
        # Whoever chose to have it sent again has it once for each attempt at the most.
        if came > (row["attempt"] if tenant.policy == "resend" else 1):
            found.append(f"came {came} times under {tenant.policy}, in {row['attempt']} attempts: {address}")
        if status == "outcome_unknown" and tenant.policy == "hold" and not row["sending_at"]:
            found.append(f"held in doubt, and nobody has begun: {address}")
        if status in {"cancelled", "suppressed", "failed"} and came:
            found.append(f"{status}, and it came: {address}")
        if status == "failed" and address not in mailbox.refused:
            found.append(f"given up for no reason: {address}")
    return found


def _agreeing(end: End) -> list[str]:
    """Tiers agree: keys with rows, jobs with emails. What was written to somebody who was erased is gone."""
    found = []
    emails = [row for row in end.emails if row["recipient"] != ERASED]
    referred = {row["content_storage_key"] for row in [*emails, *end.templates]}
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
    # Nobody redrives what was given up of a tenant that is closed.
    ends = {tenant: {"done", "given up"} if status == "closed" else {"done"} for tenant, status in end.tenants.items()}
    found += [
        f"a job is {row['state']}" for row in end.jobs if row["state"] not in ends.get(row["tenant_id"], {"done"})
    ]
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
        if row["recipient"] != ERASED and not row["recipient"].startswith(marks[row["tenant_id"]] + "-")
    ]
    found += [
        "a content stands under another tenant"
        for key, (tenant, _) in end.contents.items()
        if owners.get(key, tenant) != tenant
    ]
    return found
