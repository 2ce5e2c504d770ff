"""Holds each act that crosses tiers against its end state: done or undone, never half; and what was acknowledged is so."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from tests.chaos.acting import ENDED, Played
from tests.chaos.checker import Verdict, judge_foreign, owner, owners
from tests.chaos.recording import FAIL, INFO, OK, Act

from penguin_orchestrator.sagas.definition import ACTION, COMPENSATION
from penguin_orchestrator.sagas.journal import DONE
from penguin_orchestrator.sagas.known import KNOWN

# How a campaign may stand right after an act was acknowledged, if no other is under way.
STANDS = {
    "launch": {"running", "completed"}, "resume": {"running", "completed"}, "pause": {"paused"}, "cancel": {"cancelled"},
}  # fmt: skip
# What may be refused where the campaign has ended before; the others have no reason to be.
REFUSABLE = frozenset({"pause", "resume", "cancel"})
IMPORT = "leads.import"


@dataclass(frozen=True)
class Saga:
    """A saga as journaled: its steps' states by step and operation, what it was asked for, and what came of its actions. Steps
    under another tenant are none of its own."""

    tenant: UUID
    id: UUID
    kind: str
    version: int
    state: str
    about: str
    steps: Mapping[tuple[str, str], str]
    input: Mapping[str, Any]
    results: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Kept:
    """What the tiers have of acts in the end, all of it by tenant as well: the same id under another is another. Campaigns by id:
    how they stand; attempts at emails: when each was begun; how often a campaign's end was told; leads by list; sagas, and how many
    steps are journaled of each; jobs for emails and campaigns; and contents that list people, files and reports of imports."""

    campaigns: Mapping[tuple[UUID, str], str]
    emails: Sequence[Mapping[str, Any]]
    attempts: Mapping[tuple[UUID, UUID], Sequence[datetime]]
    told: Counter[tuple[UUID, str]]
    leads: Mapping[tuple[UUID, str], Counter[str]]
    sagas: Sequence[Saga]
    steps: Counter[tuple[UUID, UUID]]
    jobs: Counter[tuple[UUID, UUID]]
    files: frozenset[tuple[UUID, str]]


def judge_acts(acts: Sequence[Act], played: Played, kept: Kept, verdict: Verdict) -> None:
    """Classify every act, and add what is wrong."""
    by_about: dict[str, list[Act]] = defaultdict(list)
    # What nobody asked for is nobody's.
    whose: dict[str, UUID] = defaultdict(lambda: UUID(int=0))
    for act in acts:
        by_about[act.about].append(act)
        whose[act.about] = act.tenant
        verdict.counts[f"{act.kind} {'recovered' if act.outcome == OK and INFO in act.words else act.outcome}"] += 1
    verdict.wrong += [f"no answer in time: {each}" for each in played.unanswered]
    for saga in kept.sagas:
        verdict.wrong += _journaled(saga)
    emails: dict[tuple[UUID, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in kept.emails:
        if row["campaign_id"] is not None:
            emails[row["tenant_id"], str(row["campaign_id"])].append(row)
    succeeded = {(saga.kind, saga.tenant, saga.about) for saga in kept.sagas if saga.state == "succeeded"}
    for campaign, audience in played.campaigns.items():
        asked, its = by_about[campaign], (whose[campaign], campaign)
        status = kept.campaigns.get(its, "gone")
        wrong = [
            *_standing(asked, status),
            *_written(asked, status, audience, emails[its], kept.attempts),
            *(f"{act.kind} was acknowledged and no saga did it" for act in asked
              if act.outcome == OK and (f"campaign.{act.kind}", *its) not in succeeded),
        ]  # fmt: skip
        if kept.told[its] != (status == "completed"):
            wrong.append(f"its end was told {kept.told[its]} times")
        verdict.wrong += [f"campaign {campaign}: {each}" for each in wrong]
    for name, addresses in played.lists.items():
        stand = kept.leads.get((whose[name], name), Counter())
        verdict.wrong += [f"list {name}: {each}" for each in _imported(by_about[name], addresses, stand)]
    _files(acts, kept, verdict)
    _foreign(whose, emails, kept, verdict)


def _journaled(saga: Saga) -> list[str]:
    """A saga has come to its end, and all of it to the same one."""
    definition = KNOWN.find(saga.kind, saga.version)
    if definition is None or saga.state not in {"succeeded", "compensated"}:
        return [f"a saga {saga.kind}/{saga.version} is {saga.state} in the end, about {saga.about}"]
    if saga.state == "succeeded":
        half = [step.name for step in definition.steps if saga.steps.get((step.name, ACTION)) not in DONE]
    else:
        half = [
            step.name for step in definition.steps
            if step.undo is not None and (step.name, ACTION) in saga.steps
            and saga.steps.get((step.name, COMPENSATION)) not in DONE
        ]  # fmt: skip
    return [f"half: a saga {saga.kind} {saga.state} without {step}, about {saga.about}" for step in half]


def _standing(asked: Sequence[Act], status: str) -> list[str]:
    """What was acknowledged was so when it was, and is so in the end."""
    wrong = [
        f"{act.kind} was acknowledged, and it was {act.seen}" for act in asked
        if act.outcome == OK and not act.beside and act.seen not in STANDS[act.kind]
    ]  # fmt: skip
    wrong += [
        f"{act.kind} was refused though it was {act.seen}: {act.why}" for act in asked
        if act.outcome == FAIL and not act.beside and (act.kind not in REFUSABLE or act.seen not in ENDED)
    ]  # fmt: skip
    cancels = [act.outcome for act in asked if act.kind == "cancel"]
    wanted = {"cancelled"} if OK in cancels else ENDED if INFO in cancels else {"completed"}
    return [
        *wrong,
        *([f"it is {status} in the end, not {' or '.join(sorted(wanted))}"] if status not in wanted else []),
    ]


def _written(
    asked: Sequence[Act], status: str, audience: frozenset[str], emails: Sequence[Mapping[str, Any]],
    attempts: Mapping[tuple[UUID, UUID], Sequence[datetime]],
) -> list[str]:  # fmt: skip
    """Who of its audience has an email: everybody one where it has completed; and none is written or tried once it was stopped."""
    each = Counter(row["recipient"] for row in emails)
    wrong = [f"{count} emails to {who}" for who, count in each.items() if count > 1]
    wrong += [f"an email to {who}, who is not of its audience" for who in each if who not in audience]
    if status == "completed" and (without := len(audience - each.keys())):
        wrong.append(f"it is completed and {without} recipients have no email")
    for number, act in enumerate(asked):
        if act.outcome != OK or act.beside or act.kind not in {"pause", "cancel"} or act.ended_at is None:
            continue
        until = asked[number + 1].begun_at if act.kind == "pause" and number + 1 < len(asked) else None
        late = [row for row in emails if _within(row["queued_at"], act.ended_at, until)]
        wrong += [f"{len(late)} emails were written after its {act.kind}"] if late else []
        if act.kind == "cancel":
            tried = [
                at for row in emails for at in attempts.get((row["tenant_id"], row["id"]), ())
                if _within(at, act.ended_at, None)
            ]  # fmt: skip
            wrong += [f"{len(tried)} emails were tried after its cancel"] if tried else []
    return wrong


def _within(at: datetime, begun: datetime, until: datetime | None) -> bool:
    return begun < at and (until is None or at < until)


def _imported(asked: Sequence[Act], addresses: frozenset[str], stand: Counter[str]) -> list[str]:
    """Each row of a file that was imported stands once, and no other."""
    if not asked or any(act.outcome != OK for act in asked):
        return [f"its import is {act.outcome}: {act.why}" for act in asked] or ["nobody asked for its import"]
    wrong = [f"{count} times {who}" for who, count in stand.items() if count > 1]
    if missing := len(addresses - stand.keys()):
        wrong.append(f"{missing} of {len(addresses)} rows are missing")
    if strange := len(stand.keys() - addresses):
        wrong.append(f"{strange} rows are not of its file")
    return wrong


def _files(acts: Sequence[Act], kept: Kept, verdict: Verdict) -> None:
    """No file is left of an import that has ended; what else is left, somebody was uploading who ended before its saga began."""
    imports = [saga for saga in kept.sagas if saga.kind == IMPORT]
    left = kept.files.intersection((saga.tenant, saga.input["key"]) for saga in imports)
    verdict.wrong += [f"{len(left)} files of imports are left"] if left else []
    reports = {(saga.tenant, key) for saga in imports for key in _reports(saga)}
    strays = len(kept.files - left - reports)
    unknown = sum(act.words.count(INFO) for act in acts if act.kind == "import")
    verdict.counts["uploads without an import"] = strays
    if strays > unknown:
        verdict.wrong.append(f"{strays} uploads without an import, and {unknown} times of asking that were cut off")


def _reports(saga: Saga) -> list[str]:
    report = saga.results.get("report", {})
    return [report["key"]] if "key" in report else []


def _foreign(
    whose: Mapping[str, UUID], emails: Mapping[tuple[UUID, str], Sequence[Any]], kept: Kept, verdict: Verdict
) -> None:
    """Each row is of the tenant of the act, email or saga that it belongs to; a lead of the one that its address names."""
    leads = Counter((tenant, who) for (tenant, _), rows in kept.leads.items() for who in rows.elements())
    addressed = {who: tenant for _, who in leads if (tenant := owner(who)) is not None}
    imports = [saga for saga in kept.sagas if saga.kind == IMPORT]
    filed = {key: saga.tenant for saga in imports for key in (saga.input["key"], *_reports(saga))}
    sagas = Counter((saga.tenant, saga.input["list"] if saga.kind == IMPORT else saga.about) for saga in kept.sagas)
    jobs = {(tenant, str(about)): count for (tenant, about), count in kept.jobs.items()}
    judge_foreign("campaigns", dict.fromkeys(kept.campaigns, 1), whose, verdict)
    judge_foreign("emails of campaigns", {its: len(rows) for its, rows in emails.items()}, whose, verdict)
    judge_foreign("attempts", {its: len(begun) for its, begun in kept.attempts.items()}, owners(kept.emails), verdict)
    judge_foreign("ends of campaigns told", kept.told, whose, verdict)
    judge_foreign("jobs of campaigns", jobs, whose, verdict)
    judge_foreign("leads", leads, addressed, verdict)
    judge_foreign("sagas", sagas, whose, verdict)
    judge_foreign("steps of sagas", kept.steps, {saga.id: saga.tenant for saga in kept.sagas}, verdict)
    judge_foreign("files of imports", dict.fromkeys(kept.files, 1), filed, verdict)
