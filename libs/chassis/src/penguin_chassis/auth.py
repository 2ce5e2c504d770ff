"""Verifies bearer tokens (JWT, EdDSA) from a local key set, so that no other tier or issuer has to be up.

It never issues tokens, and it never trusts a tenant that a token does not carry.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from uuid import UUID

import jwt

from penguin_chassis.calls import Caller
from penguin_chassis.faults import Unauthenticated

# How long a changed key file may go unnoticed, and how often an unknown kid may make us look again (seconds).
RELOAD_S = 1.0
# Verified tokens kept, so that a signature is checked once per token and not once per call.
CACHE_SIZE = 10_000
LEEWAY_S = 5
# No token may promise itself a longer life than this (seconds).
MAX_LIFETIME_S = 300


def _invalid(message: str = "The token is not valid for this tier.") -> Unauthenticated:
    return Unauthenticated(message, reason="TOKEN_INVALID")


class Verifier:
    """Checks tokens for one audience (the tier's name) against the key set in a JWKS file.

    The file is read again when it changes, so keys rotate without a restart.
    """

    def __init__(self, jwks_path: Path, audience: str, issuers: Iterable[str] = ()) -> None:
        self._path = jwks_path
        self._audience = audience
        self._issuers = frozenset(issuers)
        self._keys: dict[str, Any] = {}
        self._stamp: tuple[int, int] = (0, 0)
        self._looked = 0.0
        self._cache: OrderedDict[str, tuple[float, Caller]] = OrderedDict()

    def caller(self, authorization: str | None) -> Caller:
        """Whom the Authorization header vouches for; raises Unauthenticated."""
        if not authorization or not authorization[:7].lower() == "bearer ":
            raise Unauthenticated("A bearer token is needed.")
        token = authorization[7:].strip()
        self._reload()
        cached = self._cache.get(token)
        if cached is not None:
            expires, caller = cached
            if time.time() >= expires + LEEWAY_S:
                del self._cache[token]
                raise Unauthenticated("The token has expired.", reason="TOKEN_EXPIRED")
            return caller
        expires, caller = self._verify(token)
        self._cache[token] = (expires, caller)
        if len(self._cache) > CACHE_SIZE:
            self._cache.popitem(last=False)
        return caller

    def _reload(self) -> None:
        now = time.monotonic()
        if now - self._looked < RELOAD_S and self._keys:
            return
        self._looked = now
        try:
            stat = self._path.stat()
            stamp = (stat.st_mtime_ns, stat.st_ino)
            if stamp == self._stamp:
                return
            keys = jwt.PyJWKSet.from_dict(json.loads(self._path.read_text()))
        except (OSError, ValueError, jwt.PyJWTError):
            return  # the keys we have stay good; without any, every token is refused
        self._keys = {key.key_id: key.key for key in keys.keys if key.key_id}
        self._stamp = stamp
        # A removed key, and a kid that stands for another key now, vouch for nobody any more.
        self._cache.clear()

    def _verify(self, token: str) -> tuple[float, Caller]:
        try:
            kid = str(jwt.get_unverified_header(token).get("kid", ""))
            key = self._keys.get(kid)
            if key is None:
                raise _invalid()
            claims = jwt.decode(
                token, key, algorithms=["EdDSA"], audience=self._audience, leeway=LEEWAY_S,
                options={"require": ["exp", "iat", "sub", "aud", "iss"]},
            )  # fmt: skip
            if self._issuers and claims["iss"] not in self._issuers:
                raise _invalid()
            if claims["exp"] - claims["iat"] > MAX_LIFETIME_S:
                raise _invalid("The token lives longer than is allowed.")
            tenant = claims.get("tenant")
            caller = Caller(
                actor=str(claims["sub"]),
                tenant_id=UUID(tenant) if tenant else None,
                scopes=frozenset(str(claims.get("scope", "")).split()),
                platform=claims.get("platform") is True,
                methods=frozenset(map(str, claims.get("methods", ()))),
            )
        except jwt.ExpiredSignatureError:
            raise Unauthenticated("The token has expired.", reason="TOKEN_EXPIRED") from None
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            raise _invalid() from None
        return float(claims["exp"]), caller
