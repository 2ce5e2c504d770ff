"""What a run is told by `NAME=value` words; else what stands here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from penguin_queue.domain.lanes import AGEING


@dataclass(frozen=True)
class Options:
    """Sizes of all scenarios; times in seconds unless their name says milliseconds."""

    # Of each phase of held-xmin, fairness and ageing.
    seconds: float = 180
    # held-xmin: jobs a second, the width of a window, and the places of the variant that runs short of them.
    rate: float = 800
    window: float = 10
    places: int = 48
    # held-xmin: one of its variants, by the beginning of its name; none: all.
    variant: str = ""
    # backlog: its jobs, the tenants of its second form, and how often each latency is measured.
    jobs: int = 1_000_000
    tenants: int = 1000
    samples: int = 300
    # fairness and ageing: how long a handler holds its place, how many places there are, and how many times what these can
    # do is offered by the noisy tenant, or with high priority.
    handler_ms: float = 50
    slots: int = 20
    excess: float = 2
    # fairness: tenants that send about a job a second each.
    quiet: int = 50
    # ageing: after so long a job counts as one priority higher; from low to high these are two steps.
    ageing: float = AGEING.total_seconds()
    # frozen-redis: for how long it does not answer, and how many rated jobs may go each second, and at once.
    frozen: float = 20
    rated: int = 100
    burst: int = 20


def parsed(words: Sequence[str]) -> tuple[list[str], Options]:
    """Scenario names and options of a command line; raises ValueError for what is neither."""
    given = dict(word.split("=", 1) for word in words if "=" in word)
    known = {field.name.upper(): field for field in fields(Options)}
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f"no such option: {', '.join(unknown)}; there are {', '.join(known)}")
    found: dict[str, float] = {}
    told: dict[str, str] = {}
    for name, field in known.items():
        if (text := given.get(name)) and field.type == "str":
            told[field.name] = text
        elif text:
            found[field.name] = int(text) if field.type == "int" else float(text)
            if found[field.name] <= 0:
                raise ValueError(f"{name} is to be greater than 0")
    return [word for word in words if "=" not in word], Options(**found, **told)  # type: ignore[arg-type]
