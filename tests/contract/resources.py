"""The standard methods of a resource (create, get, list, update, delete) as cases, and what etags, update masks and
compensations owe.
It knows no resource: each module hands in its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ClassVar
from uuid import uuid4

from tests.contract.cases import Case, Listing, Mutation, saga_step
from tests.contract.harness import ServiceContract
from tests.contract.wire import Change, World, changed, method_at, right_token, snake

from penguin.common.v1 import mutation_pb2


@dataclass(frozen=True)
class Resource:
    """A resource of OLTP: its messages, a right new one, which field of that to break, and what an update changes.

    `differ`: what makes a new one another, where that is not what an update changes. `foreign`: why another tenant cannot create it from the same request, where it refers to rows of this one.
    """

    pb: Any
    name: str
    plural: str
    new: Callable[[World], Awaitable[Any]]
    bad: tuple[str, Change]
    update: dict[str, Any]
    differ: Change | None = None
    foreign: str = ""
    refilter: Change | None = None

    @property
    def service(self) -> str:
        """Its service's full name."""
        return f"penguin.oltp.v1.{self.name}Service"

    @property
    def field(self) -> str:
        """What the messages call it."""
        return snake(self.name)

    @property
    def rows(self) -> str:
        """What a page calls them."""
        return snake(self.plural)

    @property
    def id_field(self) -> str:
        """What a request calls its id."""
        return f"{self.field}_id"

    def message(self, kind: str, world: World, **fields: Any) -> Any:
        """A request of the tenant's."""
        return getattr(self.pb, kind)(tenant_id=str(world.tenant), **fields)

    async def create_request(self, world: World) -> Any:
        """A right request to create one."""
        return self.message(f"Create{self.name}Request", world, **{self.field: await self.new(world)})

    async def created(self, world: World) -> Any:
        """One that stands."""
        reply = await world.call(f"{self.service}/Create{self.name}", await self.create_request(world))
        return getattr(reply, self.field)

    async def get_request(self, world: World) -> Any:
        """A right request to read one."""
        return self.message(f"Get{self.name}Request", world, **{self.id_field: (await self.created(world)).id})

    async def list_request(self, world: World) -> Any:
        """A right request to list five."""
        for _ in range(5):
            await self.created(world)
        return self.message(f"List{self.plural}Request", world)

    async def update_request(self, world: World) -> Any:
        """A right request to change one."""
        request = self.message(f"Update{self.name}Request", world, request_id=str(uuid4()))
        setattr(request, self.id_field, (await self.created(world)).id)
        for name, value in self.update.items():
            setattr(getattr(request, self.field), name, value)
        request.update_mask.paths.extend(self.update)
        return request

    async def delete_request(self, world: World) -> Any:
        """A right request to remove one."""
        identifier = {self.id_field: (await self.created(world)).id}
        return self.message(f"Delete{self.name}Request", world, request_id=str(uuid4()), **identifier)

    async def listed(self, world: World, request: Any) -> list[Any]:
        """All that the request's tenant has."""
        asked = getattr(self.pb, f"List{self.plural}Request")(tenant_id=request.tenant_id)
        return list(getattr(await world.call(f"{self.service}/List{self.plural}", asked), self.rows))

    def vary(self, item: Any) -> None:
        """Make a new one another."""
        if self.differ is not None:
            self.differ(item)
            return
        for name, value in self.update.items():
            setattr(item, name, value)

    def unknown(self, request: Any) -> None:
        """Ask for one that nobody made."""
        setattr(request, self.id_field, str(uuid4()))


def unknown_tenant(request: Any) -> None:
    """Ask in the name of a tenant that nobody made."""
    request.tenant_id = str(uuid4())


def standard(resource: Resource) -> tuple[Case, ...]:
    """The cases of a resource's standard methods; without an update where it has none."""
    updates = (_update(resource),) if resource.update else ()
    return (_create(resource), _get(resource), _list(resource), *updates, _delete(resource))


def _create(resource: Resource) -> Case:
    field, breaking = resource.bad

    def check(request: Any, reply: Any) -> None:
        made, asked = getattr(reply, resource.field), getattr(request, resource.field)
        assert (made.id, made.tenant_id) == (asked.id, request.tenant_id)
        assert made.etag
        assert made.HasField("created_at")

    def own(reply: Any) -> None:
        assert getattr(reply, resource.field).etag

    return Case(
        f"Create{resource.name}",
        resource.create_request,
        check,
        (f"{resource.field}.{field}", lambda r: breaking(getattr(r, resource.field))),
        f"another's row is {resource.foreign}" if resource.foreign else unknown_tenant,
        stranger=resource.foreign or own,
        mutation=Mutation(resource.listed, vary=lambda r: resource.vary(getattr(r, resource.field))),
    )


def _get(resource: Resource) -> Case:
    def check(request: Any, reply: Any) -> None:
        found = getattr(reply, resource.field)
        assert (found.id, found.tenant_id) == (getattr(request, resource.id_field), request.tenant_id)

    return Case(
        f"Get{resource.name}",
        resource.get_request,
        check,
        (resource.id_field, lambda r: setattr(r, resource.id_field, "x")),
        resource.unknown,
    )


