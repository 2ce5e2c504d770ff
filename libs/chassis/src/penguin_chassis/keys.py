"""KeyService: which storage keys a tier holds, summed up, in buckets, and one by one.

It reads the view `storage_keys` of a tier's own migrations (tenant_id, source, generation, storage_key), and nothing else:
a tier without one has no sources. Keys are digested and never parsed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from penguin.tier.v1 import key_service_pb2 as pb
from penguin.tier.v1 import key_service_pb2_grpc
from penguin_chassis.faults import InvalidArgument, NotFound
from penguin_chassis.paging import next_token, page_size, page_start
from penguin_chassis.pool import Database
from penguin_chassis.queries import load
from penguin_chassis.server import Registration

SERVICE = "penguin.tier.v1.KeyService"
FIRST_TENANT = UUID(int=0)
OWNER = "owner"
REFERENCE = "reference"
QUARANTINE = "quarantine"

sql = load("penguin_chassis.sql", "keys.sql")


@dataclass(frozen=True)
class KeySource:
    """One source of the view, and what it is to its keys: "owner", "reference" or "quarantine"."""

    name: str
    role: str


class KeyServicer(key_service_pb2_grpc.KeyServiceServicer):
    """The keys of one tier's sources."""

    def __init__(self, db: Database, sources: Sequence[KeySource]) -> None:
        self._db = db
        self._names = frozenset(source.name for source in sources)

    async def ListKeyTenants(self, request: pb.ListKeyTenantsRequest, context: Any) -> pb.ListKeyTenantsResponse:  # noqa: N802
        """A page of the tenants with keys."""
        start = page_start(request, lambda key: UUID(*key), FIRST_TENANT)
        size = page_size(request.page_size)
        async with self._db.maintenance() as connection:
            found = [row["tenant_id"] for row in await connection.fetch(sql.tenants, start, size + 1)]
        token = next_token(request, [str(found[size - 1])]) if len(found) > size else ""
        return pb.ListKeyTenantsResponse(
            tenants=[pb.KeyTenant(tenant_id=str(each)) for each in found[:size]], next_page_token=token
        )

    async def DigestGenerations(  # noqa: N802
        self, request: pb.DigestGenerationsRequest, context: Any
    ) -> pb.DigestGenerationsResponse:
        """Sums by generation."""
        tenant_id, source = UUID(request.tenant_id), self._known(request.source)
        async with self._db.tenant(tenant_id) as connection:
            rows = await connection.fetch(
                sql.digest_generations,
                tenant_id,
                source,
                request.from_generation,
                request.to_generation,
                request.max_generations or None,
            )
        digests = [pb.GenerationDigest(generation=r["generation"], keys=r["keys"], hash=r["hash"]) for r in rows]
        return pb.DigestGenerationsResponse(digests=digests, keys=sum(digest.keys for digest in digests))

    async def DigestBuckets(self, request: pb.DigestBucketsRequest, context: Any) -> pb.DigestBucketsResponse:  # noqa: N802
        """Sums of the buckets within buckets."""
        tenant_id, source = UUID(request.tenant_id), self._known(request.source)
        async with self._db.tenant(tenant_id) as connection:
            rows = await connection.fetch(sql.digest_buckets, tenant_id, source, *_asked(request.buckets))
        return pb.DigestBucketsResponse(
            digests=[
                pb.BucketDigest(generation=r["generation"], prefix=r["prefix"], keys=r["keys"], hash=r["hash"])
                for r in rows
            ]
        )

    async def ListKeys(self, request: pb.ListKeysRequest, context: Any) -> pb.ListKeysResponse:  # noqa: N802
        """A page of the keys in buckets."""
        tenant_id, source = UUID(request.tenant_id), self._known(request.source)
        generation, key = page_start(request, _place, (-1, ""))
        size = page_size(request.page_size)
        async with self._db.tenant(tenant_id) as connection:
            rows = await connection.fetch(
                sql.list, tenant_id, source, *_asked(request.buckets), generation, key, size + 1
            )
        keys = [pb.StoredKey(generation=row["generation"], key=row["storage_key"]) for row in rows]
        token = next_token(request, [keys[size - 1].generation, keys[size - 1].key]) if len(keys) > size else ""
        return pb.ListKeysResponse(keys=keys[:size], next_page_token=token)

    async def FindKeys(self, request: pb.FindKeysRequest, context: Any) -> pb.FindKeysResponse:  # noqa: N802
        """Which of the keys there are, and where."""
        tenant_id = UUID(request.tenant_id)
        # No database can hold a NUL in a text, so nobody has such a key.
        keys = [key for key in request.keys if "\0" not in key]
        async with self._db.tenant(tenant_id) as connection:
            rows = await connection.fetch(sql.find, tenant_id, keys)
        return pb.FindKeysResponse(found=[pb.FoundKey(key=r["storage_key"], source=r["source"]) for r in rows])

    def _known(self, source: str) -> str:
        if source not in self._names:
            raise NotFound("key_source", source, field="source")
        return source


def _place(key: list[Any]) -> tuple[int, str]:
    generation, text = key
    if not (isinstance(generation, int) and isinstance(text, str)):
        raise TypeError
    return generation, text


def _asked(buckets: Sequence[pb.KeyBucket]) -> tuple[list[int], list[int], list[str], int]:
    """The buckets as the statements take them; raises InvalidArgument for prefixes of several lengths."""
    depth = len(buckets[0].prefix)
    if any(len(bucket.prefix) != depth for bucket in buckets):
        raise InvalidArgument("The prefixes of one request are equally long.", field="buckets")
    generations = [bucket.generation for bucket in buckets]
    return sorted(set(generations)), generations, [bucket.prefix for bucket in buckets], depth


def registration(db: Database, sources: Sequence[KeySource]) -> Registration:
    """The servicer as a part of its server."""
    return Registration(SERVICE, key_service_pb2_grpc.add_KeyServiceServicer_to_server, KeyServicer(db, sources))
