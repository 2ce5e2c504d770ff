"""Simulates what recipients do with a campaign's emails. The same seed and the same recipients give the same events, some
of them reported twice, as providers do. It decides; it sends nothing."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from penguin.oltp.v1 import email_service_pb2 as pb

# Chances of one email, and of a report coming twice.
BOUNCED = 0.03
OPENED = 0.52
OPENED_AGAIN = 0.3
OPENED_BY_MACHINE = 0.18
CLICKED_OF_OPENED = 0.27
REPLIED_OF_OPENED = 0.11
UNSUBSCRIBED_OF_OPENED = 0.03
COMPLAINED_OF_OPENED = 0.01
REPORTED_TWICE = 0.1

# Whatever chance decides, somebody answers and unsubscribes, and of two one bounces: what follows from these is checked.
_CERTAIN: tuple[dict[pb.EmailEventKind.ValueType, int], ...] = (
    {
        pb.EMAIL_EVENT_KIND_DELIVERED: 1,
        pb.EMAIL_EVENT_KIND_OPENED: 2,
        pb.EMAIL_EVENT_KIND_CLICKED: 1,
        pb.EMAIL_EVENT_KIND_REPLIED: 1,
        pb.EMAIL_EVENT_KIND_UNSUBSCRIBED: 1,
    },
    {pb.EMAIL_EVENT_KIND_BOUNCED: 1},
)

_MEASURES = {
    pb.EMAIL_EVENT_KIND_DELIVERED: "delivered",
    pb.EMAIL_EVENT_KIND_OPENED: "opened",
    pb.EMAIL_EVENT_KIND_OPENED_MACHINE: "opened_machine",
    pb.EMAIL_EVENT_KIND_CLICKED: "clicked",
    pb.EMAIL_EVENT_KIND_REPLIED: "replied",
    pb.EMAIL_EVENT_KIND_BOUNCED: "bounced",
    pb.EMAIL_EVENT_KIND_UNSUBSCRIBED: "unsubscribed",
    pb.EMAIL_EVENT_KIND_COMPLAINED: "spam_complaints",
}
MEASURES = tuple(_MEASURES.values())


def measure_of(kind: pb.EmailEventKind.ValueType) -> str:
    """The measure under which OLAP counts events of a kind."""
    return _MEASURES[kind]


@dataclass
class Simulation:
    """Events in the order they are reported; how many emails have each kind; how many reports are repeats."""

    events: list[pb.EmailEvent] = field(default_factory=list)
    emails: Counter[str] = field(default_factory=Counter)
    repeats: int = 0
    replied: list[pb.Email] = field(default_factory=list)


def simulate(emails: Sequence[pb.Email], seed: int) -> Simulation:
    """What happens to these emails; they must have been sent. Events follow the sending within a second."""
    chance, simulation = random.Random(seed), Simulation()
    for number, email in enumerate(sorted(emails, key=lambda each: each.recipient)):
        certain = _CERTAIN[number] if number < len(_CERTAIN) else None
        for kind, times in (certain or _behaviour(chance)).items():
            simulation.emails[measure_of(kind)] += 1
            if kind == pb.EMAIL_EVENT_KIND_REPLIED:
                simulation.replied.append(email)
            for time in range(times):
                event = _event(email, kind, f"demo-{seed}-{number}-{kind}-{time}", chance.uniform(0.01, 0.9))
                simulation.events.append(event)
                if chance.random() < REPORTED_TWICE:
                    simulation.events.append(event)
                    simulation.repeats += 1
    return simulation


def _behaviour(chance: random.Random) -> dict[pb.EmailEventKind.ValueType, int]:
    """How often each kind of event happens to one email."""
    if chance.random() < BOUNCED:
        return {pb.EMAIL_EVENT_KIND_BOUNCED: 1}
    happened = {pb.EMAIL_EVENT_KIND_DELIVERED: 1}
    if chance.random() < OPENED_BY_MACHINE:
        happened[pb.EMAIL_EVENT_KIND_OPENED_MACHINE] = 1
    if chance.random() >= OPENED:
        return happened
    happened[pb.EMAIL_EVENT_KIND_OPENED] = 2 if chance.random() < OPENED_AGAIN else 1
    for kind, share in (
        (pb.EMAIL_EVENT_KIND_CLICKED, CLICKED_OF_OPENED),
        (pb.EMAIL_EVENT_KIND_REPLIED, REPLIED_OF_OPENED),
        (pb.EMAIL_EVENT_KIND_UNSUBSCRIBED, UNSUBSCRIBED_OF_OPENED),
        (pb.EMAIL_EVENT_KIND_COMPLAINED, COMPLAINED_OF_OPENED),
    ):
        if chance.random() < share:
            happened[kind] = 1
    return happened


def _event(email: pb.Email, kind: pb.EmailEventKind.ValueType, identity: str, after_s: float) -> pb.EmailEvent:
    event = pb.EmailEvent(email_id=email.id, kind=kind, provider_event_id=identity)
    event.occurred_at.FromDatetime(email.sent_at.ToDatetime() + timedelta(seconds=after_s))
    return event
