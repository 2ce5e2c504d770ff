"""Calls of any method by its descriptor, with any token, and refusals as every refusal must be. It knows no service."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from penguin.common.v1 import errors_pb2, options_pb2
from penguin_chassis.pool import Database
from penguin_testkit.calling import TierClient

DEADLINE_S = 20.0
Change = Callable[[Any], None]
# Whether a stream that never ends has given all that was asked for: (request, message).
Enough = Callable[[Any, Any], bool]


@dataclass(frozen=True)
class Refusal:
    """What a refused call told its client."""

    code: str
    reason: str
    fields: tuple[str, ...]
    metadata: dict[str, str]


@dataclass(frozen=True)
class World:
    """A tier as a case sees it: its client, a tenant of this test alone, and another one.

    `database` is for what no method can bring about or show, and for nothing else.
    """

    tier: TierClient
    tenant: UUID
    stranger: UUID
    database: Callable[[], Awaitable[Database]]

    async def call(self, path: str, request: Any, enough: Enough | None = None) -> Any:
        """Call `package.v1.Service/Method` with a right token."""
        token = right_token(self, method_at(path), request)
        return await perform(self.tier, method_at(path), request, token, enough)

    async def refusal(self, path: str, request: Any, token: str | None) -> Refusal:
        """How that call is refused; fails where it is not."""
        try:
            reply = await perform(self.tier, method_at(path), request, token)
        except grpc.aio.AioRpcError as error:
            return refusal_of(error, self.tier.tier)
        raise AssertionError(f"{path} was answered: {reply}")


def method_at(path: str) -> MethodDescriptor:
    """The descriptor of `package.v1.Service/Method`."""
    service, name = path.split("/")
    return descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]


def path_of(method: MethodDescriptor) -> str:
    """What tokens and the wire call it."""
    return f"/{method.containing_service.full_name}/{method.name}"


def rule_of(method: MethodDescriptor) -> Any:
    """Who may call it."""
    return method.GetOptions().Extensions[options_pb2.authorization]


def head_of(request: Any) -> Any:
    """What carries tenant and request ids: the request, or the first message of a client stream."""
    if not isinstance(request, list):
        return request
    return request[0].start if "start" in request[0].DESCRIPTOR.fields_by_name else request[0]


def names_tenant(method: MethodDescriptor) -> bool:
    """Whether the request names a tenant that must be the token's."""
    return "tenant_id" in head_type(method).fields_by_name and not rule_of(method).platform


def head_type(method: MethodDescriptor) -> Descriptor:
    """The type of what carries tenant and request ids."""
    start = method.input_type.fields_by_name.get("start")
    return start.message_type if start is not None and start.message_type is not None else method.input_type


def right_token(world: World, method: MethodDescriptor, request: Any) -> str:
    """A token that may: the request's tenant, or a platform token that names the method."""
    tenant = getattr(head_of(request), "tenant_id", "") or world.tenant
    ((_, bearer),) = world.tier.authorization(path_of(method), tenant)
    return bearer.removeprefix("Bearer ")


async def _conversation(call: Any, requests: list[Any]) -> AsyncIterator[Any]:
    """Replies of a stream both of whose sides talk. Its first reply says that it stands: what is said before may fail on
    its own, and hide why the call was refused."""
    await call.initial_metadata()
    if not call.done():
        await call.write(requests[0])
    standing = False
    while (reply := await call.read()) is not grpc.aio.EOF:
        yield reply
        if not standing:
            standing = True
            for request in requests[1:]:
                await call.write(request)
    if (code := await call.code()) is not grpc.StatusCode.OK:
        raise grpc.aio.AioRpcError(
            code, await call.initial_metadata(), await call.trailing_metadata(), await call.details()
        )


