"""What happens to emails after they are sent: counted once each, and what follows from it (suppressions, lead status,
an unknown outcome settled by evidence)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import UUID, uuid4

from penguin_chassis.faults import Fault, NotFound
from penguin_chassis.pool import Connection, Database
from penguin_chassis.queries import load
from penguin_oltp.domain import emails as ledger
from penguin_oltp.domain.emails import Email
from penguin_oltp.domain.subjects import ERASED, nameless
from penguin_oltp.store.transitions import add_tallies, lock, move

sql = load("penguin_oltp.store", "events.sql")


@dataclass(frozen=True)
class Event:
    """One event as its provider reports it; (email, kind, provider_event_id) makes a second report a repeat."""

    email_id: UUID
    kind: str
    provider_event_id: str
    occurred_at: datetime

    @property
    def identity(self) -> tuple[UUID, str, str, object]:
        """What a repeat has in common with its first."""
        return (self.email_id, self.kind, self.provider_event_id, self.occurred_at.astimezone(UTC).date())


class EventStore:
    """Events of one database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def record(self, tenant_id: UUID, events: Sequence[Event], at: datetime) -> list[bool | Fault]:
        """Count events that are new. Answers in order: whether it was a repeat; NotFound for an unknown email."""
        async with self._db.tenant(tenant_id) as connection:
            # Held from here on: a person is erased before this, or finds all of it.
            emails = await lock(connection, tenant_id, [e.email_id for e in events])
            events = [_kept(e, emails) for e in events]
            new = await _remember(connection, tenant_id, [e for e in events if e.email_id in emails])
            await _count(connection, tenant_id, list(new.values()))
            await _consequences(connection, tenant_id, emails, list(new.values()), at)
        answers: list[bool | Fault] = []
        unanswered = dict(new)
        for event in events:
            if event.email_id not in emails:
                answers.append(NotFound("email", event.email_id, field="email_id"))
            else:
                answers.append(unanswered.pop(event.identity, None) is None)
        return answers


def _kept(event: Event, emails: Mapping[UUID, Email]) -> Event:
    """The event as it is kept: of an erased person's email without what its provider made of the address."""
    email = emails.get(event.email_id)
    if email is None or email.recipient.lower() != ERASED:
        return event
    return replace(event, provider_event_id=nameless(event.provider_event_id))


async def _remember(
    connection: Connection, tenant_id: UUID, events: Sequence[Event]
) -> dict[tuple[UUID, str, str, object], Event]:
    """The events not recorded before, each once."""
    by_identity = {event.identity: event for event in events}
    if not by_identity:
        return {}
    columns = [list(column) for column in zip(*by_identity, strict=True)]
    rows = await connection.fetch(sql.remember, tenant_id, *columns)
    return {identity: by_identity[identity] for row in rows for identity in [tuple(row.values())]}


async def _count(connection: Connection, tenant_id: UUID, events: Sequence[Event]) -> None:
    tallies: dict[tuple[UUID, str], list[datetime]] = {}
    for event in events:
        tallies.setdefault((event.email_id, event.kind), []).append(event.occurred_at)
    await add_tallies(
        connection, tenant_id,
        [(email, kind, len(times), min(times), max(times)) for (email, kind), times in tallies.items()],
    )  # fmt: skip


async def _consequences(
    connection: Connection, tenant_id: UUID, emails: Mapping[UUID, Email], events: Sequence[Event], at: datetime
) -> None:
    weighty = [e for e in events if e.kind in ledger.SUPPRESSING or e.kind in ledger.LEAD_STATUS]
    evident = [e for e in events if e.kind in ledger.EVIDENCE]
    await _settle_by_evidence(connection, tenant_id, [emails[e.email_id] for e in evident], at)
    addresses = {
        address: e.kind
        for e in weighty
        if e.kind in ledger.SUPPRESSING and (address := emails[e.email_id].recipient.lower()) != ERASED
    }
    if addresses:
        reasons = [ledger.SUPPRESSING[kind] for kind in addresses.values()]
        await connection.execute(sql.suppress, tenant_id, [uuid4() for _ in addresses], list(addresses), reasons, at)
    leads = {lead: ledger.LEAD_STATUS[e.kind] for e in weighty if (lead := emails[e.email_id].lead_id) is not None}
    if leads:
        await connection.execute(sql.mark_leads, tenant_id, list(leads), list(leads.values()), at)


async def _settle_by_evidence(connection: Connection, tenant_id: UUID, emails: Sequence[Email], at: datetime) -> None:
    unknown = {e.id: e for e in emails if e.status == ledger.OUTCOME_UNKNOWN}
    await move(connection, tenant_id, [(e, ledger.settle(e, "sent", at)) for e in unknown.values()])
