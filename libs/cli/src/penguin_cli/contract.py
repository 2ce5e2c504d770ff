"""The contracts as they can be asked at run time: every method of every tier with its scope, request and stub. It calls
nothing."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from penguin.common.v1 import options_pb2

TIERS = ("oltp", "content", "olap", "queue", "notifications")


@dataclass(frozen=True)
class Method:
    """One method of one service at one tier."""

    tier: str
    service: str
    name: str
    scope: str
    platform: bool
    client_streaming: bool
    server_streaming: bool
    request: Descriptor
    stub: type[Any]

    @property
    def path(self) -> str:
        """As it stands in a token and on the wire."""
        return f"/{self.service}/{self.name}"

    @property
    def reads(self) -> bool:
        """Whether it changes nothing: what asks for a read scope, or for payloads'."""
        return self.scope.endswith((".read", ".payloads"))

    def new_request(self) -> Message:
        """An empty request of it."""
        return GetMessageClass(self.request)()


@cache
def methods(tier: str) -> tuple[Method, ...]:
    """Every method the tier serves, TierService included, in the order of their paths."""
    found = [*_of_package(f"penguin.{tier}.v1", tier), *_of_package("penguin.tier.v1", tier)]
    return tuple(sorted(found, key=lambda method: method.path))


def tenant_scopes(tier: str) -> list[str]:
    """The scopes that a tenant's token may need at the tier."""
    return sorted({method.scope for method in methods(tier) if not method.platform})


def find(tier: str, path: str) -> Method | None:
    """The method of that path, with or without its leading slash."""
    return next((method for method in methods(tier) if method.path == f"/{path.lstrip('/')}"), None)


def _of_package(package: str, tier: str) -> list[Method]:
    found: list[Method] = []
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if not module.name.endswith("_pb2"):
            continue
        services = importlib.import_module(f"{package}.{module.name}").DESCRIPTOR.services_by_name
        for name, service in services.items():
            stub = getattr(importlib.import_module(f"{package}.{module.name}_grpc"), f"{name}Stub")
            for method in service.methods:
                rule = method.GetOptions().Extensions[options_pb2.authorization]
                found.append(
                    Method(
                        tier, service.full_name, method.name, rule.scope, rule.platform, method.client_streaming,
                        method.server_streaming, method.input_type, stub,
                    )
                )  # fmt: skip
    return found
