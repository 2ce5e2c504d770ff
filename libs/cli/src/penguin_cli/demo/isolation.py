"""Whether one tenant sees anything of another: every reading method of every tier is called with the second tenant's token,
once naming the first tenant, and once naming its own with every id of the first. Methods come from the contracts, so a new
one is tried without being listed here."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import grpc
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict

from penguin_cli import contract
from penguin_cli.contract import Method
from penguin_devstack.issuer import Issuer
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import TierError, tier_error
from penguin_orchestrator.etl import SOURCE
from penguin_orchestrator.platform import Penguin

_TIMEOUT_S = 5.0
# A watch that shows nothing ends by this (seconds).
_WATCH_S = 0.3
_PARALLEL = 8
# The requester's own words come back in these, how fresh the answer is, and that it is whole: they tell nothing of anybody.
_ECHO = frozenset({"missing_ids", "missing_keys", "next_page_token", "next_cursor", "freshness", "computed_at",
                   "data_through", "day", "resume_token", "deferred_keys", "deferred_ids", "complete"})  # fmt: skip
# What sums up a tenant without naming anything: the second tenant has sent nothing, so all of it is nothing.
_SUMS = frozenset({"CountDay", "GetBillingReport", "ListCampaignTotals"})
# Fields by which a list's items are asked for, beyond `<message>_id`.
_ALSO: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "Email": {"id": ("email_ids",), "recipient": ("recipient", "address")},
    "InboxMessage": {"fingerprint": ("fingerprints",), "thread_id": ("thread_id",), "mailbox": ("mailbox",)},
    "ContentMetadata": {"storage_key": ("storage_key", "storage_keys")},
    "SequenceStep": {"id": ("step_id",)},
    "Job": {"id": ("job_ids",)},
    "Schedule": {"name": ("name",)},
}
# Ids are words, or numbers.
_KINDS = {FieldDescriptor.TYPE_STRING: str, FieldDescriptor.TYPE_INT64: int}
# Of these fields' values, no answer to another tenant may hold any.
_SECRET = frozenset({"id", "storage_key", "content_storage_key", "message_id", "thread_id", "tenant_id"})


@dataclass
class Belongings:
    """What a tenant has, by the request field that asks for it, and the marks that give it away."""

    tenant_id: UUID
    values: dict[str, str | int] = field(default_factory=dict)
    marks: set[str] = field(default_factory=set)


async def problems(penguin: Penguin, issuer: Issuer, owner: UUID, stranger: UUID) -> list[str]:
    """What the stranger was shown of the owner, and what could not be asked for."""
    belongings = await _belongings(penguin, owner)
    places = asyncio.Semaphore(_PARALLEL)

    async def attempt(method: Method) -> list[str]:
        async with places:
            token = issuer.mint(method.tier, stranger, actor="demo", scopes=contract.tenant_scopes(method.tier))
            tier = penguin.tiers[method.tier]
            return [*await _as_the_owner(tier, method, token, belongings),
                    *await _as_itself(tier, method, token, belongings, stranger)]  # fmt: skip

    found = await asyncio.gather(*(attempt(method) for method in reading_methods()))
    return [problem for each in found for problem in each]


def reading_methods() -> list[Method]:
    """Every method that reads a tenant's data."""
    return [
        method
        for tier in contract.TIERS
        for method in contract.methods(tier)
        if method.reads and not method.platform and "tenant_id" in method.request.fields_by_name
    ]


async def _belongings(penguin: Penguin, owner: UUID) -> Belongings:
    """One of everything the owner can list."""
    belongings = Belongings(owner, marks={str(owner)})
    for method in reading_methods():
        if not method.name.startswith("List") or method.server_streaming:
            continue
        tier = penguin.tiers[method.tier]
        request = filled(method, Belongings(owner))
        try:
            reply = await tier.call(getattr(tier.stub(method.stub), method.name), request)
        except TierError as error:
            if error.code is not grpc.StatusCode.INVALID_ARGUMENT:
                raise
            continue  # it lists what belongs to something else, which must be named
        for descriptor, value in reply.ListFields():
            if descriptor.message_type is not None and descriptor.is_repeated and len(value):
                _take(belongings, value)
    return belongings


def _take(belongings: Belongings, items: Any) -> None:
    name = items[0].DESCRIPTOR.name
    own: Mapping[str, tuple[str, ...]] = {"id": (re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower() + "_id",)}
    for source in (own, _ALSO.get(name, {})):
        for attribute, targets in source.items():
            if attribute in items[0].DESCRIPTOR.fields_by_name:
                belongings.values.update(dict.fromkeys(targets, getattr(items[0], attribute)))
    for item in items:
        belongings.marks.update(
            value for attribute in _SECRET if isinstance(value := getattr(item, attribute, None), str) and value
        )


