"""`make bench-queue`: peers and our queue in turns, medians of `ROUNDS` rounds, `python -m tests.bench.queue [name …]`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import uvloop
from tests.bench import spending
from tests.bench.queue import figures
from tests.bench.queue.figures import Failed, answer_of
from tests.bench.queue.installing import Installed, install
from tests.bench.queue.roster import LIBRARIES, PEERS, SCENARIOS, TRACED, US, WANTED, Contestant, Scenario, versions
from tests.bench.queue.servers import SETTINGS, Servers, servers

RESULTS = Path(".local") / "bench" / "queue.json"
TRIED_CALLERS = (1, 2, 4)
TRIED_JOBS = 10_000
# The better of so many tries counts: a disturbance must not choose for a peer.
TRIES = 2
# A drain is measured this long at most (seconds); it is a rate either way.
LIMIT_S = 15
TIMEOUT_S = 120
# How often each part of an idle job's path is measured.
PARTS = 100


class Bench:
    """Runs drivers one at a time and keeps what they say."""

    def __init__(self, run_by: Servers, installed: Installed, contestants: Sequence[Contestant]) -> None:
        self._servers = run_by
        self._installed = installed
        self._contestants = contestants
        self.callers: dict[str, int] = {}
        # Of our own queue alone: CPU by process (microseconds a job), and the parts of an idle job's path (ms).
        self.costs: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self.parts: dict[str, list[float]] = defaultdict(list)
        self.measured: dict[str, dict[str, dict[str, list[float]]]] = {
            scenario.name: {c.name: defaultdict(list) for c in contestants} for scenario in SCENARIOS
        }

    async def choose_callers(self) -> None:
        """How many bulk callers each is fastest with; it is also everybody's warm-up."""
        for contestant in self._contestants:
            if contestant.only:
                continue
            rates: dict[int, float] = {}
            for callers in TRIED_CALLERS * TRIES:
                self.callers[contestant.name] = callers
                await self._servers.empty(contestant)
                try:
                    rate = (await self._driver(contestant, SCENARIOS[0].name, TRIED_JOBS))["rate"]
                except Failed as failure:
                    print(f"{contestant.name} failed: {failure}", flush=True)
                else:
                    rates[callers] = max(rate, rates.get(callers, 0.0))
            self.callers[contestant.name] = max(rates, key=rates.__getitem__, default=TRIED_CALLERS[-1])
            tried = ", ".join(f"{callers}: {best:,.0f}" for callers, best in rates.items())
            print(f"bulk callers  {contestant.name:<18}{self.callers[contestant.name]}  ({tried} jobs/s)", flush=True)

    async def round(self, number: int) -> None:
        """Every scenario with everybody, each round beginning with another one."""
        first = number % len(self._contestants)
        order = [*self._contestants[first:], *self._contestants[:first]]
        for scenario in SCENARIOS:
            for contestant in order:
                if contestant.takes_part(scenario.name):
                    await self._measure(contestant, scenario, number)
        if US in self._contestants:
            await self._measure_parts(number)

    async def _prepare(self, contestant: Contestant, scenario: Scenario) -> None:
        """The state that a measurement starts from. A peer's drain works off what its bulk enqueue left; our queue is
        filled anew for each of its workers."""
        if scenario.name != "drain" or contestant.ours:
            await self._servers.empty(contestant)
        if scenario.name == "drain":
            if contestant.ours:
                await self._run(
                    (
                        sys.executable,
                        "-m",
                        "tests.bench.queue.library",
                        "fill",
                        str(scenario.count),
                        *_options(contestant),
                    ),
                    contestant,
                )
            await self._servers.settle(contestant)

    async def _measure_parts(self, number: int) -> None:
        await self._servers.empty(US)
        try:
            found = await self._run((sys.executable, "-m", "tests.bench.queue.floor", str(PARTS)), US)
        except Failed as failure:
            print(f"round {number + 1}  parts   failed: {failure}", flush=True)
            return
        for part, milliseconds in found.items():
            self.parts[part].append(milliseconds)

    async def _measure(self, contestant: Contestant, scenario: Scenario, number: int) -> None:
        try:
            await self._prepare(contestant, scenario)
            before = self._servers.spent() if contestant.ours else {}
            answer = await self._driver(contestant, scenario.name, scenario.count)
        except Failed as failure:
            print(f"round {number + 1}  {scenario.name:<8}{contestant.name:<18}failed: {failure}", flush=True)
            return
        if contestant.ours:
            after = self._servers.spent() | {"client": answer["client_s"]}
            label = scenario.name if contestant is US else f"{contestant.name}, {scenario.name}"
            for part, us in spending.each(before, after, scenario.count).items():
                self.costs[label][part].append(us)
        for figure in scenario.figures:
            self.measured[scenario.name][contestant.name][figure].append(answer[figure])
        said = "  ".join(f"{figure} {answer[figure]:,.2f}" for figure in scenario.figures)
        print(f"round {number + 1}  {scenario.name:<8}{contestant.name:<18}{said} {scenario.unit}", flush=True)

    async def _driver(self, contestant: Contestant, scenario: str, count: int) -> dict[str, float]:
        return await self._run((*self._words(contestant), scenario, str(count), *_options(contestant)), contestant)

    async def _run(self, words: Sequence[str], contestant: Contestant) -> dict[str, float]:
        environment = {
            **os.environ,
            **self._servers.environment(contestant),
            "BENCH_CALLERS": str(self.callers.get(contestant.name, TRIED_CALLERS[-1])),
            "BENCH_LIMIT_S": str(LIMIT_S),
        }
        process = await asyncio.create_subprocess_exec(
            *words, env=environment, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            async with asyncio.timeout(TIMEOUT_S):
                said, complaint = await process.communicate()
        except TimeoutError:
            raise Failed(f"no figure within {TIMEOUT_S} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return answer_of(said.decode(), complaint.decode())

    def _words(self, contestant: Contestant) -> list[str]:
        if contestant.ours:
            return [sys.executable, "-m", f"tests.bench.queue.{Path(contestant.driver).stem}"]
        if contestant.in_node:
            return [str(self._installed.node), str(self._installed.drivers / contestant.driver)]
        return [str(self._installed.python), "-m", f"tests.bench.queue.peers.{Path(contestant.driver).stem}"]


def _names(contestants: Iterable[Contestant]) -> list[str]:
    return [contestant.name for contestant in contestants]


def _options(contestant: Contestant) -> tuple[str, ...]:
    return ("traced",) if contestant.name == TRACED else ()


def _chosen(installed: Installed, names: Sequence[str]) -> list[Contestant]:
    found = [peer for peer in (US, *LIBRARIES, *PEERS) if not names or peer.name in names]
    if installed.node is None:
        print("no Node.js that is new enough: Python peers only", flush=True)
        found = [peer for peer in found if not peer.in_node]
    return found


def _show(bench: Bench, rounds: int, contestants: Sequence[Contestant]) -> None:
    pins = versions()
    notes = {peer.name: f"{pins[peer.name]}, {peer.store}" for peer in contestants if not peer.ours}
    notes |= {worker.name: note for worker, note in LIBRARIES.items()}
    print(f"\nmedians of {rounds} rounds; the ratio says how many times as good as the best peer")
    for scenario in SCENARIOS:
        in_bulk = {name: f"callers: {bench.callers[name]}" for name in bench.callers} if scenario.name == "bulk" else {}
        beside = {c.name: "  ".join(filter(None, (notes.get(c.name), in_bulk.get(c.name)))) for c in contestants}
        print("\n" + "\n".join(figures.table(bench.measured[scenario.name], scenario, beside)))
    print("\n".join(figures.spending(bench.costs, bench.parts)))
    print("\nwanted:")
    print("\n".join(_verdicts(bench)))
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    kept = {"rounds": rounds, "settings": SETTINGS, "versions": pins, "callers": bench.callers}
    kept |= {"cpu_us_per_job": bench.costs, "idle_parts_ms": bench.parts}
    kept |= {"measured": bench.measured, "medians": {s: figures.medians(r) for s, r in bench.measured.items()}}
    RESULTS.write_text(json.dumps(kept | {"wanted": _verdicts(bench)}, indent=2) + "\n")
    print(f"\nwritten to {RESULTS}")


def _verdicts(bench: Bench) -> list[str]:
    scenarios = {scenario.name: scenario for scenario in SCENARIOS}
    return [figures.verdict(bench.measured[w.scenario], scenarios[w.scenario], w) for w in WANTED]


async def _main(names: Sequence[str]) -> int:
    task = asyncio.current_task()
    if task is not None:
        # As an interrupt: servers and folders go away with us.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    rounds = int(os.environ.get("ROUNDS") or 3)
    installed = install()
    contestants = _chosen(installed, names)
    print("starting servers", flush=True)
    async with servers() as running:
        bench = Bench(running, installed, contestants)
        await bench.choose_callers()
        for number in range(rounds):
            await bench.round(number)
    _show(bench, rounds, contestants)
    return 0


if __name__ == "__main__":
    chosen = sys.argv[1:]
    known = _names((US, *LIBRARIES, *PEERS))
    if unknown := set(chosen).difference(known):
        sys.exit(f"no such queue: {', '.join(unknown)}; there are {', '.join(known)}")
    try:
        sys.exit(uvloop.run(_main(chosen)))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit("interrupted; everything it started is gone")
