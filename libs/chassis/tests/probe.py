"""A tier whose methods do whatever a test asks for, behind the chassis' real server: its contract is OLTP's email service and
two of Content's streams."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from penguin.content.v1 import content_service_pb2 as content_pb
from penguin.content.v1 import content_service_pb2_grpc as content_grpc
from penguin.oltp.v1 import email_service_pb2 as pb
from penguin.oltp.v1 import email_service_pb2_grpc as email_grpc
from penguin_chassis.interceptors import Gate
from penguin_chassis.methods import MethodInfo, declared
from penguin_chassis.server import Registration, Running, serve
from penguin_chassis.settings import ServerSettings
from penguin_testkit.calling import TierClient
from penguin_testkit.tokens import TokenFactory

TIER = "oltp"
Act = Callable[[Any, Any], Awaitable[Any]]
Stream = Callable[[Any, Any], AsyncIterator[Any]]


async def answer(request: Any, context: Any) -> pb.GetEmailResponse:
    """Nothing special."""
    return pb.GetEmailResponse(email=pb.Email(id=request.email_id, tenant_id=request.tenant_id))


class ProbeEmails(email_grpc.EmailServiceServicer):
    """`act` is what GetEmail does, `create` what BatchCreateEmails does."""

    create: Act

    def __init__(self) -> None:
        self.act: Act = answer

    async def GetEmail(self, request: pb.GetEmailRequest, context: Any) -> pb.GetEmailResponse:
        reply: pb.GetEmailResponse = await self.act(request, context)
        return reply

    async def BatchCreateEmails(
        self, request: pb.BatchCreateEmailsRequest, context: Any
    ) -> pb.BatchCreateEmailsResponse:
        reply: pb.BatchCreateEmailsResponse = await self.create(request, context)
        return reply


class ProbeContents(content_grpc.ContentServiceServicer):
    """`down` is what DownloadRaw yields, `up` what UploadBlob does with its messages."""

    down: Stream
    up: Act

    async def DownloadRaw(
        self, request: content_pb.DownloadRawRequest, context: Any
    ) -> AsyncIterator[content_pb.DownloadRawResponse]:
        async for reply in self.down(request, context):
            yield reply

    async def UploadBlob(
        self, messages: AsyncIterator[content_pb.UploadBlobRequest], context: Any
    ) -> content_pb.UploadBlobResponse:
        reply: content_pb.UploadBlobResponse = await self.up(messages, context)
        return reply


@dataclasses.dataclass
class Probe:
    """The running server, its servicers, a client, and the gate that stands around them."""

    running: Running
    emails: ProbeEmails
    contents: ProbeContents
    client: TierClient
    gate: Gate
    leave: Callable[[], Awaitable[None]]

    async def drain(self) -> None:
        """End the server, as on leaving its block."""
        await self.leave()

    @property
    def stub(self) -> Any:
        return email_grpc.EmailServiceStub(self.client.channel)

    @property
    def streams(self) -> Any:
        return content_grpc.ContentServiceStub(self.client.channel)

    @property
    def in_flight(self) -> int:
        """Calls that the admission counts now."""
        return self.gate._admission.under_way + sum(self.gate._streams.values())


@contextlib.asynccontextmanager
async def probing(
    tokens: TokenFactory, monkeypatch: Any, *, lifetime_s: int = 0, drain_s: float = 0.2, issuers: tuple[str, ...] = ()
) -> AsyncIterator[Probe]:
    """Serve the probe; `lifetime_s` shortens what the contract promises of its streams."""
    gates: list[Gate] = []

    def shortened(services: Any) -> dict[str, MethodInfo]:
        found = declared(services)
        return {
            path: dataclasses.replace(info, max_lifetime_s=lifetime_s) if lifetime_s and info.max_lifetime_s else info
            for path, info in found.items()
        }

    def kept(*arguments: Any) -> Gate:
        gates.append(Gate(*arguments))
        return gates[0]

    monkeypatch.setattr("penguin_chassis.server.declared", shortened)
    monkeypatch.setattr("penguin_chassis.server.Gate", kept)
    emails, contents = ProbeEmails(), ProbeContents()  # type: ignore[abstract]
    registrations = [
        Registration("penguin.oltp.v1.EmailService", email_grpc.add_EmailServiceServicer_to_server, emails),
        Registration("penguin.content.v1.ContentService", content_grpc.add_ContentServiceServicer_to_server, contents),
    ]
    settings = ServerSettings(TIER, "127.0.0.1:0", tokens.jwks_path, issuers, drain_s=drain_s)
    async with contextlib.AsyncExitStack() as stack:
        channel = await stack.enter_async_context(contextlib.AsyncExitStack())
        serving = await stack.enter_async_context(contextlib.AsyncExitStack())
        running = await serving.enter_async_context(serve(settings, registrations))
        opened = await channel.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{running.port}"))
        yield Probe(running, emails, contents, TierClient(TIER, opened, tokens), gates[0], serving.aclose)