def _list(resource: Resource) -> Case:
    def check(request: Any, reply: Any) -> None:
        rows = getattr(reply, resource.rows)
        assert len(rows) == 5
        assert {row.tenant_id for row in rows} == {request.tenant_id}

    def none(reply: Any) -> None:
        assert not getattr(reply, resource.rows)

    return Case(
        f"List{resource.plural}",
        resource.list_request,
        check,
        ("page_size", lambda r: setattr(r, "page_size", 1001)),
        "a list of nothing is empty",
        stranger=none,
        listing=Listing(resource.rows, 5, resource.refilter),
    )


def _update(resource: Resource) -> Case:
    def check(request: Any, reply: Any) -> None:
        updated = getattr(reply, resource.field)
        assert updated.id == getattr(request, resource.id_field)
        assert {name: getattr(updated, name) for name in resource.update} == resource.update

    return Case(
        f"Update{resource.name}",
        resource.update_request,
        check,
        ("update_mask", lambda r: r.ClearField("update_mask")),
        resource.unknown,
        mutation=Mutation(resource.listed, vary=resource.unknown),
    )


def _delete(resource: Resource) -> Case:
    def check(request: Any, reply: Any) -> None:
        assert reply == getattr(resource.pb, f"Delete{resource.name}Response")()

    return Case(
        f"Delete{resource.name}",
        resource.delete_request,
        check,
        ("request_id", lambda r: setattr(r, "request_id", "x")),
        resource.unknown,
        mutation=Mutation(resource.listed, vary=resource.unknown),
    )


class ResourceContract(ServiceContract):
    """A service of a resource: also what its etags and update masks owe."""

    resource: ClassVar[Resource]
    tiers = ("oltp",)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if not cls.resource.update:
            cls.test_a_mask_names_fields_that_can_be_changed = None  # type: ignore[method-assign, assignment]

    async def test_an_etag_guards_what_was_read(self, world: World) -> None:
        writes = {"Update": self.resource.update_request, "Delete": self.resource.delete_request}
        if not self.resource.update:
            del writes["Update"]
        for verb, build in writes.items():
            path = f"{self.resource.service}/{verb}{self.resource.name}"
            request = await build(world)
            before = await self.resource.listed(world, request)
            stale = changed(request, lambda r: setattr(r, "etag", "stale"))
            refusal = await world.refusal(path, stale, right_token(world, method_at(path), stale))
            assert (refusal.code, refusal.reason) == ("ABORTED", "ETAG_MISMATCH")
            assert await self.resource.listed(world, request) == before
            etags = {row.id: row.etag for row in before}
            request.etag = etags[getattr(request, self.resource.id_field)]
            await world.call(path, request)

    async def test_a_compensation_that_comes_first_bars_its_action(self, world: World) -> None:
        resource, step = self.resource, saga_step()
        create = await resource.create_request(world)
        create.saga_step.CopyFrom(step)
        undone = {resource.id_field: getattr(create, resource.field).id}
        delete = resource.message(f"Delete{resource.name}Request", world, request_id=str(uuid4()), **undone)
        delete.saga_step.CopyFrom(step)
        delete.saga_step.operation = mutation_pb2.STEP_OPERATION_COMPENSATION
        for _ in range(2):
            await world.call(f"{resource.service}/Delete{resource.name}", delete)
        path = f"{resource.service}/Create{resource.name}"
        refusal = await world.refusal(path, create, right_token(world, method_at(path), create))
        assert (refusal.code, refusal.reason) == ("ABORTED", "SAGA_COMPENSATED")
        assert await resource.listed(world, create) == []

    async def test_a_refusal_that_stands_is_final_though_it_could_be_done_by_now(self, world: World) -> None:
        resource = self.resource
        create = await resource.create_request(world)
        named = {resource.id_field: getattr(create, resource.field).id}
        path = f"{resource.service}/Delete{resource.name}"
        asked: dict[bool, Any] = {}
        for stands in (True, False):
            asked[stands] = resource.message(f"Delete{resource.name}Request", world, request_id=str(uuid4()), **named)
            asked[stands].saga_step.CopyFrom(saga_step())
            asked[stands].saga_step.refusal_stands = stands
            refusal = await world.refusal(path, asked[stands], right_token(world, method_at(path), asked[stands]))
            assert (refusal.code, refusal.reason) == ("NOT_FOUND", "NOT_FOUND")
        await world.call(f"{resource.service}/Create{resource.name}", create)
        assert await world.refusal(path, asked[True], right_token(world, method_at(path), asked[True])) == refusal
        # Whoever says nothing of the kind may ask again.
        await world.call(path, asked[False])

    async def test_a_mask_names_fields_that_can_be_changed(self, world: World) -> None:
        path = f"{self.resource.service}/Update{self.resource.name}"
        for paths in ([], ["nothing_of_the_kind"], [*self.resource.update, "id"]):
            request = await self.resource.update_request(world)
            del request.update_mask.paths[:]
            request.update_mask.paths.extend(paths)
            refusal = await world.refusal(path, request, right_token(world, method_at(path), request))
            assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "INVALID_UPDATE_MASK")
            assert refusal.fields == ("update_mask",)
