"""Holds what was seen of a promise against the promise: what is to be said of it, and what is wrong. Pure.

Nothing seen is nothing shown, and that is wrong: a cell must not be green because nobody looked, or because nothing happened.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from penguin_cli.drill.findings import RECOVERY_S, refusal_problems

# What is to be said, and what is wrong.
Judgement = tuple[str, list[str]]
NOTHING_SHOWN = "nothing was shown"
# By how much a report's time may be ahead of ours when the ledger went away (seconds).
AHEAD = timedelta(seconds=2)
# Processes that idle while the queue is away.
IDLING = ("worker", "relay")


@dataclass(frozen=True)
class Waiting:
    """A job as the queue has it: attempts counted, how often it was put off and why last, whether it is done or in hand."""

    attempts: int
    snoozes: int
    reason: str
    done: bool = False
    held: bool = False

    def put_off_for(self, tier: str) -> bool:
        """Whether somebody looked at it, and put it off because that tier was away."""
        return self.snoozes > 0 and self.reason.startswith(f"{tier}.")


def worked(took: Sequence[float]) -> Judgement:
    """Rounds of calls that worked, by how long each took (seconds)."""
    if not took:
        return "no round was made", [f"nothing was asked: {NOTHING_SHOWN}"]
    return f"{len(took)} rounds, {max(took) * 1000:.0f} ms at most", []


def refused(times: Sequence[float], limit_s: float) -> Judgement:
    """Calls that were refused, by how long each took (seconds)."""
    problems = refusal_problems(times, limit_s)
    if not times:
        return "no call was refused", problems
    median, worst = statistics.median(times) * 1000, max(times) * 1000
    return f"{len(times)} calls refused, median {median:.0f} ms, worst {worst:.0f} ms", problems


def stale(broken_at: datetime, through: datetime) -> Judgement:
    """Until when reports reached in the outage of their ledger."""
    said = f"data through {through:%H:%M:%S}, {(datetime.now(UTC) - through).total_seconds():.1f} s old"
    if through.timestamp() == 0:
        return said, ["no data_through is shown"]
    return said, ["data_through moved on though the ledger is away"] if through > broken_at + AHEAD else []


def fresh(took_s: float | None) -> Judgement:
    """After how long reports reached beyond the outage; None: not in time."""
    if took_s is None:
        return "not fresh again", [f"reports were not fresh {RECOVERY_S:g} s after the fault"]
    return f"fresh again after {took_s:.1f} s", []


def backed_off(tier: str, wanted: int, jobs: Sequence[Waiting], *, may_be_done: bool = False) -> Judgement:
    """Jobs whose time came while what they need was away: each is there, was looked at and put off for that tier, and no
    attempt was counted. Where the tier may do some of it they may be done, or in hand."""
    waiting = [job for job in jobs if not job.done]
    idle = [job for job in waiting if not (job.put_off_for(tier) or (may_be_done and job.held))]
    reasons = Counter(job.reason or "no reason" for job in waiting if job.snoozes)
    said = (
        f"{len(waiting)} jobs wait, {sum(job.held for job in waiting)} of them in hand, "
        f"{len(jobs) - len(waiting)} are done, {sum(job.attempts for job in jobs)} attempts burnt, "
        f"put off {sum(job.snoozes for job in waiting)} times ({', '.join(sorted(reasons)) or 'never'})"
    )
    gone = wanted - (len(jobs) if may_be_done else len(waiting))
    problems = [f"{gone} jobs are gone though what they need is away"] if gone > 0 else []
    if any(job.attempts for job in jobs):
        problems.append("an attempt was counted")
    if idle:
        problems.append(f"{len(idle)} jobs were never put off for {tier}: nobody looked at them, {NOTHING_SHOWN}")
    if not wanted or not jobs:
        problems.append(f"there were no such jobs: {NOTHING_SHOWN}")
    return said, problems


def caught_up(attempts: int | None, fresh_s: float | None) -> Judgement:
    """What came of a refresh that waited: attempts counted of it (None: it was not done in time), and after how long the
    figures reached beyond the outage (seconds; None: not in time)."""
    problems = [] if attempts is not None else [f"the job was not done {RECOVERY_S:g} s after the fault"]
    if attempts:
        problems.append("an attempt was counted before the refresh was done")
    said, late = fresh(fresh_s)
    return said, problems + late


def idled(before: Mapping[str, int], after: Mapping[str, int]) -> Judgement:
    """Processes that idle, by name and process id."""
    missing = [name for name in IDLING if not any(each.startswith(name) for each in before)]
    if missing:
        return "nobody idled", [f"there was no {each}: {NOTHING_SHOWN}" for each in missing]
    if after != before:
        return "not all stay", ["a worker or relay ended or was started anew"]
    return "worker and relay stay", []


def kept_intents(*, ended: bool, kept: int, told: int) -> Judgement:
    """Of a campaign in an outage: whether it ended meanwhile, how many intents to tell of it stood in the outbox then (or had
    found room), and how often its tenant was told in the end."""
    said = f"the campaign's end was told {told} times, {kept} intents were kept in the outage"
    problems = [] if ended else [f"the campaign did not end in the outage: {NOTHING_SHOWN}"]
    if ended and not kept:
        problems.append("no intent was kept though the campaign ended in the outage")
    if told != 1:
        problems.append(f"the tenant was told {told} times of a campaign that ended in the outage, not once")
    return said, problems


def resumed(sent: Collection[str], seen: Sequence[str], *, broke: bool, while_away: int) -> Judgement:
    """Notifications that a watcher was to see and saw; whether its stream broke, and how many were written while it was away."""
    mine = [each for each in seen if each in sent]
    problems = [] if broke else [f"the stream never broke: {NOTHING_SHOWN}"]
    if not while_away:
        problems.append(f"nothing was written while the watcher was away: {NOTHING_SHOWN}")
    if set(mine) != set(sent) or len(mine) != len(set(mine)):
        problems.append(
            f"of {len(sent)} notifications a watcher saw {len(mine)}, {len(set(mine))} different ones: missed or repeated"
        )
    said = f"of {len(sent)} notifications {len(set(mine))} were seen, {while_away} of them written while the watcher was away"
    return said, problems


def sends_refused(took: Sequence[float]) -> Judgement:
    """Sends that were tried in an outage, by how long each took to be refused (seconds)."""
    if not took:
        return "no send was tried", [f"no send was refused: {NOTHING_SHOWN}"]
    return f"{len(took)} sends refused, after {max(took):.1f} s at most", []


def sent_or_shed(tried: int, accepted: Collection[str], received: Mapping[str, int]) -> Judgement:
    """Sends that were tried with little room, and what arrived of those that were accepted."""
    said = f"{len(accepted)} of {tried} sends accepted, the others refused"
    if not tried:
        return said, [f"no send was tried: {NOTHING_SHOWN}"]
    wrong = [each for each in accepted if received.get(each, 0) != 1]
    return said, [f"{len(wrong)} accepted sends did not arrive once"] if wrong else []


def body_marked(unavailable: str | None, *, there: bool, took_s: float, limit_s: float) -> Judgement:
    """An email that was read without its body; `unavailable`: how the body is marked (None: nothing was read)."""
    if unavailable is None:
        return "no email was read", [f"no email was read: {NOTHING_SHOWN}"]
    said = f"the email is read in {took_s:.1f} s, its body marked {unavailable or 'there'}"
    problems = ["the body is not marked unavailable"] if there or not unavailable else []
    return said, problems + ([f"the email was read only after {took_s:.1f} s"] if took_s > limit_s else [])


def waited_in_outbox(accepted: int, waiting: int, rows: int, *, must_wait: bool) -> Judgement:
    """Emails accepted in an outage of who would carry them on, how many of these had not left by its end, and the outbox's rows."""
    said = f"{waiting} of {accepted} emails wait, {rows} rows in the outbox"
    if not accepted:
        return said, [f"no email was accepted: {NOTHING_SHOWN}"]
    return said, [f"no email waited: {NOTHING_SHOWN}"] if must_wait and not waiting else []


def launched_once(audience: Collection[str], received: Mapping[str, int], emails: int) -> Judgement:
    """A campaign that was launched again: its recipients, what they got, and how many emails it has."""
    said = f"{emails} emails for {len(audience)} recipients"
    if not audience:
        return said, [f"there was no launch: {NOTHING_SHOWN}"]
    wrong = [address for address in audience if received.get(address, 0) != 1]
    return said, [f"{len(wrong)} recipients did not get exactly one email"] if wrong or emails != len(audience) else []


def counted(took_s: float | None) -> Judgement:
    """After how long what telemetry loses was told of; None: not in time."""
    if took_s is None:
        return "the drop counter has not risen", ["no drop was counted"]
    return "the drop counter rises", []
