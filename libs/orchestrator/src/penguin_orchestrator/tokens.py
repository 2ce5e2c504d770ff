"""Short tokens for calls: an issuer exchanges our workload identity for them. No signing key is ever held here."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol
from uuid import UUID

import aiohttp

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
EXCHANGE_TIMEOUT_S = 5.0
# A token is renewed while it is still good for this long (seconds), so that no call carries one that runs out on its way.
RENEW_BEFORE_S = 60.0
CACHE_SIZE = 20_000


class TokenError(Exception):
    """The issuer gave no token."""


class TokenSource(Protocol):
    """Gives bearer tokens."""

    async def tenant_token(self, tier: str, tenant_id: UUID, scope: str) -> str:
        """A token for one tenant at one tier."""
        ...

    async def platform_token(self, tier: str, method: str, scope: str) -> str:
        """A token for one platform method of one tier."""
        ...


class ExchangedTokens:
    """Tokens from an issuer's token exchange (RFC 8693), kept until shortly before they expire.

    One exchange per token is under way at a time, however many calls wait for it.
    """

    def __init__(self, url: str, credential_path: Path, session: aiohttp.ClientSession, scopes: Sequence[str]) -> None:
        self._url = url
        self._credential_path = credential_path
        self._session = session
        self._scopes = " ".join(scopes)
        self._tokens: OrderedDict[tuple[str, ...], tuple[float, str]] = OrderedDict()
        self._locks: dict[tuple[str, ...], asyncio.Lock] = {}

    async def tenant_token(self, tier: str, tenant_id: UUID, scope: str) -> str:
        """A token for one tenant at one tier, with every scope we may have there."""
        key = (tier, str(tenant_id))
        return await self._token(key, {"audience": tier, "tenant": str(tenant_id), "scope": self._scopes})

    async def platform_token(self, tier: str, method: str, scope: str) -> str:
        """A token that is good for this one method only."""
        return await self._token((tier, method, scope), {"audience": tier, "methods": method, "scope": scope})

    async def _token(self, key: tuple[str, ...], form: dict[str, str]) -> str:
        cached = self._tokens.get(key)
        if cached is not None and cached[0] > time.monotonic():
            return cached[1]
        async with self._locks.setdefault(key, asyncio.Lock()):
            cached = self._tokens.get(key)
            if cached is None or cached[0] <= time.monotonic():
                cached = self._tokens[key] = await self._exchange(form)
                self._tokens.move_to_end(key)
                while len(self._tokens) > CACHE_SIZE:
                    self._tokens.popitem(last=False)
        self._locks.pop(key, None)
        return cached[1]

    async def _exchange(self, form: dict[str, str]) -> tuple[float, str]:
        timeout = aiohttp.ClientTimeout(total=EXCHANGE_TIMEOUT_S)
        try:
            credential = self._credential_path.read_text().strip()
            body = form | {"grant_type": EXCHANGE, "subject_token": credential}
            async with self._session.post(self._url, data=body, timeout=timeout) as reply:
                answer = await reply.json()
                if reply.status != 200:
                    raise TokenError(f"the issuer refused: {answer.get('error', reply.status)}")
                good_for = max(1.0, float(answer["expires_in"]) - RENEW_BEFORE_S)
                return time.monotonic() + good_for, str(answer["access_token"])
        except (aiohttp.ClientError, OSError, ValueError, TypeError, AttributeError, KeyError) as error:
            raise TokenError(f"no token was to be had: {type(error).__name__}") from None
