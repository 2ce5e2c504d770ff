"""What the drill's tiers acknowledged directly is looked up where it must stand. Content is real, and loses what it is made to."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import asyncpg
import grpc
import pytest

from penguin_cli.drill import probing
from penguin_cli.drill.account_check import audit
from penguin_cli.drill.acts import READS, Sample, storage_key
from penguin_cli.drill.faults import Scene
from penguin_cli.drill.findings import Cell
from penguin_cli.drill.load import Load
from penguin_cli.drill.matrix import chosen
from penguin_cli.drill.probing import NoRoom, Probe, Refuses, Works, recovery
from penguin_content.app import serving
from penguin_content.config import ContentConfig
from penguin_devstack.roles import TierDatabase
from penguin_orchestrator import keys
from penguin_orchestrator.clients import OPTIONS, Tier
from penguin_orchestrator.errors import TierError
from penguin_testkit.databases import Databases
from penguin_testkit.tokens import IssuedTokens, TokenFactory


class Stand:
    """Content, and the databases that an audit looks into."""

    def __init__(self, databases: Databases, urls: dict[str, TierDatabase], content: Tier) -> None:
        self._databases, self._urls = databases, urls
        self.penguin = SimpleNamespace(tiers={"content": content})
        self.tenants = tuple(Sample(uuid4(), "", uuid4(), uuid4(), uuid4(), uuid4(), "key") for _ in range(2))

    async def rows(self, tier: str, sql: str, *arguments: Any) -> list[Any]:
        """Rows, whatever its services say."""
        connection = await asyncpg.connect(self._databases.cluster.superuser_dsn(self._urls[tier].database))
        try:
            return await connection.fetch(sql, *arguments)
        finally:
            await connection.close()

    async def received(self) -> Counter[str]:
        """Nobody was written to."""
        return Counter()


@pytest.fixture
async def stand(databases: Databases, tokens: TokenFactory) -> AsyncIterator[Stand]:
    urls = {tier: await databases.clone(tier) for tier in ("oltp", "content", "notifications")}
    config = ContentConfig(
        CONTENT_DB_URL=urls["content"].app_url,
        CONTENT_MAINTENANCE_DB_URL=urls["content"].maintenance_url,
        CONTENT_LISTEN="127.0.0.1:0",
        CONTENT_POOL_MAX=4,
        PENGUIN_JWKS_PATH=tokens.jwks_path,
        PENGUIN_DRAIN_SECONDS=0.1,
    )
    async with serving(config) as running:
        address = f"127.0.0.1:{running.port}"
        async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
            yield Stand(databases, urls, Tier("content", channel, IssuedTokens(tokens), address))


@pytest.fixture
def load(stand: Stand) -> Load:
    return Load(cast("Any", stand))


async def lost(stand: Stand, load: Load) -> list[str]:
    """What an audit misses."""
    found = await audit(cast("Any", stand), load.account, holds=False)
    return [problem for problem in found.problems if problem.endswith("are lost")]


async def written(stand: Stand, load: Load) -> list[UUID]:
    """A body of each tenant."""
    names = [keys.new_id() for _ in stand.tenants]
    for sample, key in zip(stand.tenants, names, strict=True):
        await load.write("content", sample, key)
    return names


async def test_bodies_that_stand_are_not_missed(stand: Stand, load: Load) -> None:
    names = await written(stand, load)
    assert load.account.contents == {
        (sample.tenant, storage_key(key)) for sample, key in zip(stand.tenants, names, strict=True)
    }
    found = await audit(cast("Any", stand), load.account, holds=False)
    assert found.figures["contents"] == 2
    assert not any("contents" in problem for problem in found.problems), found.problems


@pytest.mark.parametrize(
    "loss",
    [
        "DELETE FROM content_objects WHERE storage_key = $1",
        "UPDATE content_objects SET tenant_id = gen_random_uuid() WHERE storage_key = $1",
    ],
    ids=["gone", "another tenant's"],
)
async def test_an_acknowledged_body_that_is_lost_is_found(stand: Stand, load: Load, loss: str) -> None:
    first, _ = await written(stand, load)
    await stand.rows("content", loss, storage_key(first))
    assert await lost(stand, load) == ["1 contents were acknowledged and are lost"]


async def test_a_body_that_was_refused_is_not_missed(stand: Stand, load: Load) -> None:
    async def refuse(*_: Any, **__: Any) -> Any:
        raise TierError("content", grpc.StatusCode.UNAVAILABLE, "TIER_DB_DOWN", "")

    stand.penguin.tiers["content"] = cast("Any", SimpleNamespace(stub=stand.penguin.tiers["content"].stub, call=refuse))
    with pytest.raises(TierError):
        await written(stand, load)
    assert load.account.contents == set()
    found = await audit(cast("Any", stand), load.account, holds=False)
    assert "no contents were acknowledged: nothing was shown" in found.problems


async def test_each_look_has_the_bodies_since_the_last(stand: Stand, load: Load) -> None:
    names = await written(stand, load)
    assert {key for _, key in load.account.open_part().contents} == {storage_key(key) for key in names}
    assert load.account.open_part().contents == set()


async def _recovered(scene: Scene, _: Cell) -> None:
    assert await recovery(scene, "content")()


def _probed(probe: type[Probe]) -> Callable[[Scene, Cell], Awaitable[None]]:
    async def during(scene: Scene, cell: Cell) -> None:
        await probe(scene, cell).during(0.05)

    return during


@pytest.mark.parametrize(
    "look", [_recovered, *map(_probed, (Works, Refuses, NoRoom))], ids=["recovery", "works", "refuses", "no_room"]
)
async def test_what_a_cell_of_contents_writes_is_in_the_account(
    stand: Stand, load: Load, monkeypatch: pytest.MonkeyPatch, look: Callable[[Scene, Cell], Awaitable[None]]
) -> None:
    async def read(*_: Any) -> None:
        """There is nothing to read yet."""

    monkeypatch.setitem(READS, "content", read)
    # Nothing here refuses: it is not waited for.
    monkeypatch.setattr(probing, "NO_ROOM_S", 0.0)
    (row,) = chosen("full-content")
    await look(Scene(cast("Any", stand), row, load), Cell("content", row.promise("content")))
    stored = await stand.rows("content", "SELECT tenant_id, storage_key FROM content_objects")
    assert stored, "nothing was written"
    assert load.account.contents == {(row["tenant_id"], row["storage_key"]) for row in stored}


async def test_the_load_itself_stores_bodies(stand: Stand, load: Load) -> None:
    await load._act("store body", stand.tenants[0])
    assert len(load.account.contents) == 1
    assert await lost(stand, load) == []
