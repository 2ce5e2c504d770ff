"""A send, stopped at every call of the sender and of the relay, and finished by others: the emails stand with their bodies
claimed and their jobs enqueued, or there are none; each once, whether or not the caller asks again."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest
from libs.orchestrator.tests.sagas.crashes import BEFORE, EFFECT, REPLY, Place, killed, points, told
from libs.orchestrator.tests.sagas.scenarios import World
from libs.orchestrator.tests.stored import outgoing
from services.oltp.tests.rows import make_tenant

from penguin_orchestrator import sending
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.messages import OutgoingEmail
from penguin_orchestrator.relay import Relay
from penguin_orchestrator.sending import Sender

LEASES_END = "UPDATE outbox SET available_at = now() - interval '1 second' WHERE tenant_id = $1"
EMAILS = 2
TURNS = 6


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long for what a test has cut off."""
    monkeypatch.setattr(sending, "COMPENSATE_S", 0.5)


@pytest.fixture(autouse=True)
async def nothing_owed(world: World) -> None:
    """What other tests' tenants owe is no part of this."""
    await world.owe_nothing()


async def send(world: World, tenant: UUID, emails: Sequence[OutgoingEmail]) -> None:
    """The caller's process; a refusal is its answer."""
    with contextlib.suppress(TierError):
        await Sender(world.tiers["content"], world.tiers["oltp"]).send_emails(tenant, emails)


async def relayed(world: World) -> None:
    """A relay's process: one turn."""
    await Relay(world.tiers["oltp"], world.tiers, 200).turn()


async def owed(world: World, tenant: UUID) -> int:
    return await world.count("oltp", tenant, "SELECT count(*) FROM outbox WHERE tenant_id = $1")


async def check(world: World, tenant: UUID, allowed: set[int]) -> int:
    """All or nothing, once."""
    rows = await world.rows("oltp", tenant, "SELECT id, content_storage_key FROM emails WHERE tenant_id = $1")
    assert len(rows) in allowed
    jobs = await world.rows("queue", tenant, "SELECT id FROM jobs WHERE tenant_id = $1")
    assert len(jobs) == len(rows)
    contents: dict[str, Any] = dict(
        await world.rows("content", tenant, "SELECT storage_key, state FROM content_objects WHERE tenant_id = $1")
    )
    owned = {row["content_storage_key"] for row in rows}
    assert {contents[key] for key in owned} <= {"claimed"}
    # What nobody refers to is claimed by nobody: it expires.
    assert {state for key, state in contents.items() if key not in owned} <= {"unclaimed"}
    return len(rows)


async def one(
    world: World, refused: str, kill: tuple[Place, str] | None, *, again: bool
) -> tuple[int, dict[Place, tuple[str, ...]]]:
    """Play one send, killed there; how many emails stand in the end, and the places it came by."""
    tenant = await make_tenant(world.dbs["oltp"])
    emails = [outgoing(request_id=uuid4()) for _ in range(EMAILS)]
    world.probe.heal()
    world.probe.kill, world.probe.refuses = kill, refused

    async def process() -> None:
        await send(world, tenant, emails)
        await relayed(world)

    await killed(process())
    places = dict(world.probe.places)
    assert kill is None or world.probe.dead or world.probe.doomed, "the run never came by this place"
    world.probe.revive()
    if again:
        await send(world, tenant, emails)
    for _ in range(TURNS):
        if not await owed(world, tenant):
            break
        await world.rows("oltp", tenant, LEASES_END)
        await relayed(world)
    assert not await owed(world, tenant), "what is owed is not delivered"
    stand = await check(world, tenant, {0} if refused else ({EMAILS} if again else {0, EMAILS}))
    return stand, places


# A refusal of either call; after it the sender undoes.
@pytest.mark.parametrize("refused", ["", "BatchPutContents", "BatchCreateEmails"])
async def test_a_send_stands_whole_or_not_at_all(
    world: World, refused: str, record_property: Callable[[str, object], None]
) -> None:
    _, places = await one(world, refused, None, again=False)
    ends: Counter[int] = Counter()
    for point in points(places, (BEFORE, EFFECT, REPLY)):
        for again in (False, True):
            try:
                ends[(await one(world, refused, point, again=again))[0]] += 1
            except Exception as error:
                raise AssertionError(f"refused {refused!r}, killed {point}, asked again: {again}") from error
    standing = {f"with {count} emails": times for count, times in ends.items()}
    record_property("figure", f"send_email, {refused or 'nothing'} refused: {told(standing)}")
    assert ends.total() > 0
    assert set(ends) == ({0} if refused else {0, EMAILS})
