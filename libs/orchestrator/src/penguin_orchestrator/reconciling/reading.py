"""Reads keys where they stand, and believes nothing that is short: whatever is away, older than its code, or says less than
it has counted itself, ends the run. A tenant of whom nothing can be said while all of them are there is left out of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import grpc
from google.protobuf.message import Message

from penguin.tier.v1 import key_service_pb2 as pb
from penguin.tier.v1 import tier_service_pb2 as tier_pb
from penguin.tier.v1.key_service_pb2_grpc import KeyServiceStub
from penguin.tier.v1.tier_service_pb2_grpc import TierServiceStub
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.reconciling.sums import Bucket, Sum

X = TypeVar("X")

# All of them are asked where they hold keys: one that does not answer may hold some.
TIERS = ("oltp", "content", "olap", "queue", "notifications")
# Without these a tier's answer is that of an older one.
REQUIRED = frozenset(
    {"content.contents", "content.quarantine", "oltp.emails", "oltp.templates", "oltp.inbox_message_refs"}
)
# How long a tier may take to name its sources, and to sum up its keys (seconds).
SOURCES_TIMEOUT_S = 10.0
SUMS_TIMEOUT_S = 25.0
# For how long a tenant is asked of that has as many calls under way as it may (seconds).
BUSY_S = 10.0
BUCKETS_A_CALL = 1000
KEYS_A_CALL = 1000


class RefusedError(Exception):
    """The run cannot go on; the text says why in a few words, for the receipt."""


class UncomparedError(RefusedError):
    """Nothing can be said of this tenant: it is too great to be looked through in time, does not stand still, or waits for its
    erasures to be replayed. Others may be compared, if the tiers are there (`KeyReader.places`)."""


class SlowError(UncomparedError):
    """A tier did not answer in time."""


class LeftOutError(Exception):
    """A tenant's state does not let anything of it be changed (it is closed): it is left out, and the others go on."""


class MovedError(Exception):
    """What a source says does not add up with what it said before: it was changed in between, or it is short."""

    def __init__(self, reason: str, place: Place | None = None) -> None:
        super().__init__(reason)
        self.place = place


class Place(NamedTuple):
    """A source of keys in a tier."""

    tier: str
    source: str

    @property
    def name(self) -> str:
        """For receipts."""
        return f"{self.tier}.{self.source}"


@dataclass(frozen=True)
class Places:
    """Where the keys are: kept, referred to, waiting for removal."""

    kept: Place
    references: tuple[Place, ...]
    quarantine: Place


def in_portions(items: Sequence[X], size: int) -> Iterator[Sequence[X]]:
    """`size` at a time."""
    for first in range(0, len(items), size):
        yield items[first : first + size]


