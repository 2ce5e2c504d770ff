"""Which check belongs to which promise of the matrix."""

from __future__ import annotations

from penguin_cli.drill.pace import AsFast, Counted, Fair
from penguin_cli.drill.probing import NoRoom, Probe, Refuses, Works
from penguin_cli.drill.sends import BodyMissing, ByOutbox, LaunchedOnce, NothingDone, SendsOrSheds
from penguin_cli.drill.waits import BacksOff, EtlWaits, Idles, Intents, KeepsAttempts, Stale, Streams

PROBES: dict[str, type[Probe]] = {
    "works": Works, "refuses": Refuses, "stale": Stale, "backs_off": BacksOff, "etl_waits": EtlWaits, "idles": Idles,
    "intents": Intents, "streams": Streams, "nothing_done": NothingDone, "body_missing": BodyMissing,
    "sends_or_sheds": SendsOrSheds, "outbox": ByOutbox, "launched_once": LaunchedOnce, "as_fast": AsFast, "counted": Counted,
    "fair": Fair, "no_room": NoRoom, "keeps_attempts": KeepsAttempts,
}  # fmt: skip
