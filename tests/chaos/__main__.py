"""`make chaos SECONDS=600`: load on the real stack while its parts are killed, frozen and stopped, and an account of every send,
and of every act that crosses tiers.

`python -m tests.chaos SECONDS=600 SEED=0 RATE=80 FAULTS=0`; FAULTS ends the faults after so many. Writes .local/chaos/report.json and
history.jsonl, and exits with 1 where a promise was broken or a figure falls short."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import uvloop
from tests.chaos import looking
from tests.chaos.acting import KINDS, Acting, Orchestrator, staged
from tests.chaos.acts_checker import judge_acts
from tests.chaos.checker import Verdict, judge, judge_reconciled
from tests.chaos.faults import Fault, Faults
from tests.chaos.load import Load, Sender
from tests.chaos.reconciling import reconcile
from tests.chaos.recording import OK, Recording

from penguin_devstack.stack import LocalStack
from penguin_orchestrator.config import PlatformConfig
from penguin_orchestrator.platform import Penguin

REPORT = Path(".local") / "chaos"
POLICIES = ("hold", "hold", "resend")
# How long everything may take to come to rest in the end (seconds): a relay's lease, a worker's, back-offs.
REST_S = 180.0
# After a fault is over nothing is counted for so long (seconds): what it held up comes then.
AFTER_S = 1.5
# What is wanted.
SENDS_PER_S, SHARE, FAULTS_PER_MINUTE = 50.0, 0.8, 2.0


@dataclass(frozen=True)
class Options:
    """What is asked for. Times in seconds, RATE in sends a second; FAULTS 0: as many as there is time for."""

    seconds: float = 600.0
    seed: int = 0
    rate: float = 80.0
    faults: int = 0

    @classmethod
    def of(cls, words: Sequence[str]) -> Options:
        """From words like SECONDS=60."""
        said = dict(word.lower().partition("=")[::2] for word in words)
        known = {name: type(getattr(cls(), name)) for name in ("seconds", "seed", "rate", "faults")}
        return cls(**{name: known[name](value) for name, value in said.items()})


@dataclass(frozen=True)
class Result:
    """What came of a run."""

    options: Options
    faults: list[Fault]
    free_rate: float
    between_rate: float
    verdict: Verdict
    reconciled: Mapping[str, int]

    def shortfalls(self) -> list[str]:
        """Figures that are not as wanted. A short run has no time for figures."""
        if self.options.seconds < 120:
            return []
        wanted = FAULTS_PER_MINUTE * self.options.seconds / 60
        return [
            *([f"{self.between_rate:.0f} sends/s"] if self.between_rate < SENDS_PER_S else []),
            *([f"{self.between_rate / self.free_rate:.2f} of the rate without faults"]
              if self.between_rate < SHARE * self.free_rate else []),
            *(f"no {kind} was acknowledged" for kind in KINDS if not self.acknowledged(kind)),
            *([f"{len(self.faults)} faults"] if len(self.faults) < wanted and not self.options.faults else []),
        ]  # fmt: skip

    def acknowledged(self, kind: str) -> int:
        """How many acts of a kind were."""
        return self.verdict.counts[f"{kind} ok"] + self.verdict.counts[f"{kind} recovered"]

    def as_json(self) -> Mapping[str, Any]:
        """As it is written."""
        return {
            "options": asdict(self.options), "faults": [asdict(fault) for fault in self.faults],
            "fault_free_sends_per_s": round(self.free_rate, 1), "sends_per_s_between_faults": round(self.between_rate, 1),
            "operations": dict(self.verdict.counts), "violations": self.verdict.wrong,
            "resent": self.verdict.resent, "hand_overs_in_doubt": self.verdict.doubts,
            "reconcile": dict(self.reconciled),
            "shortfalls": self.shortfalls(),
        }  # fmt: skip


async def chaos(stack: LocalStack, options: Options, folder: Path) -> Result:
    """Load and faults on a stack that is up, then rest, then judge."""
    chance, recording = random.Random(options.seed), Recording(folder / "history.jsonl")
    environment = stack.environment("orchestrator")
    config = PlatformConfig(**environment)  # type: ignore[arg-type]
    async with Penguin.connect(config) as penguin, Orchestrator(environment).running() as orchestrator:
        senders = [Sender(await penguin.tenants.onboard(f"Chaos {n}"), policy) for n, policy in enumerate(POLICIES)]
        for sender in senders:
            await looking.set_policy(stack, sender.tenant, sender.policy)
        load = Load(penguin, recording, senders, options.rate, random.Random(options.seed + 1))
        stages = [await staged(penguin, sender) for sender in senders]
        acting = Acting(penguin, recording, orchestrator, stages, folder, random.Random(options.seed + 2))
        sending, playing = asyncio.create_task(load.run()), asyncio.create_task(acting.run())
        warm_s = max(5.0, options.seconds * 0.1)
        await _watch(recording, sending, warm_s, "no faults yet")
        free = (warm_s / 3, recording.now())
        faults = Faults(stack, orchestrator, recording, chance)
        ends = recording.now() + options.seconds - warm_s
        while recording.now() < ends and (not options.faults or len(faults.done) < options.faults):
            fault = await faults.one()
            print(
                f"{recording.now():6.1f} s  {fault.kind} {fault.part}: {fault.over_at - fault.begun_at:.1f} s",
                flush=True,
            )
            await _watch(recording, sending, chance.uniform(3.0, 9.0), "")
        load.enough.set()
        acting.enough.set()
        await sending
        last = recording.now()
        await playing
        tenants = [sender.tenant for sender in senders]
        left = await looking.rest(stack, tenants, REST_S)
        reconciled = await reconcile(stack, penguin, tenants)
        left["refused runs of reconcile"] = reconciled["refused runs"]
        stored = await looking.stored(stack, tenants, left)
        verdict = judge(list(recording.operations.values()), stored, senders, len(faults.done))
        judge_reconciled(reconciled, verdict)
        judge_acts(recording.acts, acting.played, await looking.kept(stack, tenants, stored), verdict)
    recording.close()
    return Result(
        options, faults.done, _rate(recording, [free]), _rate(recording, _between(free[1], faults.done, last)), verdict,
        reconciled,
    )  # fmt: skip


async def _watch(recording: Recording, sending: asyncio.Task[None], seconds: float, why: str) -> None:
    await asyncio.wait([sending], timeout=seconds)
    if sending.done():
        sending.result()
    done = sum(operation.last == OK for operation in recording.operations.values())
    print(f"{recording.now():6.1f} s  {done} of {len(recording.operations)} acknowledged {why}", flush=True)


def _between(first: float, faults: Sequence[Fault], last: float) -> list[tuple[float, float]]:
    """When there was no fault."""
    begins = [first, *(fault.over_at + AFTER_S for fault in faults)]
    ends = [*(fault.begun_at for fault in faults), last]
    return [(begun, ended) for begun, ended in zip(begins, ends, strict=True) if ended > begun]


def _rate(recording: Recording, spans: Sequence[tuple[float, float]]) -> float:
    """Sends acknowledged a second in these spans of time."""
    ended = [operation.ended_at for operation in recording.operations.values() if operation.last == OK]
    within = sum(any(begun <= at < over for begun, over in spans) for at in ended)
    return within / max(1e-9, sum(over - begun for begun, over in spans))


async def _main(options: Options) -> int:
    with tempfile.TemporaryDirectory(prefix="penguin-chaos-") as folder:
        stack = LocalStack(Path(folder), tied_to_caller=True, environment={"worker": {"WORKER_LEASE_S": "5"}})
        try:
            await stack.up()
            result = await chaos(stack, options, REPORT)
        finally:
            await stack.down()
    (REPORT / "report.json").write_text(json.dumps(result.as_json(), indent=2) + "\n")
    told = {name: value for name, value in result.as_json().items() if name not in {"faults", "resent", "options"}}
    print(json.dumps(told, indent=2))
    print(
        f"{len(result.faults)} faults, {len(result.verdict.resent)} sent again as their tenant chose; {REPORT}/report.json"
    )
    return 0 if result.verdict.holds and not result.shortfalls() else 1


if __name__ == "__main__":
    # Each send that was undone in vain would be told.
    logging.getLogger("penguin_orchestrator").setLevel(logging.ERROR)
    sys.exit(uvloop.run(_main(Options.of(sys.argv[1:]))))
