"""Tokens for tests: a key set of its own in a folder, and tokens for any caller, good or bad."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ISSUER = "penguin-test-issuer"


class TokenFactory:
    """Signs tokens with Ed25519 and keeps the public key set beside, as `jwks_path`."""

    def __init__(self, folder: Path) -> None:
        self.jwks_path = folder / "jwks.json"
        self.keys: dict[str, Ed25519PrivateKey] = {}
        self.rotate()

    def rotate(self) -> str:
        """Sign with a new key from now on; earlier ones stay in the set. Returns the new kid."""
        kid = f"test-{len(self.keys)}"
        self.keys[kid] = Ed25519PrivateKey.generate()
        self.publish(self.keys)
        return kid

    def publish(self, kids: Iterable[str]) -> None:
        """Make the key set hold these keys only."""
        algorithm = jwt.algorithms.OKPAlgorithm
        keys = [algorithm.to_jwk(self.keys[k].public_key(), as_dict=True) | {"kid": k, "alg": "EdDSA"} for k in kids]
        scratch = self.jwks_path.with_suffix(".new")
        scratch.write_text(json.dumps({"keys": keys}))
        scratch.replace(self.jwks_path)

    def token(
        self,
        audience: str,
        *,
        tenant: UUID | None = None,
        scopes: Iterable[str] = (),
        platform: bool = False,
        methods: Iterable[str] = (),
        ttl_s: float = 300,
        kid: str | None = None,
        **claims: Any,
    ) -> str:
        """A signed token; `claims` override whatever is asked for otherwise."""
        kid = kid or list(self.keys)[-1]
        now = time.time()
        body: dict[str, Any] = {
            "iss": ISSUER,
            "sub": "test",
            "aud": audience,
            "iat": int(now),
            "exp": int(now + ttl_s),
            "jti": str(uuid4()),
            "scope": " ".join(scopes),
            "platform": platform,
            "methods": list(methods),
        }
        if tenant is not None:
            body["tenant"] = str(tenant)
        return jwt.encode(body | claims, self.keys[kid], algorithm="EdDSA", headers={"kid": kid})


class IssuedTokens:
    """The factory as the orchestrator's source of tokens: each is right for what it is asked for."""

    def __init__(self, factory: TokenFactory) -> None:
        self._factory = factory
        self._tokens: dict[tuple[str, ...], str] = {}

    async def tenant_token(self, tier: str, tenant_id: UUID, scope: str) -> str:
        """A token for one tenant at one tier."""
        key = (tier, str(tenant_id), scope)
        if key not in self._tokens:
            self._tokens[key] = self._factory.token(tier, tenant=tenant_id, scopes=[scope])
        return self._tokens[key]

    async def platform_token(self, tier: str, method: str, scope: str) -> str:
        """A token for one platform method of one tier."""
        key = (tier, method, scope)
        if key not in self._tokens:
            self._tokens[key] = self._factory.token(tier, scopes=[scope], platform=True, methods=[method])
        return self._tokens[key]
