"""Acts on campaigns and tenants held against the end, and against what the tiers answered meanwhile: what was carried out stands
as it was promised, and what was not has changed nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.simulation.acts import DONE, Act
from tests.simulation.chronicle import BECOMES, CANCELLED, COMPLETED, PAUSED, RUNNING, Chronicle, Claim, Life

SAGAS = {
    "launch": "campaign.launch", "resume": "campaign.resume", "pause": "campaign.pause", "cancel": "campaign.cancel",
    "close": "tenant.close",
}  # fmt: skip

_BECOMES = {"launch": RUNNING, "resume": RUNNING, "pause": PAUSED}
ENDED = (COMPLETED, CANCELLED)


@dataclass(frozen=True)
class Found:
    """What the checks of an act need of the end. `campaign` is the tenant's row of it, `emails` are all of the tenant's."""

    chronicle: Chronicle
    campaign: Any
    emails: list[Any]
    # By tier, and in OLTP's own row.
    states: dict[str, str]
    status: str


def held_against(act: Act, found: Found) -> Iterator[str]:
    """What is not as the act's caller was told, or as its saga ended."""
    lives = found.chronicle.lives(SAGAS[act.kind], act.tenant.id)
    carried_out = [life for life in lives if life.state == "succeeded"]
    if act.told == DONE and not any(life.ended <= act.at for life in carried_out):
        yield "acknowledged, and it had not been carried out"
    if act.told == DONE and act.kind in _BECOMES:
        # Whatever it joined: what counts is how the campaign stood since it was asked for.
        seen = _between(act, act.asked, act.at, found)
        if not seen & {_BECOMES[act.kind], *ENDED}:
            yield f"acknowledged, and since it was asked for the campaign was {' and '.join(sorted(seen))}"
    if carried_out:
        for life in carried_out:
            yield from _CARRIED_OUT[act.kind](act, life, found)
    elif all(life.state == "compensated" for life in lives):
        yield from _undone(act, found)


def _launched(act: Act, life: Life, found: Found) -> Iterator[str]:
    """A launch, or a resumption: what they are told of its emails is looked at by itself, as others may stop them."""
    if RUNNING not in (seen := _seen(act, life, found)):
        yield f"carried out, and the campaign did not run: it was {' and '.join(sorted(seen))}"


def _paused(act: Act, life: Life, found: Found) -> Iterator[str]:
    if PAUSED not in (seen := _seen(act, life, found)):
        yield f"carried out, and the campaign was not paused: it was {' and '.join(sorted(seen))}"


def _cancelled(act: Act, life: Life, found: Found) -> Iterator[str]:
    campaign, chronicle = str(act.tenant.campaign), found.chronicle
    if found.campaign["status"] != CANCELLED:
        yield f"carried out, and the campaign is {found.campaign['status']}"
    since = min([life.ended, *(m.at for m in chronicle.moves(campaign) if m.status == CANCELLED)])
    for claim in _begun(act, chronicle.claims.values(), since):
        if claim.campaign_id == campaign:
            yield f"an email of it was given to a worker {claim.at - since:.1f} s later"
    if any(each.campaign_id == campaign and each.at > since for each in chronicle.written.values()):
        yield "an email of it was accepted later"
    for row in found.emails:
        if (
            str(row["campaign_id"]) == campaign
            and not row["attempt"]
            and row["status"] not in {CANCELLED, "suppressed"}
        ):
            yield f"an email that nobody had begun is {row['status']}"


def _closed(act: Act, life: Life, found: Found) -> Iterator[str]:
    """From the end of the saga on: until then the tiers are closed one by one."""
    tenant, chronicle, since = str(act.tenant.id), found.chronicle, life.ended
    yield from (f"carried out, and {tier} has it {state}" for tier, state in found.states.items() if state != "closed")
    if found.status != "closed":
        yield f"carried out, and the tenant is {found.status}"
    if found.campaign is not None and found.campaign["status"] == RUNNING:
        yield "carried out, and a campaign runs"
    if any(move.status == RUNNING and move.at > since for move in chronicle.moves(act.tenant.campaign)):
        yield "a campaign was set running later"
    for claim in _begun(act, chronicle.claims.values(), since):
        if claim.tenant_id == tenant:
            yield f"an email was given to a worker {claim.at - since:.1f} s later"
    if any(each.tenant_id == tenant and each.at > since for each in chronicle.written.values()):
        yield "an email was accepted later"
    if any(at > since for at in chronicle.stored[tenant].values()):
        yield "a body was accepted later"


_CARRIED_OUT: dict[str, Callable[[Act, Life, Found], Iterator[str]]] = {
    "launch": _launched, "resume": _launched, "pause": _paused, "cancel": _cancelled, "close": _closed,
}  # fmt: skip


def _undone(act: Act, found: Found) -> Iterator[str]:
    """Nothing of the kind was carried out, and nothing was left open."""
    if act.kind == "cancel" and found.campaign["status"] == CANCELLED:
        yield "not carried out, and the campaign is cancelled"
    if act.kind == "close" and "closed" in {*found.states.values(), found.status}:
        yield "not carried out, and the tenant is closed"


def _seen(act: Act, life: Life, found: Found) -> set[str]:
    """What the campaign was while the act was carried out."""
    return _between(act, life.began, life.ended, found)


def _between(act: Act, since: float, until: float, found: Found) -> set[str]:
    """What the campaign was in this time."""
    spans = found.chronicle.spans(act.tenant.campaign)
    return {move.status for move, over in spans if move.at <= until and over >= since}


def _begun(act: Act, claims: Iterable[Claim], since: float) -> Iterator[Claim]:
    """Emails that were begun only then. One that a worker had in hand already is tried again where its tenant chose so."""
    return (c for c in claims if c.at > since and (c.attempt == 1 or act.tenant.policy != "resend"))


def wayward(campaign: Any, chronicle: Chronicle, *, closed: bool) -> Iterator[str]:
    """What is wrong with a campaign's way through its states, whoever moved it; `closed` says that its tenant is, whose closing
    pauses what runs by then."""
    moves = chronicle.moves(campaign["id"])
    for before, after in itertools.pairwise(moves):
        if before.status not in BECOMES[after.method][1]:
            yield f"{after.method} was carried out on a campaign that was {before.status}"
    last, stands = moves[-1], (campaign["version"], campaign["status"])
    paused_by_closing = closed and last.status == RUNNING and stands == (last.version + 1, PAUSED)
    if (last.version, last.status) != stands and not paused_by_closing:
        yield f"a campaign is {campaign['status']}, and the last that was told of it is {last.status} ({last.method})"
    pauses = [(m.at, until) for m, until in chronicle.spans(campaign["id"]) if m.status == PAUSED]
    listed = chronicle.listed[str(campaign["id"])]
    for since, until in pauses:
        if any(since < at < until and leads for at, leads in listed):
            yield "a paused campaign has leads that wait for an email"
        known = frozenset[str]().union(*(leads for at, leads in listed if at <= since))
        # Those that a launch had in hand when it was paused are still written.
        late = [e for e in chronicle.written.values() if e.campaign_id == str(campaign["id"]) and since < e.at < until]
        if any(each.lead_id not in known for each in late):
            yield "an email of a paused campaign was begun"
