"""One history: tenants that act at the same time in bad weather, then calm, then rest; and what is wrong at its end."""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass, field

from tests.simulation import acts, erasures, imports
from tests.simulation.actors import Crew, Mailbox
from tests.simulation.acts import Act, Play, Tenant
from tests.simulation.checks import end_of, violations
from tests.simulation.network import CALM, Process, Weather
from tests.simulation.reconciled import reconciled
from tests.simulation.tiers import World
from tests.simulation.watching import Watch

from penguin.oltp.v1.saga_service_pb2 import RetrySagaRequest
from penguin.oltp.v1.saga_service_pb2_grpc import SagaServiceStub
from penguin.queue.v1 import queue_service_pb2 as pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_orchestrator import keys
from penguin_orchestrator.platform import Penguin

# How long everything may take to come to rest once the weather is calm (virtual seconds): a worker's lease, a relay's, the longest
# back-off, a saga's rounds.
REST_S = 3600.0
WEATHERS = (
    Weather(),
    Weather(grid_s=0.5),
    Weather(refused=0.08, lost=0.06, late=0.06, deaf=0.10, doubled=0.08, grid_s=0.25),
    Weather(refused=0.01, lost=0.01, late=0.01, deaf=0.02, doubled=0.02, usual_s=0.5, slow_s=20.0, slow=0.05),
    Weather(refused=0.0, lost=0.0, late=0.2, deaf=0.2, doubled=0.2),
)
# In how many histories leads are imported, and people erased: either takes more time than all the rest.
IMPORTS, ERASURES = 0.03, 0.02
# And in how many a tenant's tiers are compared at the end.
RECONCILED = 0.03
UNREST = "SELECT (SELECT count(*) FROM outbox), (SELECT count(*) FROM sagas WHERE due_at IS NOT NULL)"
SAGAS = frozenset({"onboard", "launch", "cancel", "pause", "resume", "close", "import", "erase"})
# A closed tenant's stay so.
PAUSED = """SELECT c.tenant_id, c.id FROM campaigns AS c JOIN tenants AS t ON t.tenant_id = c.tenant_id
WHERE c.status = 'paused' AND t.status <> 'closed' AND c.tenant_id = ANY ($1)"""
JOBS = "SELECT count(*) FROM jobs"
# Of processes that kept being killed with a job in hand it looks like the job's doing: operators redrive it.
LOST = "SELECT DISTINCT tenant_id FROM dead_jobs WHERE last_error = 'lease_lost' AND tenant_id = ANY ($1)"
# And so it looks of a saga that nobody came further with: they have it retried.
LEFT = "SELECT tenant_id, id FROM sagas WHERE state = 'stuck' AND last_error = 'OWNERS_LOST' AND tenant_id = ANY ($1)"
OPEN = "SELECT tenant_id FROM tenants WHERE status <> 'closed' AND tenant_id = ANY ($1)"


@dataclass
class Story:
    """How a history went."""

    seed: int
    violations: list[str] = field(default_factory=list)
    acts: list[str] = field(default_factory=list)
    record: list[str] = field(default_factory=list)
    mishaps: int = 0
    killed: int = 0
    statements: int = 0
    virtual_s: float = 0.0
    # It did not come to its end, and what it began is under way still.
    broken_off: bool = False


async def history(world: World, seed: int) -> Story:
    """Live through the history of this seed. Begins and ends with nothing under way."""
    await world.forget()
    async with contextlib.AsyncExitStack() as stack:
        return await _lived(world, seed, stack)


async def _lived(world: World, seed: int, stack: contextlib.AsyncExitStack) -> Story:
    world.loop.begin_anew()
    random.seed(seed)
    chance, network = random.Random(seed ^ 0x5EED), world.network
    world.turns.chance = random.Random(seed ^ 0x7077)
    network.chance = random.Random(seed ^ 0x0E7)
    network.weather, network.away = CALM, set()
    world.renew()
    watch = network.witness = Watch()
    play, mailbox = Play(world, chance), Mailbox(random.Random(seed ^ 0x5A17))
    network.refuses = play.refuses
    began, before = world.loop.time(), world.turns.count
    await _prepare(play, seed)
    crew = Crew(world, chance, mailbox)
    network.news = crew.hear
    network.weather = chance.choice(WEATHERS)
    acting_out = _acts(play)
    if any(act.kind == "erase" for act, _ in acting_out):
        await stack.enter_async_context(erasures.ledger(world))
    crew.begin(sagas=any(act.kind in SAGAS for act, _ in acting_out))
    async with asyncio.TaskGroup() as group:
        storm = group.create_task(_storm(world, chance))
        async with asyncio.TaskGroup() as acting:
            for act, doing in acting_out:
                acting.create_task(play.carry_out(act, doing))
        await asyncio.sleep(chance.random() * 20)
        storm.cancel()
    network.away.clear()
    network.weather, mailbox.calm = CALM, True
    await crew.end()
    unrest = await _rest(play, crew)
    if not unrest and chance.random() < RECONCILED:
        unrest = await reconciled(play, chance.choice(play.tenants))
        # It tells operators of what it found.
        unrest += await _rest(play, crew)
    end = await end_of(play)
    of_people = await _people(play, watch)
    await _over()
    wrong = [*watch.violations, *play.broken, *unrest, *violations(play, mailbox, end, watch.chronicle), *of_people]
    return Story(
        seed, list(dict.fromkeys(wrong)), list(map(str, play.acts)), list(network.record),
        sum(network.mishaps.values()), crew.killed, world.turns.count - before, world.loop.time() - began,
    )  # fmt: skip


