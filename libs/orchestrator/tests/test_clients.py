"""Calls of tiers: what is asked again and what is not, for how long, and with which token."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import grpc
import pytest
from aiohttp import web

from penguin.oltp.v1 import email_service_pb2 as pb
from penguin.oltp.v1 import email_service_pb2_grpc as email_grpc
from penguin.tier.v1 import tier_service_pb2 as tier_pb
from penguin.tier.v1.tier_service_pb2_grpc import TierServiceStub
from penguin_orchestrator.clients import OPTIONS, Tier, connect
from penguin_orchestrator.errors import TierError, first_failure
from penguin_orchestrator.tokens import ExchangedTokens, TokenError
from penguin_testkit.faults import Break, Code, Faults, refusal
from penguin_testkit.peers import NoTokens

GET = "GetEmail"


class Ledger(email_grpc.EmailServiceServicer):
    """Answers GetEmail as its script says: a code, or nothing for an answer."""

    def __init__(self) -> None:
        self.script: list[grpc.StatusCode | None] = []
        self.requests: list[pb.GetEmailRequest] = []
        self.metadata: list[dict[str, Any]] = []

    async def GetEmail(self, request: pb.GetEmailRequest, context: Any) -> pb.GetEmailResponse:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        code = self.script.pop(0) if self.script else None
        if code is not None:
            await context.abort(code, "scripted")
        return pb.GetEmailResponse(email=pb.Email(id=request.email_id))


@contextlib.asynccontextmanager
async def serving(ledger: Ledger, port: int = 0) -> AsyncIterator[int]:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    email_grpc.add_EmailServiceServicer_to_server(ledger, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(None)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()  # type: ignore[abstract]


@pytest.fixture
async def tier(ledger: Ledger) -> AsyncIterator[Tier]:
    async with (
        serving(ledger) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel,
    ):
        yield Tier("oltp", channel, NoTokens())


def request() -> pb.GetEmailRequest:
    return pb.GetEmailRequest(tenant_id=str(uuid4()), email_id=str(uuid4()))


def get(tier: Tier) -> Any:
    return tier.stub(email_grpc.EmailServiceStub).GetEmail


async def test_unavailable_is_asked_again_with_the_same_request(tier: Tier, ledger: Ledger) -> None:
    ledger.script = [Code.UNAVAILABLE, Code.UNAVAILABLE]
    asked = request()
    reply = await tier.call(get(tier), asked)
    assert reply.email.id == asked.email_id
    assert ledger.requests == [asked] * 3


@pytest.mark.parametrize(
    "code", [Code.INVALID_ARGUMENT, Code.INTERNAL, Code.RESOURCE_EXHAUSTED, Code.ABORTED, Code.PERMISSION_DENIED]
)
async def test_nothing_else_is_asked_again_by_itself(tier: Tier, ledger: Ledger, code: grpc.StatusCode) -> None:
    ledger.script = [code] * 5
    with pytest.raises(TierError) as caught:
        await tier.call(get(tier), request())
    assert caught.value.code is code
    assert len(ledger.requests) == 1


async def test_a_tier_that_stays_away_is_not_asked_four_times_for_ever(tier: Tier, ledger: Ledger) -> None:
    ledger.script = [Code.UNAVAILABLE] * 1000
    for _ in range(20):
        with pytest.raises(TierError):
            await tier.call(get(tier), request())
    assert len(ledger.requests) < 45


async def test_insisting_ends_with_its_deadline(tier: Tier, ledger: Ledger) -> None:
    ledger.script = [Code.UNAVAILABLE] * 1000
    started = time.monotonic()
    with pytest.raises(TierError) as caught:
        await tier.insist(get(tier), request(), deadline_s=0.5)
    assert time.monotonic() - started < 1.5
    assert caught.value.retryable
    assert caught.value.outcome_unknown
    # A refusal for good is not asked again.
    ledger.script, ledger.requests = [Code.FAILED_PRECONDITION] * 3, []
    with pytest.raises(TierError) as caught:
        await tier.insist(get(tier), request(), deadline_s=5)
    assert len(ledger.requests) == 1
    assert not caught.value.outcome_unknown
    ledger.script = [Code.INTERNAL, Code.UNKNOWN]
    assert (await tier.insist(get(tier), request(), deadline_s=5)).email.id


@contextlib.asynccontextmanager
async def broken(faults: Faults) -> AsyncIterator[Tier]:
    """A tier where every call passes the faults and then meets nobody."""
    channel = grpc.aio.insecure_channel("127.0.0.1:9", options=OPTIONS, interceptors=[faults])
    async with channel:
        yield Tier("oltp", channel, NoTokens())


async def test_waiting_is_as_long_as_the_tier_asks_for() -> None:
    faults = Faults()
    faults.breaks(GET, Break(Code.RESOURCE_EXHAUSTED, "TENANT_QUOTA", retry_after_s=0.4), Break(Code.NOT_FOUND, "X"))
    async with broken(faults) as tier:
        started = time.monotonic()
        with pytest.raises(TierError):
            await tier.insist(get(tier), request(), deadline_s=5)
        assert 0.35 < time.monotonic() - started < 2
    assert len(faults.requests[GET]) == 2


async def test_an_earlier_unknown_outcome_is_not_forgotten() -> None:
    faults = Faults()
    faults.breaks(GET, Break(Code.DEADLINE_EXCEEDED), Break(Code.PERMISSION_DENIED, "SCOPE_MISSING"))
    async with broken(faults) as tier:
        with pytest.raises(TierError) as caught:
            await tier.insist(get(tier), request(), deadline_s=5)
    assert caught.value.code is Code.PERMISSION_DENIED
    assert not caught.value.retryable
    assert caught.value.outcome_unknown


@pytest.mark.parametrize(
    ("code", "reason", "retryable", "unknown"),
    [
        (Code.UNAVAILABLE, "TIER_DB_DOWN", True, True),
        (Code.UNAVAILABLE, "NO_TOKEN", True, False),
        (Code.DEADLINE_EXCEEDED, "DEADLINE", True, True),
        (Code.INTERNAL, "INTERNAL", True, True),
        (Code.RESOURCE_EXHAUSTED, "TENANT_QUOTA", True, False),
        (Code.RESOURCE_EXHAUSTED, "TOO_LARGE", False, False),
        # gRPC's own limit on a message's size gives no reason, and will not be otherwise tomorrow.
        (Code.RESOURCE_EXHAUSTED, "", False, False),
        (Code.ALREADY_EXISTS, "REQUEST_ID_REUSED", False, False),
        (Code.ABORTED, "SAGA_COMPENSATED", False, False),
    ],
)
def test_what_may_be_asked_again_and_what_is_unknown(
    code: grpc.StatusCode, reason: str, retryable: bool, unknown: bool
) -> None:
    error = TierError("oltp", code, reason, "")
    assert (error.retryable, error.outcome_unknown) == (retryable, unknown)


async def test_errors_are_unpacked() -> None:
    faults = Faults()
    faults.breaks(GET, Break(Code.RESOURCE_EXHAUSTED, "TENANT_QUOTA", retry_after_s=1.5))
    async with broken(faults) as tier:
        with pytest.raises(TierError) as caught:
            await tier.call(get(tier), request())
        error = caught.value
        assert (error.tier, error.reason, error.retry_after_s) == ("oltp", "TENANT_QUOTA", 1.5)
        with pytest.raises(TierError) as caught:
            await tier.call(get(tier), request(), timeout=1)
        assert caught.value.reason in {"UNREACHABLE", "DEADLINE"}
    assert refusal(Code.UNAVAILABLE, Break(Code.UNAVAILABLE)).code() is Code.UNAVAILABLE


async def test_the_deadline_covers_the_token_too(ledger: Ledger, tier: Tier) -> None:
    class Slow(NoTokens):
        async def tenant_token(self, tier: str, tenant_id: UUID, scope: str) -> str:
            await asyncio.sleep(30)
            return "never"

    slow = Tier("oltp", tier.channel, Slow())
    started = time.monotonic()
    with pytest.raises(TierError) as caught:
        await slow.call(get(slow), request(), timeout=0.2)
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    assert time.monotonic() - started < 1
    assert ledger.requests == []


async def test_without_a_token_nothing_is_sent(ledger: Ledger, tier: Tier) -> None:
    class Refusing(NoTokens):
        async def tenant_token(self, tier: str, tenant_id: UUID, scope: str) -> str:
            raise TokenError("no")

    poor = Tier("oltp", tier.channel, Refusing())
    with pytest.raises(TierError) as caught:
        await poor.call(get(poor), request())
    assert (caught.value.code, caught.value.reason) == (Code.UNAVAILABLE, "NO_TOKEN")
    assert ledger.requests == []


async def test_the_token_is_the_methods(tier: Tier, ledger: Ledger) -> None:
    class Telling(NoTokens):
        async def tenant_token(self, tier: str, tenant_id: UUID, scope: str) -> str:
            return f"{tier}/{tenant_id}/{scope}"

        async def platform_token(self, tier: str, method: str, scope: str) -> str:
            raise TokenError(f"{tier} {method} {scope}")

    telling, asked = Tier("oltp", tier.channel, Telling()), request()
    await telling.call(get(telling), asked)
    assert ledger.metadata[0]["authorization"] == f"Bearer oltp/{asked.tenant_id}/emails.read"
    lease = tier_pb.LeaseOutboxRequest(max_rows=1, max_tenants=1)
    with pytest.raises(TierError, match=r"oltp /penguin\.tier\.v1\.TierService/LeaseOutbox tier\.outbox"):
        await telling.call(telling.stub(TierServiceStub).LeaseOutbox, lease)


async def test_a_channel_finds_a_server_that_came_back_on_its_port(ledger: Ledger) -> None:
    async with serving(ledger) as port:
        pass
    async with connect({"oltp": f"127.0.0.1:{port}"}, NoTokens()) as tiers:
        tier = tiers["oltp"]
        with pytest.raises(TierError) as caught:
            await tier.call(get(tier), request(), timeout=1)
        assert caught.value.retryable
        for _ in range(2):
            async with serving(ledger, port):
                reply = await tier.insist(get(tier), request(), deadline_s=10)
                assert reply.email.id
            with pytest.raises(TierError):
                await tier.call(get(tier), request(), timeout=0.5)


async def test_a_server_that_accepts_and_says_nothing_costs_the_deadline_and_no_more() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with connect({"oltp": f"127.0.0.1:{silent.getsockname()[1]}"}, NoTokens()) as tiers:
            started = time.monotonic()
            with pytest.raises(TierError) as caught:
                await tiers["oltp"].call(get(tiers["oltp"]), request(), timeout=0.5)
            assert time.monotonic() - started < 1.5
            assert caught.value.outcome_unknown


async def test_the_first_failure_of_a_group_comes_out_as_itself() -> None:
    async def fail() -> None:
        raise TierError("oltp", Code.UNAVAILABLE, "X", "")

    async def work() -> None:
        async with first_failure(), asyncio.TaskGroup() as outer:
            async with asyncio.TaskGroup() as inner:
                inner.create_task(fail())
                inner.create_task(asyncio.sleep(30))
            outer.create_task(asyncio.sleep(30))

    with pytest.raises(TierError):
        await work()
    async with first_failure(), asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(0))


class Issuer:
    """Gives tokens, or whatever else a test wants."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []
        self.answer: Any = None

    async def handle(self, request: web.Request) -> web.Response:
        form = dict(await request.post())
        self.asked.append({key: str(value) for key, value in form.items()})
        await asyncio.sleep(0.02)
        if self.answer is not None:
            return self.answer()  # type: ignore[no-any-return]
        return web.json_response({"access_token": f"t{len(self.asked)}", "expires_in": 300})


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
async def exchanged(issuer: Issuer, tmp_path: Path) -> AsyncIterator[ExchangedTokens]:
    credential = tmp_path / "credential"
    credential.write_text("who we are\n")
    app = web.Application()
    app.router.add_post("/token", issuer.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    async with aiohttp.ClientSession() as session:
        yield ExchangedTokens(f"http://127.0.0.1:{port}/token", credential, session, ["a.read", "a.write"])
    await runner.cleanup()


async def test_a_token_is_exchanged_once_and_kept(exchanged: ExchangedTokens, issuer: Issuer) -> None:
    tenant = uuid4()
    many = await asyncio.gather(*(exchanged.tenant_token("oltp", tenant, "a.read") for _ in range(20)))
    assert many == ["t1"] * 20
    assert issuer.asked == [
        {
            "audience": "oltp", "tenant": str(tenant), "scope": "a.read a.write", "subject_token": "who we are",
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        }
    ]  # fmt: skip
    assert await exchanged.tenant_token("content", tenant, "a.read") == "t2"
    assert await exchanged.platform_token("oltp", "/m", "tier.outbox") == "t3"
    assert issuer.asked[2]["methods"] == "/m"
    assert not exchanged._locks


async def test_a_token_is_renewed_before_it_ends(exchanged: ExchangedTokens, issuer: Issuer) -> None:
    issuer.answer = lambda: web.json_response({"access_token": f"t{len(issuer.asked)}", "expires_in": 60.5})
    assert await exchanged.platform_token("oltp", "/m", "s") == "t1"
    assert await exchanged.platform_token("oltp", "/m", "s") == "t1"
    await asyncio.sleep(1.05)
    assert await exchanged.platform_token("oltp", "/m", "s") == "t2"


@pytest.mark.parametrize(
    "answer",
    [
        lambda: web.json_response({"error": "invalid_client"}, status=401),
        lambda: web.Response(text="<html>", content_type="text/html"),
        lambda: web.Response(text="{", content_type="application/json"),
        lambda: web.json_response({"access_token": "t"}),
        lambda: web.json_response(["t"]),
        lambda: web.json_response({"access_token": "t", "expires_in": "soon"}),
    ],
)
async def test_whatever_keeps_a_token_away_is_a_token_error(
    exchanged: ExchangedTokens, issuer: Issuer, answer: Any
) -> None:
    issuer.answer = answer
    with pytest.raises(TokenError):
        await exchanged.platform_token("oltp", "/m", "s")
    issuer.answer = None
    assert await exchanged.platform_token("oltp", "/m", "s") == "t2"


async def test_a_missing_credential_is_a_token_error_too(exchanged: ExchangedTokens, tmp_path: Path) -> None:
    (tmp_path / "credential").unlink()
    with pytest.raises(TokenError):
        await exchanged.platform_token("oltp", "/m", "s")
