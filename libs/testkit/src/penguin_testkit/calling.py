"""Calls a tier under test as its clients do, and reads errors as they arrive."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import grpc
from google.protobuf.descriptor_pool import Default
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from penguin.common.v1 import options_pb2
from penguin_testkit.tokens import TokenFactory

DEADLINE_S = 10.0


@dataclass
class Answer:
    """What a refused call told its client."""

    code: grpc.StatusCode
    reason: str
    message: str
    fields: list[str]
    metadata: dict[str, str]
    retry_after_s: float | None


def answer_of(error: grpc.aio.AioRpcError) -> Answer:
    """An error with its details unpacked."""
    status = rpc_status.from_call(error)
    reason, fields, metadata, retry = "", [], {}, None
    for detail in status.details if status else ():
        info, bad, delay = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(bad):
            fields = [v.field for v in bad.field_violations]
        elif detail.Unpack(delay):
            retry = delay.retry_delay.ToTimedelta().total_seconds()
    return Answer(error.code(), reason, error.details() or "", fields, metadata, retry)


class Refused(Exception):
    """The call was refused; `answer` says how."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"{answer.code.name} {answer.reason}: {answer.message}")
        self.answer = answer


@dataclass
class TierClient:
    """A tier in a test: a channel to it, and a token for whatever is called.

    By default the token is right: the request's tenant, and the scope that the contract asks of the method.
    """

    tier: str
    channel: grpc.aio.Channel
    tokens: TokenFactory
    _cache: dict[tuple[Any, ...], str] = field(default_factory=dict)

    def authorization(
        self, path: str, tenant: UUID | str | None, *, scopes: Iterable[str] | None = None
    ) -> tuple[tuple[str, str], ...]:
        """Metadata with a right token for the method."""
        service, name = path.lstrip("/").split("/")
        declared = Default().FindServiceByName(service).methods_by_name[name].GetOptions()
        rule = declared.Extensions[options_pb2.authorization]
        wanted = tuple(scopes) if scopes is not None else (rule.scope,)
        key = (path, str(tenant), wanted)
        if key not in self._cache:
            self._cache[key] = (
                self.tokens.token(self.tier, scopes=wanted, platform=True, methods=[path])
                if rule.platform
                else self.tokens.token(self.tier, tenant=UUID(str(tenant)) if tenant else None, scopes=wanted)
            )
        return (("authorization", f"Bearer {self._cache[key]}"),)

    async def call(
        self,
        method: Any,
        request: Any,
        *,
        tenant: UUID | str | None = None,
        token: str | None = None,
        anonymous: bool = False,
        timeout: float = DEADLINE_S,
    ) -> Any:
        """Call a unary method of a stub (`stub.GetLead`); raises Refused."""
        path = method._method.decode()  # noqa: SLF001 - a stub's method tells its path nowhere else
        metadata: tuple[tuple[str, str], ...] = ()
        if token is not None:
            metadata = (("authorization", f"Bearer {token}"),)
        elif not anonymous:
            metadata = self.authorization(path, tenant or getattr(request, "tenant_id", None) or None)
        try:
            return await method(request, metadata=metadata, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise Refused(answer_of(error)) from None