class KeyReader:
    """The tiers' keys; counts the bytes that it asks and is answered. Every method raises RefusedError."""

    def __init__(self, tiers: Mapping[str, Tier]) -> None:
        self._tiers = tiers
        self.bytes_moved = 0

    async def places(self) -> Places:
        """Where keys are kept and referred to, by the word of every tier."""
        told = await asyncio.gather(*(self._sources(name) for name in TIERS))
        roles: dict[int, list[Place]] = {}
        for reply in told:
            for each in reply.sources:
                roles.setdefault(each.role, []).append(Place(reply.tier, each.name))
        known = {place.name for places in roles.values() for place in places}
        if missing := sorted(REQUIRED - known):
            raise RefusedError(f"{missing[0]} is not among the sources of keys")
        kept, quarantine = roles[tier_pb.KEY_ROLE_OWNER], roles[tier_pb.KEY_ROLE_QUARANTINE]
        if len(kept) != 1 or len(quarantine) != 1:
            raise RefusedError("keys are kept in more than one place")
        return Places(kept[0], tuple(roles[tier_pb.KEY_ROLE_REFERENCE]), quarantine[0])

    async def _sources(self, name: str) -> Any:
        if name not in self._tiers:
            raise RefusedError(f"{name} is not connected")
        method = self._tiers[name].stub(TierServiceStub).GetKeySources
        reply = await self._call(name, method, tier_pb.GetKeySourcesRequest(), SOURCES_TIMEOUT_S)
        if reply.tier != name:
            raise RefusedError(f"{name} answers as {reply.tier}")
        if reply.applied_schema_version < reply.schema_version:
            raise RefusedError(f"{name} has not all of its migrations")
        return reply

    async def tenants(self, places: Places) -> list[UUID]:
        """Every tenant with a key anywhere, in the order of their ids."""
        tiers = {place.tier for place in (places.kept, *places.references)}
        found: set[UUID] = set()
        for name in sorted(tiers):
            async for each in self._paged(name, "ListKeyTenants", pb.ListKeyTenantsRequest(page_size=1000), "tenants"):
                found.add(UUID(each.tenant_id))
        return sorted(found)

    async def generations(
        self, place: Place, tenant_id: UUID, first: int, end: int, *, limit: int = 0
    ) -> dict[int, Sum]:
        """Sums by generation from `first` up to but without `end`; of the first `limit` that have keys, if given."""
        request = pb.DigestGenerationsRequest(
            tenant_id=str(tenant_id), source=place.source, from_generation=first, to_generation=end,
            max_generations=limit,
        )  # fmt: skip
        reply = await self._ask(place.tier, "DigestGenerations", request)
        if sum(each.keys for each in reply.digests) != reply.keys:
            raise RefusedError(f"{place.name} says less than it has counted")
        return {each.generation: Sum(each.keys, each.hash) for each in reply.digests}

    async def divided(self, place: Place, tenant_id: UUID, buckets: Sequence[Bucket]) -> dict[Bucket, Sum]:
        """Sums of the buckets within these, which are all of one depth; empty ones are left out."""
        found: dict[Bucket, Sum] = {}
        for portion in in_portions(buckets, BUCKETS_A_CALL):
            request = pb.DigestBucketsRequest(
                tenant_id=str(tenant_id), source=place.source, buckets=map(_wire, portion)
            )
            reply = await self._ask(place.tier, "DigestBuckets", request)
            found |= {Bucket(each.generation, each.prefix): Sum(each.keys, each.hash) for each in reply.digests}
        return found

    async def keys(self, place: Place, tenant_id: UUID, buckets: Sequence[Bucket]) -> list[tuple[int, str]]:
        """The keys in these buckets, which are all of one depth, with their generations."""
        found: list[tuple[int, str]] = []
        for portion in in_portions(buckets, BUCKETS_A_CALL):
            request = pb.ListKeysRequest(
                tenant_id=str(tenant_id), source=place.source, buckets=map(_wire, portion), page_size=1000
            )
            found += [(k.generation, k.key) async for k in self._paged(place.tier, "ListKeys", request, "keys")]
        return found

    async def find(self, tier: str, tenant_id: UUID, keys: Sequence[str]) -> dict[str, set[Place]]:
        """Which of these keys a tier holds, and where."""
        found: dict[str, set[Place]] = {}
        for portion in in_portions(keys, KEYS_A_CALL):
            reply = await self._ask(tier, "FindKeys", pb.FindKeysRequest(tenant_id=str(tenant_id), keys=portion))
            for each in reply.found:
                found.setdefault(each.key, set()).add(Place(tier, each.source))
        return found

    async def referred(self, places: Places, tenant_id: UUID, keys: Sequence[str]) -> dict[str, set[Place]]:
        """Which of these keys anybody refers to, exactly, by the word of every tier that may."""
        if not keys:
            return {}
        tiers = sorted({place.tier for place in places.references})
        told = await asyncio.gather(*(self.find(tier, tenant_id, keys) for tier in tiers))
        found: dict[str, set[Place]] = {}
        for each in told:
            for key, where in each.items():
                if references := where.intersection(places.references):
                    found.setdefault(key, set()).update(references)
        return found

    async def _paged(self, tier: str, name: str, request: Any, items: str) -> AsyncIterator[Any]:
        while True:
            reply = await self._ask(tier, name, request)
            for item in getattr(reply, items):
                yield item
            if not reply.next_page_token:
                return
            request.page_token = reply.next_page_token

    async def _ask(self, tier: str, name: str, request: Message) -> Any:
        method = getattr(self._tiers[tier].stub(KeyServiceStub), name)
        return await self._call(tier, method, request, SUMS_TIMEOUT_S)

    async def _call(self, tier: str, method: Any, request: Message, timeout: float) -> Any:
        reply = await ask(self._tiers[tier], method, request, timeout)
        self.bytes_moved += request.ByteSize() + reply.ByteSize()
        return reply


async def ask(tier: Tier, method: Any, request: Any, timeout_s: float) -> Any:
    """A tier's answer; raises RefusedError. What is refused as its tenant has as many calls under way as it may is asked again
    for a while."""
    try:
        try:
            return await tier.call(method, request, timeout=timeout_s)
        except TierError as error:
            if error.code is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
        return await tier.insist(method, request, deadline_s=BUSY_S, timeout=timeout_s)
    except TierError as error:
        raise refusal(error) from None


def refusal(error: TierError) -> RefusedError:
    """A tier's refusal as the reason of a run's, or where it took too long, or has the tenant that was asked of wait or ask less, as
    that of leaving out the tenant."""
    alone = error.of_tenant or error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    kind = UncomparedError if alone else RefusedError
    if error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
        kind = SlowError
    return kind(f"{error.tier} does not answer: {error.code.name} {error.reason}".strip())


def unchanged(error: TierError) -> RefusedError | LeftOutError:
    """Why a change was not made, or not surely."""
    return LeftOutError(error.reason) if error.code is grpc.StatusCode.FAILED_PRECONDITION else refusal(error)


def _wire(bucket: Bucket) -> pb.KeyBucket:
    return pb.KeyBucket(generation=bucket.generation, prefix=bucket.prefix)
