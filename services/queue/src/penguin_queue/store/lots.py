"""Rows of a lease as columns, and where in their lanes they are."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any
from uuid import UUID

from penguin_queue.domain.jobs import Lot
from penguin_queue.domain.turns import Keyed, Lane, Place, Taken

# The first columns of `lease_lots`.
_GROUPED = itemgetter(0, 1, 2)


def lots_of(rows: Sequence[Any], kinds: Mapping[int, str], token: int, until: datetime) -> list[tuple[Lot, Taken]]:
    """Rows of `lease_lots`, lane by lane."""
    # They come in the order of their places on disk, so lanes alternate. By runs of one: who is leased thousands from one lane is
    # not to pay for a look at the lane of each.
    lanes: dict[tuple[UUID, int, int], list[Any]] = defaultdict(list)
    for name, run in itertools.groupby(rows, key=_GROUPED):
        lanes[name].extend(run)
    return [
        _lot(Lane(priority, kinds[kind_id], tenant_id), own, token, until)
        for (tenant_id, kind_id, priority), own in lanes.items()
    ]


def _lot(lane: Lane, rows: Sequence[Any], token: int, until: datetime) -> tuple[Lot, Taken]:
    """Rows of `lease_lots` as columns, and from where in their lane they are. By place and not by name: it is half the work."""
    _, _, _, ids, payloads, created, most, traces, attempts, lost, snoozes, ranks, dues, keys, lined = zip(
        *rows, strict=True
    )
    lot = Lot(
        lane.tenant_id, lane.kind, lane.priority, token, until, ids, payloads, created, most, traces,
        attempts if any(attempts) else (), lost if any(lost) else (), snoozes if any(snoozes) else (),
    )  # fmt: skip
    keyed = [Keyed(*each) for each in zip(ids, keys, lined, strict=True) if each[1] is not None] if any(keys) else []
    return lot, Taken(lane, len(ids), Place(*max(zip(ranks, dues, ids, strict=True))), keyed, ids)
