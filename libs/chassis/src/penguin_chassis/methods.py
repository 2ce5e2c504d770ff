"""What the contract says of each method: who may call it, its request type, its shape, its lifetime.

A server that serves a method without an authorisation does not start: deny by default, found before the first call.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor

from penguin.common.v1 import options_pb2

# Served to anyone who reaches the port: they hold no data.
EXEMPT_SERVICES = frozenset(
    {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection"}
)


class ContractError(Exception):
    """A method of the contract lacks what every method must declare."""


@dataclass(frozen=True)
class MethodInfo:
    """One method as declared."""

    path: str
    scope: str
    platform: bool
    client_streaming: bool
    server_streaming: bool
    # The most seconds a stream may last; 0 for unary methods.
    max_lifetime_s: int
    # Whether the request (or its first message's `start`) names a tenant.
    has_tenant: bool
    # Whether anyone may call it, without a token.
    open: bool = False
    # Whether it changes what is the tenant's. To record what came of an email that was handed over is none of that, nor what a
    # closed tenant's other tiers still owe (`after_close`).
    changes: bool = False
    # Whether a tenant may call it while erasures are still to be replayed into a restored database.
    while_restoring: bool = False
    # Whether the platform may not call it then either.
    not_while_restoring: bool = False
    # Whether its request can name a saga's step.
    saga_step: bool = False


def _info(service: str, method: MethodDescriptor) -> MethodInfo:
    extensions = method.GetOptions().Extensions
    authorization = extensions[options_pb2.authorization]
    path = f"/{service}/{method.name}"
    if not authorization.scope and not authorization.open:
        raise ContractError(f"{path} declares no authorization")
    lifetime = extensions[options_pb2.stream].max_lifetime_seconds
    if (method.client_streaming or method.server_streaming) and not lifetime:
        raise ContractError(f"{path} streams and declares no lifetime")
    fields = method.input_type.fields_by_name
    start = fields.get("start")
    opening = None if start is None else start.message_type
    named = "tenant_id" in fields or (opening is not None and "tenant_id" in opening.fields_by_name)
    if authorization.open and (authorization.scope or authorization.platform or named):
        raise ContractError(f"{path} is open, and names a scope or a tenant")
    return MethodInfo(
        path, authorization.scope, authorization.platform, method.client_streaming, method.server_streaming,
        lifetime, named, authorization.open, authorization.scope.endswith(".write") and not authorization.after_close,
        authorization.while_restoring, authorization.not_while_restoring, "saga_step" in fields,
    )  # fmt: skip


def declared(services: Iterable[str]) -> dict[str, MethodInfo]:
    """Every method of these services by its path; raises ContractError."""
    pool = descriptor_pool.Default()
    found: dict[str, MethodInfo] = {}
    for name in services:
        if name in EXEMPT_SERVICES:
            continue
        for method in pool.FindServiceByName(name).methods:
            info = _info(name, method)
            found[info.path] = info
    return found
