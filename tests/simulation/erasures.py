"""People erased while they are being written to: how a tenant does it, and what must not be left of them in the end."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from tests.simulation.acts import DONE, Act, Play, email_to
from tests.simulation.chronicle import Chronicle
from tests.simulation.tiers import TIERS, World

from penguin_orchestrator.erasure_ledger import ErasureLedger
from penguin_orchestrator.messages import Refusal
from penguin_orchestrator.platform import Penguin

# Each history has a ledger of its own, and the tiers were told of none.
FORGET_LEDGER = "UPDATE incarnation SET ledger_sequence = 0, ledger_head = DEFAULT"
TABLES = """SELECT c.oid::regclass::text FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
WHERE a.attname = 'tenant_id' AND c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY 1"""
# As text, and as bytes are shown.
HOLDS = "SELECT '{0}' AS place FROM {0} AS t WHERE tenant_id = $1 AND (t::text ILIKE $2 OR t::text LIKE $3)"
THEIRS = "SELECT storage_key FROM content_objects WHERE tenant_id = $1 AND storage_key = ANY ($2)"


@contextlib.asynccontextmanager
async def ledger(world: World) -> AsyncIterator[None]:
    """A ledger of erasures for one history."""
    with tempfile.TemporaryDirectory() as folder:
        for tier in TIERS:
            await world.rows(tier, FORGET_LEDGER)
        world.ledger = ErasureLedger(Path(folder) / "ledger", Path(folder) / "copy", b"k" * 32)
        try:
            yield
        finally:
            world.ledger = None


async def erase(play: Play, penguin: Penguin, act: Act) -> None:
    """Somebody whom the tenant has written to, or is about to; and then write to them once more."""
    known = [address for each in play.acts if each.tenant is act.tenant for address in each.addresses]
    known += act.tenant.leads
    act.person = play.chance.choice(known) if known else act.tenant.address()
    play.erased.add(act.person)
    await penguin.subjects.erase(act.tenant.id, act.person)
    act.told = DONE
    if not play.closes(act.tenant):
        (result,) = await penguin.send_emails(act.tenant.id, [email_to(act.tenant, act.person, play.chance)])
        if not isinstance(result, Refusal):
            play.broken.append(f"{act}: and then an email to the person was accepted")


async def left(play: Play, act: Act, chronicle: Chronicle) -> list[str]:
    """What there is still of a person who was erased, or has come to be afterwards."""
    tenant, person, world = act.tenant.id, act.person, play.world
    lives = [life for life in chronicle.lives("subject.erase", tenant) if life.state == "succeeded"]
    if not lives:
        return ["acknowledged, and it had not been carried out"] if act.told == DONE else []
    found: list[str] = []
    for tier in TIERS:
        # Bodies are looked for by their keys: one that died with who put it waits for reconcile.
        tables = [row[0] for row in await world.rows(tier, TABLES) if row[0] != "content_objects"]
        query = " UNION ALL ".join(HOLDS.format(table) for table in tables)
        shown = f"%{person.encode().hex()}%"
        places = {row["place"] for row in await world.rows(tier, query, tenant, f"%{person}%", shown)}
        found += [f"erased, and {tier}.{place} names the person" for place in sorted(places)]
    ended = min(life.ended for life in lives)
    theirs = {key: each for key, each in chronicle.written.items() if each.recipient == person}
    if any(each.at > ended for each in theirs.values()):
        found.append("erased, and an email to the person was accepted later")
    keys = [each.storage_key for each in theirs.values()]
    if await world.rows("content", THEIRS, tenant, keys):
        found.append("erased, and a body written to the person is kept")
    if any(claim.email_id in theirs and claim.at > ended for claim in chronicle.claims.values()):
        found.append("erased, and an email to the person was given to a worker later")
    return found
