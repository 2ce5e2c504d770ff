"""Whom a token vouches for, and that nothing else does."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from libs.chassis.tests.probe import Probe, probing

from penguin.oltp.v1 import email_service_pb2 as pb
from penguin.tier.v1 import tier_service_pb2 as tier_pb
from penguin.tier.v1.tier_service_pb2_grpc import TierServiceStub
from penguin_chassis import auth
from penguin_chassis.auth import Verifier
from penguin_chassis.faults import Unauthenticated
from penguin_testkit.calling import Refused, TierClient
from penguin_testkit.tokens import ISSUER, TokenFactory

TENANT = UUID("018f2b6e-8a00-7abc-8def-0123456789ab")
IN_AN_HOUR = timedelta(hours=1)


@pytest.fixture
def keys(tmp_path: Path) -> TokenFactory:
    return TokenFactory(tmp_path)


@pytest.fixture
def verifier(keys: TokenFactory) -> Verifier:
    return Verifier(keys.jwks_path, "oltp", (ISSUER,))


def refused(verifier: Verifier, token: str | None) -> str:
    with pytest.raises(Unauthenticated) as caught:
        verifier.caller(token if token is None or token.startswith("Basic") else f"Bearer {token}")
    return caught.value.reason


def good(keys: TokenFactory, **more: Any) -> str:
    return keys.token("oltp", tenant=TENANT, scopes=["emails.read", "leads.read"], **more)


def claiming(keys: TokenFactory, **claims: Any) -> str:
    kid, key = next(iter(keys.keys.items()))
    body = jwt.decode(good(keys), options={"verify_signature": False}) | claims
    return jwt.encode(body, key, algorithm="EdDSA", headers={"kid": kid})


def test_a_right_token_vouches_for_its_tenant_actor_and_scopes(verifier: Verifier, keys: TokenFactory) -> None:
    caller = verifier.caller(f"bearer {good(keys)}")
    assert (caller.tenant_id, caller.actor, caller.platform) == (TENANT, "test", False)
    assert caller.scopes == {"emails.read", "leads.read"}
    assert caller.methods == frozenset()


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"aud": "queue"}, "TOKEN_INVALID"),
        ({"iss": "somebody else"}, "TOKEN_INVALID"),
        ({"tenant": "not-a-uuid"}, "TOKEN_INVALID"),
        ({"tenant": 7}, "TOKEN_INVALID"),
        ({"sub": 7}, "TOKEN_INVALID"),
        ({"methods": 7}, "TOKEN_INVALID"),
        ({"exp": "soon"}, "TOKEN_INVALID"),
        ({"exp": float("inf")}, "TOKEN_INVALID"),
        # Times are from the test's own on: a process may have been at it for minutes.
        ({"iat": IN_AN_HOUR, "exp": IN_AN_HOUR + timedelta(seconds=100)}, "TOKEN_INVALID"),
        ({"nbf": IN_AN_HOUR}, "TOKEN_INVALID"),
        ({"exp": timedelta(seconds=301), "iat": timedelta()}, "TOKEN_INVALID"),
        ({"exp": timedelta(seconds=-60), "iat": timedelta(seconds=-120)}, "TOKEN_EXPIRED"),
    ],
)
def test_a_token_with_a_wrong_claim_is_refused(
    verifier: Verifier, keys: TokenFactory, claims: dict[str, Any], reason: str
) -> None:
    now = int(time.time())
    claims = {
        name: now + int(value.total_seconds()) if isinstance(value, timedelta) else value
        for name, value in claims.items()
    }
    assert refused(verifier, claiming(keys, **claims)) == reason


@pytest.mark.parametrize("claim", ["exp", "iat", "sub", "aud", "iss"])
def test_a_token_without_a_claim_is_refused(verifier: Verifier, keys: TokenFactory, claim: str) -> None:
    body = jwt.decode(good(keys), options={"verify_signature": False})
    del body[claim]
    kid = next(iter(keys.keys))
    token = jwt.encode(body, keys.keys[kid], algorithm="EdDSA", headers={"kid": kid})
    assert refused(verifier, token) == "TOKEN_INVALID"


def test_any_issuer_is_good_where_none_is_named(keys: TokenFactory) -> None:
    caller = Verifier(keys.jwks_path, "oltp").caller(f"Bearer {good(keys, iss='whoever holds the key')}")
    assert caller.tenant_id == TENANT


def test_platform_must_be_true_itself(verifier: Verifier, keys: TokenFactory) -> None:
    assert not verifier.caller(f"Bearer {good(keys, platform='true')}").platform
    assert not verifier.caller(f"Bearer {good(keys, platform=1)}").platform


def _parts(header: dict[str, Any], body: dict[str, Any], signature: bytes = b"") -> str:
    def encode(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    return f"{encode(json.dumps(header).encode())}.{encode(json.dumps(body).encode())}.{encode(signature)}"


def test_other_algorithms_are_refused(verifier: Verifier, keys: TokenFactory) -> None:
    kid, key = next(iter(keys.keys.items()))
    body = jwt.decode(good(keys), options={"verify_signature": False})
    public = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    assert refused(verifier, _parts({"alg": "none", "kid": kid}, body)) == "TOKEN_INVALID"
    # The public key, which everybody has, used as the secret of a symmetric signature.
    confused = jwt.encode(body, public, algorithm="HS256", headers={"kid": kid})
    assert refused(verifier, confused) == "TOKEN_INVALID"


def test_a_wrong_signature_and_an_unknown_key_are_refused(verifier: Verifier, keys: TokenFactory) -> None:
    kid = next(iter(keys.keys))
    body = jwt.decode(good(keys), options={"verify_signature": False})
    stranger = Ed25519PrivateKey.generate()
    forged = jwt.encode(body, stranger, algorithm="EdDSA", headers={"kid": kid})
    assert refused(verifier, forged) == "TOKEN_INVALID"
    unknown = jwt.encode(body, stranger, algorithm="EdDSA", headers={"kid": "nobody's"})
    assert refused(verifier, unknown) == "TOKEN_INVALID"
    nameless = jwt.encode(body, keys.keys[kid], algorithm="EdDSA")
    assert refused(verifier, nameless) == "TOKEN_INVALID"
    head, claims, signature = good(keys).split(".")
    padded = _parts({}, body | {"tenant": str(uuid4())}).split(".")[1]
    assert refused(verifier, f"{head}.{padded}.{signature}") == "TOKEN_INVALID"
    assert refused(verifier, f"{head}.{claims}.{'A' * 86}") == "TOKEN_INVALID"


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (None, "TOKEN_MISSING"),
        ("", "TOKEN_INVALID"),
        ("Basic dXNlcjpwYXNz", "TOKEN_MISSING"),
        ("a.b.c", "TOKEN_INVALID"),
        ("ü.ü.ü", "TOKEN_INVALID"),
        ("....", "TOKEN_INVALID"),
        # Nested far deeper than a parser goes: a defect of ours, were it not caught.
        (base64.urlsafe_b64encode(b"[" * 5000).decode() + ".e30.e30", "TOKEN_INVALID"),
        (_parts({"alg": "EdDSA", "kid": ["a", "list"]}, {}), "TOKEN_INVALID"),
        (_parts({"alg": "EdDSA", "kid": {}}, {}), "TOKEN_INVALID"),
    ],
)
def test_what_is_no_token_is_refused(verifier: Verifier, token: str | None, reason: str) -> None:
    assert refused(verifier, token) == reason


def test_a_cached_token_expires(verifier: Verifier, keys: TokenFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    token = good(keys, ttl_s=60)
    assert verifier.caller(f"Bearer {token}").tenant_id == TENANT
    later = time.time() + 60 + auth.LEEWAY_S
    monkeypatch.setattr("penguin_chassis.auth.time.time", lambda: later)
    assert refused(verifier, token) == "TOKEN_EXPIRED"


def test_keys_rotate_without_a_restart(verifier: Verifier, keys: TokenFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "RELOAD_S", 0.0)
    old = good(keys)
    verifier.caller(f"Bearer {old}")
    kid = keys.rotate()
    assert verifier.caller(f"Bearer {good(keys)}").tenant_id == TENANT
    assert verifier.caller(f"Bearer {old}").tenant_id == TENANT
    keys.publish([kid])
    assert refused(verifier, old) == "TOKEN_INVALID"


def test_a_kid_that_stands_for_another_key_vouches_no_more(
    verifier: Verifier, keys: TokenFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "RELOAD_S", 0.0)
    old = good(keys)
    verifier.caller(f"Bearer {old}")
    keys.keys[next(iter(keys.keys))] = Ed25519PrivateKey.generate()
    keys.publish(keys.keys)
    assert refused(verifier, old) == "TOKEN_INVALID"


def test_a_damaged_key_set_leaves_the_keys_that_were(
    verifier: Verifier, keys: TokenFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "RELOAD_S", 0.0)
    verifier.caller(f"Bearer {good(keys)}")
    keys.jwks_path.write_text('{"keys": [')
    assert verifier.caller(f"Bearer {good(keys)}").tenant_id == TENANT
    keys.jwks_path.unlink()
    assert verifier.caller(f"Bearer {good(keys)}").tenant_id == TENANT
    keys.publish(keys.keys)
    assert verifier.caller(f"Bearer {good(keys)}").tenant_id == TENANT


def test_without_a_key_set_nobody_is_vouched_for(tmp_path: Path, keys: TokenFactory) -> None:
    verifier = Verifier(tmp_path / "nowhere.json", "oltp")
    assert refused(verifier, good(keys)) == "TOKEN_INVALID"


def test_the_cache_is_bounded(verifier: Verifier, keys: TokenFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "CACHE_SIZE", 3)
    for _ in range(5):
        verifier.caller(f"Bearer {good(keys)}")
    assert len(verifier._cache) == 3


async def call(probe: Probe, tenant: UUID | str, **how: Any) -> pb.GetEmailResponse:
    request = pb.GetEmailRequest(tenant_id=str(tenant), email_id=str(uuid4()))
    reply: pb.GetEmailResponse = await probe.client.call(probe.stub.GetEmail, request, **how)
    return reply


async def denied(probe: Probe, tenant: UUID | str, **how: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(Refused) as caught:
        await call(probe, tenant, **how)
    return caught.value.answer.code, caught.value.answer.reason


async def test_a_served_key_rotates_within_two_seconds(probe: Probe, keys: TokenFactory) -> None:
    factory = probe.client.tokens
    old = factory.token("oltp", tenant=TENANT, scopes=["emails.read"])
    await call(probe, TENANT, token=old)
    kept = dict(factory.keys)
    kid = factory.rotate()
    fresh = factory.token("oltp", tenant=TENANT, scopes=["emails.read"])
    factory.publish([kid])
    try:
        ends = time.monotonic() + 2
        while (await outcome(probe, fresh), await outcome(probe, old)) != ("OK", "TOKEN_INVALID"):
            assert time.monotonic() < ends
            await asyncio.sleep(0.05)
    finally:
        factory.publish(kept | {kid: factory.keys[kid]})


async def outcome(probe: Probe, token: str) -> str:
    try:
        await call(probe, TENANT, token=token)
    except Refused as refusal:
        return refusal.answer.reason
    return "OK"


async def test_a_missing_scope_is_named(probe: Probe) -> None:
    token = probe.client.tokens.token("oltp", tenant=TENANT, scopes=["emails.write"])
    with pytest.raises(Refused) as caught:
        await call(probe, TENANT, token=token)
    answer = caught.value.answer
    assert (answer.code, answer.reason) == (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")
    assert answer.metadata == {"scope": "emails.read"}


async def test_the_requests_tenant_is_the_tokens_in_any_spelling(probe: Probe) -> None:
    token = probe.client.tokens.token("oltp", tenant=TENANT, scopes=["emails.read"])
    assert (await call(probe, str(TENANT).upper(), token=token)).email.tenant_id == str(TENANT).upper()
    other = (grpc.StatusCode.PERMISSION_DENIED, "TENANT_MISMATCH")
    assert await denied(probe, uuid4(), token=token) == other
    assert await denied(probe, str(uuid4()).upper(), token=token) == other
    nobody = probe.client.tokens.token("oltp", scopes=["emails.read"])
    assert await denied(probe, TENANT, token=nobody) == other
    assert await denied(probe, "", token=token) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


async def test_a_tenant_in_the_metadata_counts_for_nothing(probe: Probe) -> None:
    mine = probe.client.tokens.token("oltp", tenant=TENANT, scopes=["emails.read"])
    foreign = uuid4()
    metadata = (
        ("authorization", f"Bearer {mine}"),
        ("x-tenant-id", str(foreign)),
        ("tenant", str(foreign)),
        ("tenant_id", str(foreign)),
    )
    request = pb.GetEmailRequest(tenant_id=str(foreign), email_id=str(uuid4()))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await probe.stub.GetEmail(request, metadata=metadata, timeout=5)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await probe.stub.GetEmail(request, metadata=metadata[1:], timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_second_authorization_header_is_never_the_one_believed(probe: Probe) -> None:
    mine = probe.client.tokens.token("oltp", tenant=TENANT, scopes=["emails.read"])
    request = pb.GetEmailRequest(tenant_id=str(TENANT), email_id=str(uuid4()))
    metadata = (("authorization", "Bearer rubbish"), ("authorization", f"Bearer {mine}"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await probe.stub.GetEmail(request, metadata=metadata, timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_platform_token_is_good_for_the_methods_it_names_only(probe: Probe) -> None:
    path = "/penguin.oltp.v1.EmailService/GetEmail"
    issue = probe.client.tokens.token
    named = issue("oltp", scopes=["emails.read"], platform=True, methods=[path])
    assert (await call(probe, TENANT, token=named)).email.tenant_id == str(TENANT)
    only = (grpc.StatusCode.PERMISSION_DENIED, "PLATFORM_ONLY")
    other = issue("oltp", scopes=["emails.read"], platform=True, methods=["/penguin.oltp.v1.EmailService/ListEmails"])
    assert await denied(probe, TENANT, token=other) == only
    assert await denied(probe, TENANT, token=issue("oltp", scopes=["emails.read"], platform=True)) == only
    scopeless = issue("oltp", platform=True, methods=[path])
    assert await denied(probe, TENANT, token=scopeless) == (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")


async def test_a_tenants_token_never_opens_a_platform_method(oltp_status: TierClient) -> None:
    request = tier_pb.LeaseOutboxRequest(max_rows=1, max_tenants=1)
    request.lease_duration.FromSeconds(5)
    path = "/penguin.tier.v1.TierService/LeaseOutbox"
    for token in (
        oltp_status.tokens.token("oltp", tenant=TENANT, scopes=["tier.outbox"]),
        oltp_status.tokens.token("oltp", tenant=TENANT, scopes=["tier.outbox"], methods=[path]),
    ):
        with pytest.raises(Refused) as caught:
            await oltp_status.call(TierServiceStub(oltp_status.channel).LeaseOutbox, request, token=token)
        assert caught.value.answer.reason == "PLATFORM_ONLY"


async def test_issuers_are_held_against_the_list(tokens: TokenFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    async with probing(tokens, monkeypatch, issuers=("the only one",)) as probe:
        right = tokens.token("oltp", tenant=TENANT, scopes=["emails.read"], iss="the only one")
        await call(probe, TENANT, token=right)
        wrong = tokens.token("oltp", tenant=TENANT, scopes=["emails.read"])
        assert await denied(probe, TENANT, token=wrong) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")