def filled(method: Method, belongings: Belongings) -> Any:
    """A request of the method that names everything it can of what belongs to the tenant."""
    request = method.new_request()
    today = datetime.now(UTC).date().isoformat()
    known: dict[str, str | int] = {
        **belongings.values,
        "tenant_id": str(belongings.tenant_id),
        "day": today,
        "source": SOURCE,
        # A person, by a hash: nobody's.
        "subject": "0" * 64,
    }
    for name, descriptor in method.request.fields_by_name.items():
        if name == "span":
            request.span.first_day = request.span.last_day = today  # type: ignore[attr-defined]
        elif name not in known or _KINDS.get(descriptor.type) is not type(known[name]):
            continue
        elif descriptor.is_repeated:
            getattr(request, name).append(known[name])
        else:
            setattr(request, name, known[name])
    return request


async def _as_the_owner(tier: Tier, method: Method, token: str, belongings: Belongings) -> list[str]:
    """With the stranger's token, naming the owner: must be refused as such."""
    answer = await _call(tier, method, filled(method, belongings), token)
    if isinstance(answer, TierError) and answer.code is grpc.StatusCode.PERMISSION_DENIED:
        return []
    shown = f"{answer.code.name} {answer.reason}" if isinstance(answer, TierError) else "an answer"
    return [f"{method.path} naming the other tenant: {shown} instead of PERMISSION_DENIED"]


async def _as_itself(tier: Tier, method: Method, token: str, belongings: Belongings, stranger: UUID) -> list[str]:
    """With the stranger's token and name, and the owner's ids: must be NOT_FOUND, or hold nothing of the owner's."""
    missing = _unasked(method, belongings.values)
    if missing:
        return [f"{method.path} could not be tried: the first tenant has no {missing}"]
    request = filled(method, Belongings(stranger, belongings.values))
    answer = await _call(tier, method, request, token)
    if isinstance(answer, TierError):
        if answer.code is grpc.StatusCode.NOT_FOUND:
            return []
        return [f"{method.path} with the other tenant's ids: {answer.code.name} {answer.reason} instead of NOT_FOUND"]
    narrow = method.name in _SUMS or any(
        name in belongings.values for name in method.request.fields_by_name if name != "tenant_id"
    )
    return [f"{method.path} {problem}" for each in answer for problem in shown_of(each, belongings.marks, narrow)]


def _unasked(method: Method, values: Mapping[str, str | int]) -> str:
    """The id that a Get cannot do without and that nobody has."""
    if method.name.startswith("List"):
        return ""
    wanted = [name for name in method.request.fields_by_name if name.endswith(("_id", "_ids", "_key", "_keys"))]
    return next((name for name in wanted if name != "tenant_id" and name not in values), "")


def shown_of(reply: Any, marks: set[str], narrow: bool) -> list[str]:
    """What an answer gives away: a mark of the owner's, or, where its ids were asked for, anything at all."""
    content = _substance(MessageToDict(reply, preserving_proto_field_name=True))
    words = set(_strings(content))
    if seen := sorted(words & marks):
        return [f"shows {seen[0]} of the other tenant"]
    return [f"answers {str(content)[:100]} where nothing should be"] if narrow and content else []


def _substance(value: Any) -> Any:
    """A reply without echoes, zeros and emptiness."""
    if isinstance(value, dict):
        kept = {name: _substance(each) for name, each in value.items() if name not in _ECHO}
        return {name: each for name, each in kept.items() if each not in (None, "", 0, "0", [], {}, False)}
    if isinstance(value, list):
        return [each for each in map(_substance, value) if each not in ("", [], {})]
    return value


def _strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for each in value.values() for text in _strings(each)]
    if isinstance(value, list):
        return [text for each in value for text in _strings(each)]
    return [value] if isinstance(value, str) else []


async def _call(tier: Tier, method: Method, request: Any, token: str) -> list[Any] | TierError:
    """The replies of one call with that very token."""
    bound = getattr(tier.stub(method.stub), method.name)
    metadata = (("authorization", f"Bearer {token}"),)
    replies: list[Any] = []
    try:
        if not method.server_streaming:
            return [await bound(request, metadata=metadata, timeout=_TIMEOUT_S)]
        watch = method.name.startswith("Watch")
        async for reply in bound(request, metadata=metadata, timeout=_WATCH_S if watch else _TIMEOUT_S):
            replies.append(reply)  # noqa: PERF401 - what came before an error is kept
    except grpc.aio.AioRpcError as error:
        if method.name.startswith("Watch") and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return replies
        return tier_error(method.tier, error)
    return replies
