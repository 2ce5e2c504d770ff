"""A development token issuer: mints short EdDSA tokens for the tiers and exchanges workload credentials for them over
HTTP. It is no tier, and nothing verifies tokens through it: verifiers read the key set file."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hmac
import json
import logging
import os
import secrets
import signal
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jwt

from penguin_devstack.ports import LOOPBACK
from penguin_devstack.signing_keys import MAX_TOKEN_LIFETIME_S, KeyDirectory

if TYPE_CHECKING:
    from aiohttp import web

ISSUER = "penguin-dev-issuer"
TIERS = ("oltp", "content", "olap", "queue", "notifications")
GRANT_TYPE = "urn:ietf:params:oauth:grant-type:token-exchange"
TOKEN_TYPE = "urn:ietf:params:oauth:token-type:jwt"  # noqa: S105 - a type's name
_HOUSEKEEPING_S = 30.0
_POLICY_FILE = "policy.json"


@dataclass(frozen=True, slots=True)
class WorkloadPolicy:
    """What a workload may ask for. Patterns are shell-like: `emails.*`, `/penguin.tier.v1.TierService/*`."""

    scopes: Sequence[str] = ()
    methods: Sequence[str] = ()
    audiences: Sequence[str] = TIERS


# Who runs what in the local stack. `policy.json` in the issuer's directory replaces entries of the same name.
DEFAULT_POLICIES: Mapping[str, WorkloadPolicy] = {
    "cli": WorkloadPolicy(scopes=("*",), methods=("*",)),
    "orchestrator": WorkloadPolicy(scopes=("*",), methods=("*",)),
    "relay": WorkloadPolicy(
        # It also finishes what others began across tiers (sagas of tenants, campaigns and leads), and brings tiers to agree.
        scopes=("tier.*", "contents.*", "jobs.*", "notifications.write", "admin_events.write", "sagas.read",
                "sagas.write", "tenants.*", "campaigns.*", "templates.read", "email_accounts.read", "leads.*",
                "emails.read", "emails.write", "reconcile.*", "ledger.read", "facts.*", "reports.read",
                "subjects.*", "holds.manage"),
        methods=("/penguin.tier.v1.TierService/*", "/penguin.tier.v1.KeyService/*",
                 "/penguin.notifications.v1.AdminEventService/CreateAdminEvent",
                 "/penguin.oltp.v1.ReconcileService/*", "/penguin.oltp.v1.SagaService/*",
                 "/penguin.oltp.v1.TenantService/*",
                 # Files of sagas and orphans go also where the tenant was closed, and people are told what is held of them.
                 "/penguin.content.v1.ContentService/BatchPutContents",
                 "/penguin.content.v1.ContentService/DeleteContents",
                 "/penguin.content.v1.ContentService/QuarantineContents",
                 "/penguin.content.v1.ContentService/UploadBlob"),
    ),
    "worker": WorkloadPolicy(
        scopes=("tier.*", "jobs.*", "emails.*", "contents.*", "ledger.*", "facts.*", "inbox.*", "leads.*", "*.read",
                "suppressions.*", "campaigns.*", "notifications.write", "admin_events.write"),
        methods=("/penguin.tier.v1.TierService/*", "/penguin.queue.v1.QueueService/*",
                 "/penguin.notifications.v1.AdminEventService/CreateAdminEvent",
                 "/penguin.oltp.v1.TenantService/ListTenants"),
    ),
}  # fmt: skip


class TokenRequestError(Exception):
    """A refused token request: an error code of RFC 6749 or RFC 8693, and words safe to show."""

    def __init__(self, code: str, description: str) -> None:
        super().__init__(description)
        self.code = code
        self.description = description


class Issuer:
    """Mints tokens with the keys in `directory`, creating the first key when needed."""

    def __init__(self, directory: Path, clock: Callable[[], float] = time.time) -> None:
        self.directory = directory
        self.keys = KeyDirectory(directory, clock)
        self.keys.ensure()
        self._clock = clock

    @property
    def jwks_path(self) -> Path:
        return self.keys.jwks_path

    def rotate(self) -> str:
        """Begin to use a new key; the previous one stays in the key set until its tokens have expired."""
        return self.keys.rotate()

    def mint(
        self,
        audience: str,
        tenant: uuid.UUID | str | None = None,
        *,
        actor: str,
        scopes: Iterable[str] | str = (),
        platform: bool = False,
        methods: Iterable[str] = (),
        ttl_s: float = MAX_TOKEN_LIFETIME_S,
    ) -> str:
        """A signed token for one tier. `ttl_s` is cut to 300 s; a platform token must name the methods it is for.

        Raises ValueError for anything a tier would refuse by its form.
        """
        methods = sorted(set(methods))
        if audience not in TIERS:
            raise ValueError(f"no tier is called {audience!r}")
        if platform != bool(methods):
            raise ValueError("a platform token names its methods, and only a platform token does")
        if ttl_s <= 0 or not actor:
            raise ValueError("a token needs an actor and a lifetime")
        now = int(self._clock())
        claims: dict[str, Any] = {
            "iss": ISSUER,
            "sub": actor,
            "aud": audience,
            "scope": scopes if isinstance(scopes, str) else " ".join(sorted(set(scopes))),
            "platform": platform,
            "methods": methods,
            "iat": now,
            "nbf": now,
            "exp": now + max(1, int(min(ttl_s, MAX_TOKEN_LIFETIME_S))),
            "jti": str(uuid.uuid4()),
        }
        if tenant is not None:
            claims["tenant"] = str(uuid.UUID(str(tenant)))
        kid, key = self.keys.signing_key()
        return jwt.encode(claims, key, algorithm="EdDSA", headers={"kid": kid})


def provision_workload(directory: Path, name: str) -> Path:
    """The file with a workload's credential, made with a random secret unless it exists."""
    path = directory / "workloads" / name
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{name}.{secrets.token_urlsafe(32)}")
    return path


