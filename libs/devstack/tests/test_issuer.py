"""The development issuer: its tokens, its keys on disk, and the HTTP exchange as a process."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest

from penguin_devstack.issuer import GRANT_TYPE, ISSUER, Issuer, provision_workload
from penguin_devstack.ports import free_port

TENANT = "01890000-0000-7000-8000-000000000001"


def verify(issuer: Issuer, token: str, audience: str = "oltp") -> dict[str, Any]:
    keys = jwt.PyJWKSet.from_dict(json.loads(issuer.jwks_path.read_text()))
    key = keys[jwt.get_unverified_header(token)["kid"]]
    return jwt.decode(token, key, algorithms=["EdDSA"], audience=audience, issuer=ISSUER)


def test_tokens_carry_the_agreed_claims_and_live_at_most_five_minutes(tmp_path: Path) -> None:
    issuer = Issuer(tmp_path)
    claims = verify(issuer, issuer.mint("oltp", uuid.UUID(TENANT), actor="ann", scopes=["emails.send"], ttl_s=9_999))
    assert claims.pop("exp") - claims["iat"] == 300
    assert claims.pop("iat") == claims.pop("nbf")
    assert uuid.UUID(claims.pop("jti"))
    assert claims == {
        "iss": ISSUER, "sub": "ann", "aud": "oltp", "tenant": TENANT, "scope": "emails.send", "platform": False,
        "methods": [],
    }  # fmt: skip
    method = "/penguin.tier.v1.TierService/LeaseOutbox"
    claims = verify(issuer, issuer.mint("oltp", actor="relay", platform=True, methods=[method]))
    assert (claims["platform"], claims["methods"], "tenant" in claims) == (True, [method], False)
    wrongs: list[dict[str, Any]] = [
        {"audience": "web"}, {"tenant": "x"}, {"platform": True}, {"methods": ["/a/b"]}, {"ttl_s": 0},
    ]  # fmt: skip
    for wrong in wrongs:
        with pytest.raises(ValueError):
            issuer.mint(**{"audience": "oltp", "actor": "ann", **wrong})


def test_private_keys_are_private_and_the_key_set_holds_only_public_ones(tmp_path: Path) -> None:
    issuer = Issuer(tmp_path / "issuer")
    assert (tmp_path / "issuer").stat().st_mode & 0o077 == 0
    pems = list((tmp_path / "issuer").glob("*.pem"))
    assert len(pems) == 1
    assert pems[0].stat().st_mode & 0o077 == 0
    keys = json.loads(issuer.jwks_path.read_text())["keys"]
    assert [set(key) for key in keys] == [{"kty", "crv", "use", "alg", "kid", "x"}]
    assert Issuer(tmp_path / "issuer").keys.signing_key()[0] == keys[0]["kid"]


def test_rotation_publishes_first_and_keeps_the_old_key_until_its_tokens_expired(tmp_path: Path) -> None:
    now = time.time()
    issuer = Issuer(tmp_path, clock=lambda: now)
    other_process = Issuer(tmp_path, clock=lambda: now)
    first = issuer.keys.signing_key()[0]
    second = issuer.rotate()

    def published() -> set[str]:
        issuer.keys.drop_expired()
        return {key["kid"] for key in json.loads(issuer.jwks_path.read_text())["keys"]}

    assert published() == {first, second}
    assert other_process.keys.signing_key()[0] == first
    now += 3
    token = other_process.mint("oltp", actor="ann", scopes="a.b")
    assert jwt.get_unverified_header(token)["kid"] == second
    now += 299
    assert published() == {first, second}
    now += 60
    assert published() == {second}
    assert {path.stem for path in tmp_path.glob("*.pem")} == {second}


async def test_exchange_over_http(running: Any, tmp_path: Path) -> None:
    port, method = free_port(), "/penguin.tier.v1.TierService/LeaseOutbox"
    credentials = {name: provision_workload(tmp_path, name).read_text() for name in ("relay", "cli", "stranger")}
    assert provision_workload(tmp_path, "relay").read_text() == credentials["relay"]
    assert provision_workload(tmp_path, "relay").stat().st_mode & 0o077 == 0
    with running("penguin_devstack.issuer", port, "--dir", str(tmp_path)):
        issuer = Issuer(tmp_path)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:

            async def ask(workload: str, **form: str) -> tuple[int, dict[str, Any]]:
                subject = credentials.get(workload, workload)
                form = {"grant_type": GRANT_TYPE, "audience": "oltp", "subject_token": subject, **form}
                async with http.post("/token", data=form) as reply:
                    assert reply.headers["Cache-Control"] == "no-store"
                    return reply.status, await reply.json()

            status, body = await ask("cli", scope="emails.send emails.read", tenant=TENANT, actor="ann")
            assert (status, body["token_type"], body["expires_in"]) == (200, "Bearer", 300)
            assert body["issued_token_type"] == "urn:ietf:params:oauth:token-type:jwt"
            claims = verify(issuer, body["access_token"])
            assert (claims["sub"], claims["scope"], claims["tenant"]) == ("ann", "emails.read emails.send", TENANT)

            _, body = await ask("relay", scope="users.write jobs.write", tenant=TENANT)
            assert (body["scope"], verify(issuer, body["access_token"])["scope"]) == ("jobs.write", "jobs.write")

            _, body = await ask("relay", methods=method, scope="tier.outbox")
            claims = verify(issuer, body["access_token"])
            assert (claims["sub"], claims["platform"], claims["methods"]) == ("relay", True, [method])

            refusals = {
                "invalid_request": [await ask("guess", scope="a.b"), await ask("", scope="a.b"),
                                    await ask("cli", scope="a.b", tenant="not-a-uuid")],
                "invalid_scope": [await ask("relay", scope="users.write"), await ask("cli"),
                                  await ask("relay", methods="/penguin.queue.v1.QueueAdminService/PutQueue"),
                                  await ask("stranger", scope="emails.read")],
                "invalid_target": [await ask("cli", scope="a.b", audience="elsewhere")],
                "unsupported_grant_type": [await ask("cli", scope="a.b", grant_type="password")],
            }  # fmt: skip
            for code, replies in refusals.items():
                assert [(status, body["error"]) for status, body in replies] == [(400, code)] * len(replies)

            (tmp_path / "policy.json").write_text(json.dumps({"stranger": {"scopes": ["emails.read"]}}))
            assert (await ask("stranger", scope="emails.read"))[0] == 200

            async with http.get("/.well-known/jwks.json") as reply:
                assert await reply.json() == json.loads(issuer.jwks_path.read_text())
