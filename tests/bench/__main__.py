"""`make bench`: every benchmark, or those named: `python -m tests.bench sends reads demo`."""

from __future__ import annotations

import sys
from pathlib import Path

import uvloop
from tests.bench import demo, reads, sends
from tests.bench.report import Report, line

BENCHES = {"sends": sends.run, "reads": reads.run, "demo": demo.run}
RESULTS = Path(".local") / "bench" / "results.json"


async def _main(names: list[str]) -> int:
    report = Report()
    for name in names:
        print(f"-- {name}", flush=True)
        await BENCHES[name](report)
    report.write(RESULTS)
    print("\nfigures:")
    for figure in report.figures:
        print(line(figure))
    print(f"\nwritten to {RESULTS}")
    return 0


if __name__ == "__main__":
    chosen = sys.argv[1:] or list(BENCHES)
    unknown = [name for name in chosen if name not in BENCHES]
    if unknown:
        sys.exit(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(BENCHES)}")
    # The loop that the services run on, for both sides of every comparison.
    sys.exit(uvloop.run(_main(chosen)))
