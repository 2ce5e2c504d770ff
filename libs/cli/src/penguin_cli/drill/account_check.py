"""Holds what was acknowledged against what is there: nothing lost, nothing twice, nothing that was refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from penguin_cli.drill.load import Account, Mail
from penguin_cli.drill.stand import Stand, eventually, missing

# What a killed relay or worker held comes back when its lease is over (30 s at most).
SETTLE_S = 75.0
_CONTENTS = "SELECT tenant_id, storage_key FROM content_objects WHERE storage_key = ANY($1)"
_AT_REST = ("sent", "outcome_unknown", "failed", "suppressed", "cancelled")


@dataclass
class Audit:
    """What was counted, and what was wrong."""

    problems: list[str] = field(default_factory=list)
    # Recipients whose email's outcome is unknown.
    held: list[str] = field(default_factory=list)
    figures: dict[str, float | int] = field(default_factory=dict)


def judge_mails(
    mails: Sequence[Mail], statuses: Mapping[UUID, str], received: Mapping[str, int], *, holds: bool
) -> Audit:
    """Every acknowledged email is sent and arrived once; held ones are allowed (and counted) where the fault explains them."""
    audit, counts = Audit(), Counter[str]()
    for mail in mails:
        arrived, status = received.get(mail.email.recipient, 0), _status(mail, statuses)
        counts["doubled"] += arrived > 1
        counts[mail.state] += 1
        if mail.state == "acknowledged":
            if status == "outcome_unknown":
                audit.held.append(mail.email.recipient)
            counts["lost"] += status is None or (status == "sent" and not arrived)
            counts["stuck"] += status is not None and status not in ("sent", "outcome_unknown")
        elif mail.state == "refused":
            counts["uninvited"] += bool(arrived)
    counts["held"] = len(audit.held)
    audit.figures = {f"emails_{name}": counts[name] for name in ("acknowledged", "refused", "held")}
    audit.problems += [
        f"{counts[name]} emails {words}"
        for name, words in (
            ("lost", "were acknowledged and are lost"), ("doubled", "arrived twice"),
            ("stuck", "were acknowledged and are still on their way"), ("uninvited", "were refused and arrived"),
            ("unknown", "are still of unknown outcome"),
        )
        if counts[name]
    ]  # fmt: skip
    if counts["held"] and not holds:
        audit.problems.append(f"{counts['held']} emails are held though nobody who hands over was hit")
    return audit


def _status(mail: Mail, statuses: Mapping[UUID, str]) -> str | None:
    return statuses.get(mail.email_id) if mail.email_id is not None else None


async def audit(stand: Stand, part: Account, *, holds: bool) -> Audit:
    """Look everything up that was told, once it has come to rest."""
    wanted = [mail.email_id for mail in part.mails if mail.email_id is not None]
    statuses: dict[UUID, str] = {}

    async def at_rest() -> bool:
        rows = await stand.rows("oltp", "SELECT id, status FROM emails WHERE id = ANY($1)", wanted)
        statuses.update({row["id"]: row["status"] for row in rows})
        return all(statuses.get(each) in _AT_REST for each in wanted)

    async def all_done() -> bool:
        return part.acknowledged["jobs"] <= part.effects.keys()

    settled_s = await eventually(at_rest, SETTLE_S, 0.5)
    await eventually(all_done, SETTLE_S, 0.5)
    found = judge_mails(part.mails, statuses, await stand.received(), holds=holds)
    found.figures["emails_settled_after_s"] = round(settled_s if settled_s is not None else SETTLE_S, 1)
    for tier, table in (("oltp", "leads"), ("notifications", "notifications")):
        ids = part.acknowledged[table]
        lost = missing(ids, await stand.rows(tier, f"SELECT id FROM {table} WHERE id = ANY($1)", list(ids)))  # noqa: S608
        found.figures[table] = len(ids)
        if lost:
            found.problems.append(f"{len(lost)} {table} were acknowledged and are lost")
    rows = await stand.rows("content", _CONTENTS, [key for _, key in part.contents])
    found.figures["contents"] = len(part.contents)
    if gone := part.contents - {(row["tenant_id"], row["storage_key"]) for row in rows}:
        found.problems.append(f"{len(gone)} contents were acknowledged and are lost")
    _judge_jobs(part, found)
    found.problems += judge_load(part)
    return found


def judge_load(part: Account) -> list[str]:
    """An account in which nothing was acknowledged shows nothing."""
    counts = {"emails": sum(mail.state == "acknowledged" for mail in part.mails)}
    counts |= {what: len(ids) for what, ids in part.acknowledged.items()}
    counts["contents"] = len(part.contents)
    return [f"no {what} were acknowledged: nothing was shown" for what, count in sorted(counts.items()) if not count]


def _judge_jobs(part: Account, found: Audit) -> None:
    jobs = part.acknowledged["jobs"]
    lost = jobs - part.effects.keys()
    twice = [act for act in jobs if len(part.effects.get(act, ())) > 1]
    found.figures |= {"jobs": len(jobs), "job_repeats": part.repeats}
    if lost:
        found.problems.append(f"{len(lost)} jobs were acknowledged and never came")
    if twice:
        found.problems.append(f"{len(twice)} enqueues made two jobs")
