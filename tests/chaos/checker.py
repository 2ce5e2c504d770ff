"""Holds what the databases and the receiving server have in the end against what callers were told."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from email import message_from_bytes
from typing import Any, TypeVar
from uuid import UUID

from tests.chaos.load import Sender
from tests.chaos.recording import FAIL, INFO, OK, Operation

T = TypeVar("T")
# Hand-overs that a fault can leave in doubt: as many as a worker has under way, in each of its processes.
IN_HAND = 64
# What reconcile has nothing to do with, right after the run and before anything else is looked at: whatever it mended was wrong, and
# of what it left uncompared nothing is known.
NOTHING_OF = ("revived", "requeued", "found.dangling", "found.differing_day", "found.uncompared", "found.jobs_owed")
_NAMED = re.compile(r"[0-9a-f]{32}@[0-9a-f]{32}\.example\.com")
_OWNED = re.compile(r"@([0-9a-f]{32})\.example\.com\Z")


@dataclass(frozen=True)
class Message:
    """A message as it came: when, and whom each of its texts is written to."""

    at: datetime
    written_to: Sequence[str]

    @classmethod
    def of(cls, at: datetime, content: bytes) -> Message:
        """From its bytes."""
        parts = [part for part in message_from_bytes(content).walk() if part.get_content_maintype() == "text"]
        texts = [bytes(part.get_payload(decode=True) or b"").decode(errors="replace") for part in parts]
        return cls(at, tuple(" and ".join(_NAMED.findall(text)) or "nobody" for text in texts) or ("nobody",))


@dataclass(frozen=True)
class Stored:
    """What the tiers have in the end, each row by its tenant as well: the same key under another is another. Kept for their own
    sake: contents of templates, and what lists people (an import's file or report). What was `cancelled` is not sent, and need not
    be: emails of campaigns that were."""

    emails: Sequence[Mapping[str, Any]]
    contents: Sequence[Mapping[str, Any]]
    # How many jobs there were for each email or campaign, and how many attempts at each email went out in doubt.
    jobs: Counter[tuple[UUID, UUID]]
    doubts: Counter[tuple[UUID, UUID]]
    waiting: Mapping[str, int]
    # Each recipient's messages.
    received: Mapping[str, Sequence[Message]]
    templates: frozenset[tuple[UUID, str]] = frozenset()
    lists: frozenset[tuple[UUID, str]] = frozenset()
    cancelled: frozenset[tuple[UUID, UUID]] = frozenset()


@dataclass
class Verdict:
    """Every operation under one word, and what is wrong."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    # Under `resend`: who got a message more than once, and in how many hand-overs that is owed to a fault.
    resent: list[dict[str, Any]] = field(default_factory=list)
    doubts: int = 0

    @property
    def holds(self) -> bool:
        """Whether all is as promised."""
        return not self.wrong


def judge(operations: Sequence[Operation], stored: Stored, senders: Sequence[Sender], faults: int) -> Verdict:
    """Classify every operation, and check what must be true of all that is stored, after so many faults and a reconcile."""
    verdict = Verdict()
    rows: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in stored.emails:
        rows[row["recipient"]].append(row)
    for operation in operations:
        word = _classified(operation, rows[operation.recipient])
        verdict.counts[word] += 1
        if word in {"lost", "duplicated", "unexpected"}:
            verdict.wrong.append(f"{word}: {operation.recipient}, told {', '.join(operation.words)}")
    verdict.wrong += [f"{count} {what} wait still" for what, count in stored.waiting.items() if count]
    policies = {sender.tenant: sender.policy for sender in senders}
    for row in stored.emails:
        _delivered(row, policies, stored, verdict)
    _agreeing(stored, verdict)
    verdict.doubts = sum(stored.doubts.values())
    if verdict.doubts > faults * IN_HAND:
        verdict.wrong.append(f"{verdict.doubts} hand-overs in doubt after {faults} faults, at most {IN_HAND} each")
    return verdict


def owner(address: str) -> UUID | None:
    """The tenant that an address was made for: it stands in it."""
    found = _OWNED.search(address)
    return UUID(found[1]) if found else None


def owners(emails: Sequence[Mapping[str, Any]]) -> dict[UUID, UUID]:
    """Whose each email is, wherever it stands."""
    return {row["id"]: owner(row["recipient"]) or row["tenant_id"] for row in emails}


def judge_foreign(what: str, found: Mapping[tuple[UUID, T], int], whose: Mapping[T, UUID], verdict: Verdict) -> None:
    """Add rows, by tenant and by what they belong to, that stand under another tenant than that does."""
    foreign: Counter[tuple[UUID, UUID]] = Counter()
    for (tenant, about), count in found.items():
        if (owned_by := whose.get(about, tenant)) != tenant:
            foreign[owned_by, tenant] += count
    verdict.counts["foreign"] += foreign.total()
    verdict.wrong += [
        f"{count} {what} of another tenant: {owned_by}'s under {tenant}"
        for (owned_by, tenant), count in foreign.items()
    ]


def judge_reconciled(done: Mapping[str, int], verdict: Verdict) -> None:
    """Add what reconcile had to mend of what was acknowledged: a content that was to be deleted, an email without its job, a
    reference to nothing, a day that was counted otherwise; or what it could say nothing of."""
    verdict.wrong += [f"reconcile: {name} is {done[name]}" for name in NOTHING_OF if done.get(name)]


def _classified(operation: Operation, rows: Sequence[Mapping[str, Any]]) -> str:
    if len(rows) > 1:
        return "duplicated"
    if operation.last == OK:
        if not rows or rows[0]["id"] != operation.email_id or rows[0]["tenant_id"] != operation.tenant:
            return "lost"
        return "recovered" if INFO in operation.words else "ok"
    if operation.last == FAIL:
        if rows:
            return "unexpected"
        return "refused"
    return "unknown"


def _delivered(row: Mapping[str, Any], policies: Mapping[UUID, str], stored: Stored, verdict: Verdict) -> None:
    tenant, who, status = row["tenant_id"], row["recipient"], row["status"]
    policy, doubts = policies.get(tenant, "hold"), stored.doubts[tenant, row["id"]]
    came = stored.received.get(who, ())
    verdict.counts[f"email {status}"] += 1
    if owner(who) != tenant:
        verdict.counts["foreign"] += 1
        verdict.wrong.append(f"an email of another tenant: {who} under {tenant}")
    # Nobody is suppressed here, nothing but whole campaigns is cancelled, and the receiving server refuses nothing.
    held = status == "outcome_unknown" and policy == "hold" and doubts
    taken_back = status == "cancelled" and (tenant, row.get("campaign_id")) in stored.cancelled and not came
    if status != "sent" and not held and not taken_back:
        verdict.wrong.append(f"an email is {status} in the end, under {policy}: {who}")
    if status == "sent" and not came:
        verdict.wrong.append(f"counts as sent and never came: {who}")
    verdict.wrong += [f"written to {to}, it came to {who}" for each in came for to in each.written_to if to != who]
    if len(came) <= 1:
        return
    if policy != "resend" or len(came) > 1 + doubts:
        verdict.wrong.append(f"came {len(came)} times under {policy}, {doubts} in doubt: {who}")
    else:
        verdict.resent.append({"recipient": who, "came": [each.at.isoformat() for each in came]})


def _agreeing(stored: Stored, verdict: Verdict) -> None:
    states = {(row["tenant_id"], row["storage_key"]): row["state"] for row in stored.contents}
    referred = stored.templates | {(row["tenant_id"], row["content_storage_key"]) for row in stored.emails}
    for each in referred:
        if states.get(each) != "claimed":
            verdict.wrong.append(f"an email's content is {states.get(each, 'gone')}")
    for each, state in states.items():
        if each not in referred and each not in stored.lists:
            verdict.wrong.append(f"a content is {state} and nothing refers to it")
    judge_foreign("contents", dict.fromkeys(states, 1), {key: tenant for tenant, key in referred}, verdict)
    for row in stored.emails:
        # An email that was given back after a doubt has a job for each time.
        its = row["tenant_id"], row["id"]
        jobs, most = stored.jobs[its], 1 + stored.doubts[its]
        if not 1 <= jobs <= most:
            verdict.wrong.append(f"{jobs} jobs for one email, {row['recipient']}")
    judge_foreign("jobs", stored.jobs, owners(stored.emails), verdict)
    judge_foreign("attempts in doubt", stored.doubts, owners(stored.emails), verdict)
