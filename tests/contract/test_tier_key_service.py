"""KeyService: every method, by its contract, against the tiers that hold storage keys. All of them are the platform's."""

from __future__ import annotations

import hashlib
from functools import reduce
from operator import xor
from typing import Any
from uuid import uuid4

from services.content.tests.rows import new_content, put_request
from services.oltp.tests.rows import create_request, make_tenant, new_email
from tests.contract.cases import Case, Listing, Within, equal
from tests.contract.harness import ServiceContract
from tests.contract.wire import World

from penguin.tier.v1 import key_service_pb2 as pb

SERVICE = "penguin.tier.v1.KeyService"
# Tier -> the source that these tests fill, and the generation its requests name.
SOURCES = {"content": ("contents", 7), "oltp": ("emails", 1)}
KEYS = 5


def hash_of(keys: list[str]) -> int:
    """What a source must sum these keys up to."""
    halves = (hashlib.md5(key.encode()).digest()[8:] for key in keys)
    return reduce(xor, (int.from_bytes(half, "big", signed=True) for half in halves), 0)


async def filled(world: World) -> tuple[str, int, list[str]]:
    """A source with keys of this test's tenant: its name, their generation, the keys in their order."""
    source, generation = SOURCES[world.tier.tier]
    keys = sorted(f"k/{uuid4()}" for _ in range(KEYS))
    if source == "contents":
        items = [new_content(storage_key=key) for key in keys]
        await world.call("penguin.content.v1.ContentService/BatchPutContents", put_request(world.tenant, *items))
    else:
        emails = [new_email(content_storage_key=key) for key in keys]
        await world.call("penguin.oltp.v1.EmailService/BatchCreateEmails", create_request(world.tenant, *emails))
    return source, generation, keys


def no_source(request: Any) -> None:
    request.source = "nowhere"


async def tenants(world: World) -> Any:
    for _ in range(5):
        await filled(World(world.tier, await other_tenant(world), world.stranger, world.database))
    return pb.ListKeyTenantsRequest()


async def other_tenant(world: World) -> Any:
    """A tenant that nothing else uses."""

    return await make_tenant(await world.database()) if world.tier.tier == "oltp" else uuid4()


async def generations(world: World) -> Any:
    source, _, _ = await filled(world)
    return pb.DigestGenerationsRequest(tenant_id=str(world.tenant), source=source, to_generation=100)


async def buckets(world: World) -> Any:
    source, generation, _ = await filled(world)
    asked = [pb.KeyBucket(generation=generation, prefix=f"{n:x}") for n in range(16)]
    return pb.DigestBucketsRequest(tenant_id=str(world.tenant), source=source, buckets=asked)


def check_sums(request: Any, reply: Any) -> None:
    assert sum(digest.keys for digest in reply.digests) == KEYS
    assert getattr(reply, "keys", KEYS) == KEYS
    assert all(len(getattr(digest, "prefix", "xx")) == 2 for digest in reply.digests)


async def listed(world: World) -> Any:
    source, generation, _ = await filled(world)
    asked = [pb.KeyBucket(generation=generation, prefix="")]
    return pb.ListKeysRequest(tenant_id=str(world.tenant), source=source, buckets=asked)


async def found(world: World) -> Any:
    _, _, keys = await filled(world)
    return pb.FindKeysRequest(tenant_id=str(world.tenant), keys=[*keys[:2], "k/nobody"])


def unknown_only(request: Any) -> None:
    del request.keys[:]
    request.keys.append("k/nobody")


class TestKeyService(ServiceContract):
    service = SERVICE
    tiers = tuple(SOURCES)
    cases = (
        Case(
            "ListKeyTenants",
            tenants,
            lambda request, reply: equal(len(reply.tenants) >= 5, True),
            ("page_size", lambda r: setattr(r, "page_size", -1)),
            "a list of nothing is empty",
            listing=Listing("tenants", 5),
        ),
        Case(
            "DigestGenerations",
            generations,
            check_sums,
            ("from_generation", lambda r: setattr(r, "from_generation", -1)),
            no_source,
        ),
        Case(
            "DigestBuckets",
            buckets,
            check_sums,
            ("buckets[0].prefix", lambda r: setattr(r.buckets[0], "prefix", "XY")),
            no_source,
        ),
        Case(
            "ListKeys",
            listed,
            lambda request, reply: equal(len(reply.keys), KEYS),
            ("buckets", lambda r: r.ClearField("buckets")),
            no_source,
            listing=Listing("keys", KEYS, lambda r: r.buckets.add(generation=99)),
        ),
        Case(
            "FindKeys",
            found,
            lambda request, reply: equal({f.key for f in reply.found}, set(request.keys[:2])),
            ("keys", lambda r: r.ClearField("keys")),
            Within(unknown_only, lambda reply: equal(list(reply.found), [])),
        ),
    )

    async def test_sums_are_those_of_the_keys(self, world: World) -> None:
        source, generation, keys = await filled(world)
        asked = pb.DigestGenerationsRequest(tenant_id=str(world.tenant), source=source, to_generation=100)
        (whole,) = (await world.call(f"{SERVICE}/DigestGenerations", asked)).digests
        assert (whole.generation, whole.keys, whole.hash) == (generation, KEYS, hash_of(keys))
        for prefix in ("", "0", "7"):
            divided = pb.DigestBucketsRequest(
                tenant_id=str(world.tenant), source=source, buckets=[pb.KeyBucket(generation=generation, prefix=prefix)]
            )
            told = {d.prefix: (d.keys, d.hash) for d in (await world.call(f"{SERVICE}/DigestBuckets", divided)).digests}
            inside = [key for key in keys if hashlib.md5(key.encode()).hexdigest().startswith(prefix)]
            by_bucket: dict[str, list[str]] = {}
            for key in inside:
                by_bucket.setdefault(hashlib.md5(key.encode()).hexdigest()[: len(prefix) + 1], []).append(key)
            assert told == {bucket: (len(held), hash_of(held)) for bucket, held in by_bucket.items()}

    async def test_another_tenants_keys_are_nowhere(self, world: World) -> None:
        source, generation, keys = await filled(world)
        stranger = str(world.stranger)
        assert not (await world.call(
            f"{SERVICE}/DigestGenerations",
            pb.DigestGenerationsRequest(tenant_id=stranger, source=source, to_generation=100),
        )).digests  # fmt: skip
        whole = [pb.KeyBucket(generation=generation)]
        assert not (await world.call(
            f"{SERVICE}/ListKeys", pb.ListKeysRequest(tenant_id=stranger, source=source, buckets=whole)
        )).keys  # fmt: skip
        assert not (await world.call(f"{SERVICE}/FindKeys", pb.FindKeysRequest(tenant_id=stranger, keys=keys))).found
