"""A restored database tells reconcile nothing, from the first call on: what an old backup lacks would be taken for an orphan."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest

from penguin.tier.v1 import erasure_pb2
from penguin.tier.v1 import key_service_pb2 as pb
from penguin.tier.v1 import tier_service_pb2 as tier_pb
from penguin.tier.v1.key_service_pb2_grpc import KeyServiceStub
from penguin.tier.v1.tier_service_pb2_grpc import TierServiceStub
from penguin_chassis import restoring
from penguin_oltp.app import serving
from penguin_oltp.config import OltpConfig
from penguin_testkit.calling import Refused, TierClient
from penguin_testkit.databases import Databases
from penguin_testkit.tokens import TokenFactory


@pytest.fixture
async def restored(databases: Databases, tokens: TokenFactory) -> AsyncIterator[tuple[TierClient, str]]:
    """A tier whose database was marked before it was served, and the mark."""
    urls = await databases.clone("oltp")
    mark = await restoring.mark_as_owner(urls.owner_url)
    config = OltpConfig(
        OLTP_DB_URL=urls.app_url, OLTP_MAINTENANCE_DB_URL=urls.maintenance_url, OLTP_LISTEN="127.0.0.1:0",
        PENGUIN_JWKS_PATH=tokens.jwks_path, PENGUIN_DRAIN_SECONDS=0.1, OLTP_POOL_MAX=2,
    )  # fmt: skip
    async with serving(config) as running, grpc.aio.insecure_channel(f"127.0.0.1:{running.port}") as channel:
        yield TierClient("oltp", channel, tokens), str(mark)


async def test_reconcile_is_told_nothing_before_erasures_are_replayed(restored: tuple[TierClient, str]) -> None:
    client, mark = restored
    calls = (
        (KeyServiceStub(client.channel).ListKeyTenants, pb.ListKeyTenantsRequest()),
        (TierServiceStub(client.channel).GetKeySources, tier_pb.GetKeySourcesRequest()),
    )
    for method, request in calls:
        with pytest.raises(Refused) as refused:
            await client.call(method, request)
        assert refused.value.answer.reason == "RESTORE_NOT_REPLAYED"
    replayed = erasure_pb2.MarkReplayedRequest(incarnation=mark)
    await client.call(TierServiceStub(client.channel).MarkReplayed, replayed)
    for method, request in calls:
        await client.call(method, request)