async def _people(play: Play, watch: Watch) -> list[str]:
    """What is wrong with those who were imported, or erased."""
    found: list[str] = []
    for act in play.acts:
        if act.kind == "import":
            found += [f"{act}: {what}" for what in await imports.missing(play, act)]
        elif act.kind == "erase":
            found += [f"{act}: {what}" for what in await erasures.left(play, act, watch.chronicle)]
    return found


async def _over() -> None:
    """Whatever waits still waits for nothing."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


async def _prepare(play: Play, seed: int) -> None:
    chance = play.chance
    for n in range(chance.choice((2, 2, 3))):
        tenant = Tenant(keys.new_id(), f"s{seed}t{n}", chance.choice(("hold", "hold", "resend")))
        play.tenants.append(tenant)
        await acts.make_tenant(play, tenant)
    if chance.random() < 0.3:
        await acts.make_campaign(play, play.tenants[0])


def _acts(play: Play) -> list[tuple[Act, acts.Doing]]:
    chance = play.chance
    usual: tuple[tuple[str, acts.Doing], ...] = (
        ("send", acts.send), ("send", acts.send), ("send together", acts.send_together), ("send twice", acts.send_twice),
        ("pry", acts.pry),
    )  # fmt: skip
    chosen: list[tuple[Act, acts.Doing]] = []
    for _ in range(chance.randrange(2, 6)):
        kind, doing = chance.choice(usual)
        chosen.append((Act(kind, chance.choice(play.tenants)), doing))
    if chance.random() < 0.35:
        newcomer = Tenant(keys.new_id(), f"{play.tenants[0].mark}new", "hold")
        play.tenants.append(newcomer)
        chosen.append((Act("onboard", newcomer), acts.onboard))
    for kind, doing, often in (("import", imports.import_leads, IMPORTS), ("erase", erasures.erase, ERASURES)):
        if chance.random() < often:
            chosen.append((Act(kind, chance.choice(play.tenants[:2])), doing))
    for tenant in play.tenants[:2]:
        chosen += _moves(play, tenant)
    return chosen


def _moves(play: Play, tenant: Tenant) -> list[tuple[Act, acts.Doing]]:
    """What is done to a tenant and its campaign."""
    chance = play.chance
    often: tuple[tuple[str, acts.Doing, float], ...] = (("close", acts.close, 0.12),)
    if tenant.campaign is not None:
        often = (
            ("launch", acts.launch, 1.0), ("launch", acts.launch, 0.3), ("cancel", acts.cancel, 0.25), ("pause", acts.pause, 0.4),
            ("resume", acts.resume, 0.4), ("pause", acts.pause, 0.2), ("resume", acts.resume, 0.2), ("close", acts.close, 0.25),
        )  # fmt: skip
    return [(Act(kind, tenant), doing) for kind, doing, chances in often if chance.random() < chances]


async def _storm(world: World, chance: random.Random) -> None:
    """A tier is away, now and then."""
    while True:
        await asyncio.sleep(chance.random() * 20)
        tier = chance.choice(("oltp", "content", "queue"))
        world.network.away.add(tier)
        world.network.record.append(f"{tier} is away")
        await asyncio.sleep(chance.random() * 8)
        world.network.away.discard(tier)


async def _rest(play: Play, crew: Crew) -> list[str]:
    """Let all that is owed be done, by successors that nobody kills."""
    world = play.world
    process = world.process()
    relay, recovery, worker = crew.relay(process), crew.recovery(process), crew.worker(process)
    ends, pause = world.loop.time() + REST_S, 0.0
    while True:
        owed, sagas = (await world.rows("oltp", UNREST))[0]
        jobs = (await world.rows("queue", JOBS))[0][0]
        if not owed and not sagas:
            if world.network.under_way:
                # What is late may bring more about yet.
                await world.network.quiet()
                continue
            if not await _operators(play, process) and not jobs:
                return []
        if world.loop.time() > ends:
            return [f"never comes to rest: {owed} rows owed, {sagas} sagas, {jobs} jobs"]
        # Whoever waits waits for a lease to run out, or for a back-off.
        await asyncio.sleep(pause)
        pause = min(pause * 1.5 + 1.0, 30.0)
        if owed:
            await relay.turn()
        if sagas:
            await recovery.turn()
        if jobs or owed:
            await world.duties()
            await worker.turn()


async def _operators(play: Play, process: Process) -> bool:
    """What people do where all else is at rest; whether there was anything to do."""
    tenants = [tenant.id for tenant in play.tenants]
    paused = await play.world.rows("oltp", PAUSED, tenants)
    for tenant_id, campaign_id in paused:
        # The job that completes it waits for as long.
        await Penguin(process.tiers).campaigns.resume(tenant_id, campaign_id)
    served = [row["tenant_id"] for row in await play.world.rows("oltp", OPEN, tenants)]
    lost = await play.world.rows("queue", LOST, served)
    oltp, queue = process.tiers["oltp"], process.tiers["queue"]
    for (tenant_id,) in lost:
        request = pb.RedriveJobsRequest(tenant_id=str(tenant_id), request_id=str(keys.new_id()))
        request.filter.error_prefix = "lease_lost"
        await queue.call(queue.stub(QueueServiceStub).RedriveJobs, request)
    left = await play.world.rows("oltp", LEFT, tenants)
    for tenant_id, saga_id in left:
        retry = RetrySagaRequest(
            tenant_id=str(tenant_id),
            saga_id=str(saga_id),
            request_id=str(keys.new_id()),
            reason="its owners were killed",
        )
        await oltp.call(oltp.stub(SagaServiceStub).RetrySaga, retry)
    return bool(paused or lost or left)