async def perform(
    tier: TierClient, method: MethodDescriptor, request: Any, token: str | None, enough: Enough | None = None
) -> Any:
    """Call a method of any shape. A stream's reply is the list of its messages, up to the one that is `enough`."""
    channel: Any = tier.channel
    multi = {
        (False, False): channel.unary_unary,
        (True, False): channel.stream_unary,
        (False, True): channel.unary_stream,
        (True, True): channel.stream_stream,
    }[method.client_streaming, method.server_streaming]
    reply_type = message_factory.GetMessageClass(method.output_type)
    call = multi(path_of(method), request_serializer=_serialised, response_deserializer=reply_type.FromString)
    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    if not method.server_streaming:
        sent = iter(request) if method.client_streaming else request
        return await call(sent, metadata=metadata, timeout=DEADLINE_S)
    if method.client_streaming:
        stream = call(metadata=metadata, timeout=DEADLINE_S)
        messages = _conversation(stream, request)
    else:
        stream = messages = call(request, metadata=metadata, timeout=DEADLINE_S)
    taken: list[Any] = []
    try:
        async for message in messages:
            taken.append(message)
            if enough is not None and enough(request, message):
                return taken
    finally:
        stream.cancel()
    assert enough is None, f"{path_of(method)} ended before it had given enough: {taken}"
    return taken


def _serialised(message: Any) -> Any:
    return message.SerializeToString()


def refusal_of(error: grpc.aio.AioRpcError, tier: str) -> Refusal:
    """An error as every error must be: one ErrorInfo, of this tier, with a reason of the contract."""
    status = rpc_status.from_call(error)
    assert status is not None, f"{error.code().name} without details: {error.details()}"
    infos, fields = [], []
    for detail in status.details:
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            infos.append(info)
        elif detail.Unpack(bad):
            fields += [violation.field for violation in bad.field_violations]
    assert len(infos) == 1, f"{len(infos)} ErrorInfo in {status}"
    assert infos[0].domain == f"{tier}.penguinmails"
    assert f"ERROR_REASON_{infos[0].reason}" in errors_pb2.ErrorReason.keys(), infos[0].reason  # noqa: SIM118
    return Refusal(error.code().name, infos[0].reason, tuple(fields), dict(infos[0].metadata))


def snake(name: str) -> str:
    """EmailAccount as fields have it: email_account."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def copied(request: Any) -> Any:
    """The same request, to be changed."""
    if isinstance(request, list):
        return [copied(message) for message in request]
    copy = type(request)()
    copy.CopyFrom(request)
    return copy


def changed(request: Any, change: Change) -> Any:
    """The request after a change."""
    copy = copied(request)
    change(copy)
    return copy


def reminted(message: Any) -> None:
    """Mint anew what a caller mints anew at each try: the ids and keys that the contract marks so."""
    descriptor: Descriptor = message.DESCRIPTOR
    for field in descriptor.fields:
        if field.GetOptions().Extensions[options_pb2.minted]:
            if field.type != FieldDescriptor.TYPE_STRING:
                continue
            if field.is_repeated:
                getattr(message, field.name)[:] = [str(uuid4()) for _ in getattr(message, field.name)]
            else:
                setattr(message, field.name, str(uuid4()))
        elif field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for each in getattr(message, field.name) if field.is_repeated else _present(message, field.name):
                reminted(each)


def rekeyed(message: Any) -> None:
    """Another try of another caller: the request, and the one resource in it, with other minted ids and request_ids."""
    reminted(message)
    nested = [f.name for f in message.DESCRIPTOR.fields if f.message_type is not None and not f.is_repeated]
    for each in [message, *(getattr(message, name) for name in nested if message.HasField(name))]:
        if "request_id" in each.DESCRIPTOR.fields_by_name:
            each.request_id = str(uuid4())


def _present(message: Any, name: str) -> list[Any]:
    return [getattr(message, name)] if message.HasField(name) else []


def for_stranger(world: World, request: Any) -> Any:
    """The same request as another tenant would make it."""
    copy = copied(request)
    head_of(copy).tenant_id = str(world.stranger)
    return copy


def grant_of(world: World, method: MethodDescriptor, *, platform: bool | None = None) -> dict[str, Any]:
    """What a token is asked for to be right for the method."""
    rule = rule_of(method)
    if rule.platform if platform is None else platform:
        return {"scopes": [rule.scope], "platform": True, "methods": [path_of(method)]}
    return {"scopes": [rule.scope], "tenant": world.tenant}
