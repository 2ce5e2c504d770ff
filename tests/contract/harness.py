"""How every method of every service is held to the same promises: its case says what a right request is, how to break it
and what must come of it, and the contract below puts it through. It knows no service."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from google.protobuf.descriptor import MethodDescriptor
from tests.contract.cases import Case, Within, equal, reason_of, saga_step
from tests.contract.wire import (
    Refusal,
    World,
    changed,
    copied,
    for_stranger,
    grant_of,
    method_at,
    names_tenant,
    rekeyed,
    reminted,
    right_token,
    rule_of,
)

from penguin.tier.v1 import tier_service_pb2

# Batches answer per item here.
RESULTS = "results"


class ServiceContract:
    """What every method of a service keeps. A module subclasses it with its service, tiers and cases."""

    service: ClassVar[str]
    tiers: ClassVar[tuple[str, ...]]
    cases: ClassVar[tuple[Case, ...]]

    def __init_subclass__(cls) -> None:
        if "service" not in vars(cls):
            return  # a kind of contract, and not yet a service's
        for aspect in APPLIES:
            if not about(cls, aspect):
                setattr(cls, aspect, None)  # about none of its methods: not there, rather than skipped

    def path(self, case: Case) -> str:
        """The case's method in full."""
        return f"{self.service}/{case.method}"

    def descriptor(self, case: Case) -> MethodDescriptor:
        """The case's method as declared."""
        return method_at(self.path(case))

    async def ask(self, case: Case, world: World, request: Any) -> Any:
        """Call the case's method with a right token."""
        return await world.call(self.path(case), request, case.enough)

    async def seen(self, case: Case, world: World, request: Any) -> Any:
        """What there is to see of a mutation; nothing of a read."""
        return None if case.mutation is None else await case.mutation.observe(world, request)

    async def refuse(
        self, case: Case, world: World, request: Any, token: str | None, expected: tuple[str, str]
    ) -> Refusal:
        """The call is refused so, and nothing came of it."""
        before = await self.seen(case, world, request)
        refusal = await world.refusal(self.path(case), request, token)
        assert (refusal.code, refusal.reason) == expected, refusal
        assert await self.seen(case, world, request) == before, "refused, and yet it had an effect"
        return refusal

    async def test_success(self, case: Case, world: World) -> None:
        request = await case.build(world)
        case.check(request, await self.ask(case, world, request))

    async def test_a_bad_field_is_named(self, case: Case, world: World) -> None:
        request = await case.build(world)
        assert not isinstance(case.broken, str)
        field, breaking = case.broken
        bad = changed(request, breaking)
        before = await self.seen(case, world, request)
        refusal = await world.refusal(self.path(case), bad, right_token(world, self.descriptor(case), request))
        assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD"), refusal
        assert field in refusal.fields
        assert await self.seen(case, world, request) == before, "refused, and yet it had an effect"

    async def test_nobody_vouches(self, case: Case, world: World) -> None:
        method, request = self.descriptor(case), await case.build(world)
        now = int(time.time())
        grant: dict[str, Any] = grant_of(world, method)
        other_tier = "content" if world.tier.tier != "content" else "oltp"
        token = world.tier.tokens.token
        for reason, presented in (
            ("TOKEN_MISSING", None),
            ("TOKEN_INVALID", "nonsense"),
            ("TOKEN_EXPIRED", token(world.tier.tier, **grant, iat=now - 300, exp=now - 60)),
            ("TOKEN_INVALID", token(other_tier, **grant)),
        ):
            await self.refuse(case, world, request, presented, ("UNAUTHENTICATED", reason))

    async def test_the_token_does_not_permit(self, case: Case, world: World) -> None:
        method, request = self.descriptor(case), await case.build(world)
        rule, token, tier = rule_of(method), world.tier.tokens.token, world.tier.tier
        tenant, platform = grant_of(world, method, platform=False), grant_of(world, method, platform=True)
        elsewhere = platform | {"methods": [f"/{self.service}/Elsewhere"]}
        denied = [
            ("SCOPE_MISSING", (platform if rule.platform else tenant) | {"scopes": ["other.scope"]}),
            ("PLATFORM_ONLY", elsewhere),
        ]
        if rule.platform:
            denied.append(("PLATFORM_ONLY", tenant))
        for reason, grant in denied:
            await self.refuse(case, world, request, token(tier, **grant), ("PERMISSION_DENIED", reason))

    async def test_another_tenant(self, case: Case, world: World) -> None:
        method, request = self.descriptor(case), await case.build(world)
        foreign = for_stranger(world, request)
        strangers_token = right_token(world, method, foreign)
        denied = ("PERMISSION_DENIED", "TENANT_MISMATCH")
        await self.refuse(case, world, request, strangers_token, denied)
        before = await self.seen(case, world, request)
        if isinstance(case.stranger, str):
            refusal = await world.refusal(self.path(case), foreign, strangers_token)
            assert refusal.reason == case.stranger, refusal
        else:
            case.stranger(await self.ask(case, world, foreign))
        assert await self.seen(case, world, request) == before, "another tenant's call had an effect on this one"
        case.check(request, await self.ask(case, world, request))

    async def test_not_found(self, case: Case, world: World) -> None:
        request = await case.build(world)
        if isinstance(case.absent, Within):
            case.absent.check(await self.ask(case, world, changed(request, case.absent.change)))
            return
        assert callable(case.absent)
        bad = changed(request, case.absent)
        token = right_token(world, self.descriptor(case), bad)
        refusal = await self.refuse(case, world, bad, token, ("NOT_FOUND", "NOT_FOUND"))
        assert set(refusal.metadata) >= {"resource", "id"}

    async def test_a_replay_gives_the_first_answer_and_one_effect(self, case: Case, world: World) -> None:
        assert case.mutation is not None
        request = await case.build(world)
        before = await self.seen(case, world, request)
        first = await self.ask(case, world, request)
        after = await self.seen(case, world, request)
        assert after != before, "nothing to see of the first call"
        same = case.mutation.repeats or equal
        same(first, await self.ask(case, world, request))
        if not isinstance(request, list):
            same(first, await self.ask(case, world, changed(request, reminted)))
        assert await self.seen(case, world, request) == after, "the replay had an effect of its own"

    async def test_another_body_under_the_same_request_id(self, case: Case, world: World) -> None:
        assert case.mutation is not None
        assert case.mutation.vary is not None
        request = await case.build(world)
        first = await self.ask(case, world, request)
        after = await self.seen(case, world, request)
        other = changed(request, case.mutation.vary)
        if case.batch is None:
            token = right_token(world, self.descriptor(case), other)
            await self.refuse(case, world, other, token, ("ALREADY_EXISTS", "REQUEST_ID_REUSED"))
        else:
            items = getattr(other, case.batch.items)
            items.append(items[1])
            results = list(getattr(await self.ask(case, world, other), RESULTS))
            assert [reason_of(result) for result in (results[0], results[-1])] == ["REQUEST_ID_REUSED"] * 2
            assert results[1:-1] == list(first.results)[1:], "the other items of the batch were not replayed"
        assert await self.seen(case, world, request) == after, "refused, and yet it had an effect"

    async def test_a_saga_step_that_comes_too_late_is_refused(self, case: Case, world: World) -> None:
        request = await case.build(world)
        request.saga_step.CopyFrom(saga_step(not_after_s=-60))
        token = right_token(world, self.descriptor(case), request)
        await self.refuse(case, world, request, token, ("FAILED_PRECONDITION", "STEP_EXPIRED"))
        request.saga_step.not_after.FromSeconds(int(time.time()) + 60)
        case.check(request, await self.ask(case, world, request))

    async def test_a_saga_step_is_known_by_its_name(self, case: Case, world: World) -> None:
        assert case.mutation is not None
        request = await case.build(world)
        request.saga_step.CopyFrom(saga_step())
        first = await self.ask(case, world, request)
        after = await self.seen(case, world, request)
        assert await self.ask(case, world, changed(request, rekeyed)) == first
        assert case.mutation.vary is not None
        other = changed(request, case.mutation.vary)
        token = right_token(world, self.descriptor(case), other)
        await self.refuse(case, world, other, token, ("ALREADY_EXISTS", "REQUEST_ID_REUSED"))
        assert await self.seen(case, world, request) == after, "the repeat had an effect of its own"

    async def test_a_closed_tenant_changes_nothing(self, case: Case, world: World) -> None:
        request = await case.build(world)
        token = right_token(world, self.descriptor(case), request)
        named: dict[str, Any] = {"tenant_id": str(world.tenant)}
        close = tier_service_pb2.CloseTenantRequest(**named, request_id=str(uuid4()))
        await world.call("penguin.tier.v1.TierService/CloseTenant", close)
        refusal = await world.refusal(self.path(case), request, token)
        assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "TENANT_CLOSED")
        reopen = tier_service_pb2.ReopenTenantRequest(**named, request_id=str(uuid4()))
        await world.call("penguin.tier.v1.TierService/ReopenTenant", reopen)
        case.check(request, await self.ask(case, world, request))

    async def test_a_refusal_that_stands_is_the_answer_for_good(self, case: Case, world: World) -> None:
        request = await case.build(world)
        request.saga_step.CopyFrom(saga_step())
        request.saga_step.refusal_stands = True
        token = right_token(world, self.descriptor(case), request)
        named: dict[str, Any] = {"tenant_id": str(world.tenant)}
        before = await self.seen(case, world, request)
        close = tier_service_pb2.CloseTenantRequest(**named, request_id=str(uuid4()))
        await world.call("penguin.tier.v1.TierService/CloseTenant", close)
        closed = ("FAILED_PRECONDITION", "TENANT_CLOSED")
        await self.refuse(case, world, request, token, closed)
        reopen = tier_service_pb2.ReopenTenantRequest(**named, request_id=str(uuid4()))
        await world.call("penguin.tier.v1.TierService/ReopenTenant", reopen)
        # A copy that comes by only now is refused for what is true no more.
        await self.refuse(case, world, request, token, closed)
        assert await self.seen(case, world, request) == before, "refused, and yet it had an effect"
        request.saga_step.CopyFrom(saga_step())
        request.saga_step.refusal_stands = True
        case.check(request, await self.ask(case, world, request))
        # What was carried out is refused to a closed tenant, and stays done.
        close.request_id, reopen.request_id = str(uuid4()), str(uuid4())
        await world.call("penguin.tier.v1.TierService/CloseTenant", close)
        await self.refuse(case, world, request, token, closed)
        await world.call("penguin.tier.v1.TierService/ReopenTenant", reopen)
        case.check(request, await self.ask(case, world, request))

    async def test_what_was_acknowledged_ends_after_the_close(self, case: Case, world: World) -> None:
        request = await case.build(world)
        named: dict[str, Any] = {"tenant_id": str(world.tenant)}
        close = tier_service_pb2.CloseTenantRequest(**named, request_id=str(uuid4()))
        await world.call("penguin.tier.v1.TierService/CloseTenant", close)
        case.check(request, await self.ask(case, world, request))

    async def test_one_bad_item_never_sinks_the_rest(self, case: Case, world: World) -> None:
        assert case.batch is not None
        request = await case.build(world)
        case.batch.spoil(getattr(request, case.batch.items))
        results = list(getattr(await self.ask(case, world, request), RESULTS))
        assert len(results) == len(getattr(request, case.batch.items)) >= 3
        assert [reason_of(result) for result in results] == ["", case.batch.reason, *[""] * (len(results) - 2)]
        assert results[1].error.code

    async def test_pages_run_to_the_end(self, case: Case, world: World) -> None:
        assert case.listing is not None
        request = await case.build(world)
        everything = await self.listed(case, world, request, 1000)
        assert len(everything) >= case.listing.count
        size = 2 if len(everything) < 20 else len(everything) // 5
        assert await self.listed(case, world, request, size) == everything
        assert len({row.SerializeToString() for row in everything}) == len(everything)

    async def test_a_page_token_is_bound_to_its_query(self, case: Case, world: World) -> None:
        assert case.listing is not None
        request = await case.build(world)
        request.page_size = 2
        method = self.descriptor(case)
        first = await self.ask(case, world, request)
        assert first.next_page_token
        request.page_token = first.next_page_token
        strange = [changed(request, lambda r: setattr(r, "page_token", "bm8" + r.page_token))]
        if names_tenant(method):
            strange.append(for_stranger(world, request))
        if case.listing.refilter is not None:
            strange.append(changed(request, case.listing.refilter))
        expected = ("INVALID_ARGUMENT", "INVALID_PAGE_TOKEN")
        for other in strange:
            refusal = await self.refuse(case, world, other, right_token(world, method, other), expected)
            assert refusal.fields == ("page_token",)
        for size in (-1, 1001):
            other = changed(request, lambda r, size=size: setattr(r, "page_size", size))  # type: ignore[misc]
            token = right_token(world, method, other)
            refusal = await self.refuse(case, world, other, token, ("INVALID_ARGUMENT", "INVALID_FIELD"))
            assert refusal.fields == ("page_size",)

    async def listed(self, case: Case, world: World, request: Any, size: int) -> list[Any]:
        """Every row, `size` at a time."""
        assert case.listing is not None
        asked, rows = copied(request), []
        asked.page_size, asked.page_token = size, ""
        for _ in range(1000):
            page = await self.ask(case, world, asked)
            found = list(getattr(page, case.listing.rows))
            assert len(found) <= size
            rows += found
            if not page.next_page_token:
                return rows
            asked.page_token = page.next_page_token
        raise AssertionError("the pages do not end")