class Exchange:
    """The rules of `POST /token`, free of HTTP."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer

    def token(self, form: Mapping[str, str]) -> dict[str, Any]:
        """The reply to a token exchange (RFC 8693). Raises TokenRequestError."""
        if form.get("grant_type") != GRANT_TYPE:
            raise TokenRequestError("unsupported_grant_type", f"grant_type must be {GRANT_TYPE}")
        workload = self._workload(form.get("subject_token", ""))
        policy = self._policy(workload)
        audience = form.get("audience", "")
        if audience not in TIERS or audience not in policy.audiences:
            raise TokenRequestError("invalid_target", "audience must be a tier that the workload may call")
        scopes = form.get("scope", "").split()
        methods = form.get("methods", "").split()
        if not scopes and not methods:
            raise TokenRequestError("invalid_scope", "scope or methods must be given")
        # Scopes are narrowed to what the workload may have, and the reply says which (RFC 6749, 3.3).
        granted = [scope for scope in scopes if _allowed(scope, policy.scopes)]
        if scopes and not granted:
            raise TokenRequestError("invalid_scope", f"the workload may ask for none of scope {' '.join(scopes)[:200]}")
        for method in methods:
            if not _allowed(method, policy.methods):
                raise TokenRequestError("invalid_scope", f"the workload may not ask for method {method[:200]}")
        try:
            token = self._issuer.mint(
                audience,
                form.get("tenant") or None,
                actor=form.get("actor") or workload,
                scopes=granted,
                platform=bool(methods),
                methods=methods,
            )
        except ValueError:
            raise TokenRequestError("invalid_request", "tenant must be a UUID") from None
        return {
            "access_token": token,
            "issued_token_type": TOKEN_TYPE,
            "token_type": "Bearer",
            "expires_in": MAX_TOKEN_LIFETIME_S,
            "scope": " ".join(granted),
        }

    def _workload(self, credential: str) -> str:
        presented = sha256(credential.strip().encode()).digest()
        found = None
        for path in sorted((self._issuer.directory / "workloads").glob("*")):
            # All are compared, so that timing tells nothing.
            if hmac.compare_digest(sha256(path.read_bytes().strip()).digest(), presented) and credential:
                found = path.name
        if found is None:
            raise TokenRequestError("invalid_request", "subject_token is no workload's credential")
        return found

    def _policy(self, workload: str) -> WorkloadPolicy:
        try:
            overrides = json.loads((self._issuer.directory / _POLICY_FILE).read_text())
        except FileNotFoundError:
            overrides = {}
        if workload in overrides:
            return WorkloadPolicy(**overrides[workload])
        return DEFAULT_POLICIES.get(workload, WorkloadPolicy())


def _allowed(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def application(issuer: Issuer) -> web.Application:
    """The HTTP face: `POST /token`, `GET /.well-known/jwks.json`, `GET /healthz`."""
    from aiohttp import web

    exchange = Exchange(issuer)
    no_store = {"Cache-Control": "no-store"}

    async def token(request: web.Request) -> web.Response:
        form = {name: value for name, value in (await request.post()).items() if isinstance(value, str)}
        try:
            return web.json_response(exchange.token(form), headers=no_store)
        except TokenRequestError as refused:
            body = {"error": refused.code, "error_description": refused.description}
            return web.json_response(body, status=400, headers=no_store)
        except Exception:
            logging.getLogger(__name__).exception("a token request failed")
            return web.json_response({"error": "server_error"}, status=500, headers=no_store)

    async def key_set(request: web.Request) -> web.Response:
        return web.json_response(text=issuer.jwks_path.read_text(), headers={"Cache-Control": "max-age=1"})

    async def health(request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    app = web.Application(client_max_size=64 * 1024)
    app.add_routes([web.post("/token", token), web.get("/.well-known/jwks.json", key_set), web.get("/healthz", health)])
    return app


async def serve(directory: Path, port: int, stopped: asyncio.Event | None = None) -> None:
    """Issue tokens on the loopback port until `stopped` is set. OSError if the port is taken."""
    from aiohttp import web

    issuer = Issuer(directory)
    runner = web.AppRunner(application(issuer), access_log=None)
    await runner.setup()
    stopped = stopped or asyncio.Event()
    try:
        await web.TCPSite(runner, LOOPBACK, port).start()
        while not stopped.is_set():
            try:
                async with asyncio.timeout(_HOUSEKEEPING_S):
                    await stopped.wait()
            except TimeoutError:
                issuer.keys.drop_expired()
    finally:
        await runner.cleanup()


async def _main(arguments: argparse.Namespace) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await serve(arguments.dir, arguments.port, stopped)


def main() -> None:
    """Run as a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m penguin_devstack.issuer", description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="directory of keys and workload credentials")
    parser.add_argument("--port", type=int, required=True)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