def carries_saga_step(contract: ServiceContract, case: Case) -> bool:
    """Whether the request may name a saga's step. A stream whose messages do answers them one by one: its own tests see to it."""
    method = contract.descriptor(case)
    return "saga_step" in method.input_type.fields_by_name and not method.client_streaming


def changes(contract: ServiceContract, case: Case) -> bool:
    """Whether the method changes what is a tenant's, by the tenant's own token, and not after its close."""
    rule = rule_of(contract.descriptor(case))
    return rule.scope.endswith(".write") and not rule.platform and not rule.after_close


# Aspect -> the cases it is about. Whoever is left out is left out by the case's own words.
APPLIES: dict[str, Callable[[ServiceContract, Case], bool]] = {
    "test_a_bad_field_is_named": lambda _, case: not isinstance(case.broken, str),
    "test_another_tenant": lambda contract, case: names_tenant(contract.descriptor(case)),
    "test_not_found": lambda _, case: not isinstance(case.absent, str),
    "test_a_replay_gives_the_first_answer_and_one_effect": lambda _, case: case.mutation is not None,
    "test_another_body_under_the_same_request_id": lambda _, case: (
        case.mutation is not None and case.mutation.vary is not None
    ),
    "test_a_saga_step_that_comes_too_late_is_refused": carries_saga_step,
    # A batch's items are known by their own request ids, whatever step the batch is.
    "test_a_saga_step_is_known_by_its_name": lambda contract, case: (
        carries_saga_step(contract, case) and case.batch is None
    ),
    "test_a_closed_tenant_changes_nothing": changes,
    "test_a_refusal_that_stands_is_the_answer_for_good": lambda contract, case: (
        changes(contract, case) and carries_saga_step(contract, case)
    ),
    "test_what_was_acknowledged_ends_after_the_close": lambda contract, case: (
        rule_of(contract.descriptor(case)).after_close
    ),
    "test_one_bad_item_never_sinks_the_rest": lambda _, case: case.batch is not None,
    "test_pages_run_to_the_end": lambda _, case: case.listing is not None,
    "test_a_page_token_is_bound_to_its_query": lambda _, case: case.listing is not None,
}


def about(contract: type[ServiceContract], aspect: str) -> list[Case]:
    """The contract's cases that the aspect is about."""
    applies = APPLIES.get(aspect)
    return [case for case in contract.cases if applies is None or applies(contract(), case)]


def parametrise(metafunc: pytest.Metafunc) -> None:
    """One test per (aspect, tier, case it is about)."""
    contract: Any = metafunc.cls
    if not (isinstance(contract, type) and issubclass(contract, ServiceContract)):
        return
    metafunc.parametrize("tier", contract.tiers, scope="session")
    if "case" in metafunc.fixturenames:
        cases = about(contract, metafunc.function.__name__)
        metafunc.parametrize("case", cases, ids=[case.method for case in cases])
