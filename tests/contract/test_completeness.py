"""Nothing of the contracts goes untested: every service has its module, every method its case, and what the contracts
promise of every method (authorisation, lifetimes, tenants, request ids, pages) stands in every one."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor
from tests.contract import harness
from tests.contract.cases import Case
from tests.contract.harness import ServiceContract, about
from tests.contract.wire import head_type, rule_of, snake

from buf.validate import validate_pb2
from penguin.common.v1 import errors_pb2, options_pb2

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

# Methods that change something and carry no request_id; their cases say what makes a repeat harmless.
UNKEYED = {
    "EmailService.BatchRecordEvents",
    "QueueService.LeaseJobs",
    "QueueService.WorkJobs",
    "QueueService.ExtendLeases",
    "QueueService.CompleteJobs",
    "QueueService.FailJobs",
    "QueueService.SnoozeJobs",
    "QueueService.ReleaseJobs",
    "SagaService.ClaimSagas",
    "TierService.LeaseOutbox",
    "TierService.MarkReplayed",
    "TierService.MarkRestored",
    "TierService.NoteLedger",
    "TierService.SettleOutbox",
}
# Carries a request_id for the log, and is known by the hash of its bytes, which is checked: no body can be another.
# Or a stream, each message of which is answered under its own request_id: its own tests see to another body.
KNOWN_BY_HASH = {"ContentService.UploadBlob", "QueueService.EnqueueStream"}
# Methods for tenants that name none: they tell nothing of any.
OF_NO_TENANT = {"TierService.GetStatus"}
# Lists that run on a cursor of their own instead of pages.
BY_CURSOR = {"LedgerService.ListChangedDays"}
# Reasons that the contract names and no tier gives yet.
UNUSED_REASONS = {
    "UNSPECIFIED",
    "CONTENT_QUARANTINED",
    "LEASE_LOST",
    "DRAINING",
}


def services() -> list[ServiceDescriptor]:
    """Every service of the contracts."""
    found: list[ServiceDescriptor] = []
    for path in (ROOT / "proto" / "penguin").rglob("*.proto"):
        stubs = ".".join(path.relative_to(ROOT / "proto").with_suffix("").parts) + "_pb2"
        found += importlib.import_module(stubs).DESCRIPTOR.services_by_name.values()
    return sorted(found, key=lambda service: service.full_name)


def contracts() -> dict[str, type[ServiceContract]]:
    """The modules' contracts by their services' names; two of one service are a mistake."""
    found: dict[str, type[ServiceContract]] = {}
    for path in sorted(HERE.glob("test_*_service.py")):
        module = importlib.import_module(f"tests.contract.{path.stem}")
        for member in vars(module).values():
            if (
                isinstance(member, type)
                and issubclass(member, ServiceContract)
                and member.__module__ == module.__name__
            ):
                assert member.service not in found, f"{member.service} has two contracts"
                found[member.service] = member
    return found


SERVICES = services()
METHODS: list[MethodDescriptor] = [method for service in SERVICES for method in service.methods]
CONTRACTS = contracts()


def short(method: MethodDescriptor) -> str:
    """LeadService.GetLead."""
    return f"{method.containing_service.name}.{method.name}"


each_method = pytest.mark.parametrize("method", METHODS, ids=short)


def case_of(method: MethodDescriptor) -> Case:
    """The method's case."""
    return next(case for case in CONTRACTS[method.containing_service.full_name].cases if case.method == method.name)


def rules_of(field: FieldDescriptor) -> Any:
    """A field's constraints."""
    return field.GetOptions().Extensions[validate_pb2.field]


def fields_below(message: Descriptor) -> Iterator[FieldDescriptor]:
    """The fields of a message and of the contracts' messages in it, each once."""
    seen = [message]
    for each in seen:
        for field in each.fields:
            yield field
            below = field.message_type
            if below is not None and below.full_name.startswith("penguin.") and below not in seen:
                seen.append(below)


def items_of(message: Descriptor) -> list[FieldDescriptor]:
    """The fields that hold the items of a batch: each item has a request_id of its own."""
    return [
        field
        for field in message.fields
        if field.is_repeated and field.message_type is not None and "request_id" in field.message_type.fields_by_name
    ]


def keyed(method: MethodDescriptor) -> bool:
    """Whether the request, its one resource, its start or its items carry a request_id."""
    message = head_type(method)
    below = [field.message_type for field in message.fields if field.message_type is not None]
    return any("request_id" in each.fields_by_name for each in [message, *below])


def mutates(method: MethodDescriptor) -> bool:
    """By its scope: whatever is not for reading."""
    return not str(rule_of(method).scope).endswith((".read", ".payloads"))


def test_the_contracts_are_all_here() -> None:
    assert len(SERVICES) >= 21
    assert len(METHODS) >= 100


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_every_service_has_its_module_and_every_method_its_case(service: ServiceDescriptor) -> None:
    tier = service.full_name.split(".")[1]
    assert service.full_name in CONTRACTS, f"no contract of {service.full_name}"
    contract = CONTRACTS[service.full_name]
    assert contract.__module__.endswith(f".test_{tier}_{snake(service.name)}")
    assert sorted(case.method for case in contract.cases) == sorted(method.name for method in service.methods)
    assert contract.tiers == (tier,) or tier == "tier"


@pytest.mark.parametrize("service", CONTRACTS, ids=lambda name: name.rsplit(".", 1)[-1])
def test_every_aspect_is_there_for_the_cases_it_is_about(service: str) -> None:
    contract = CONTRACTS[service]
    for aspect in vars(harness.ServiceContract):
        if aspect.startswith("test_"):
            assert (getattr(contract, aspect) is not None) == bool(about(contract, aspect)), aspect


@each_method
def test_what_changes_something_is_declared_so(method: MethodDescriptor) -> None:
    case = case_of(method)
    assert (case.mutation is not None) == mutates(method)
    if not mutates(method):
        assert not keyed(method), "a read with a request_id"
        return
    assert case.mutation is not None
    assert keyed(method) == (short(method) not in UNKEYED), "every mutation carries a request_id"
    by_request_id = keyed(method) and short(method) not in KNOWN_BY_HASH
    assert (case.mutation.vary is not None) == by_request_id, "another body under its request_id is not tried"
    assert bool(case.mutation.unkeyed) != by_request_id


@each_method
def test_batches_answer_per_item(method: MethodDescriptor) -> None:
    items = items_of(method.input_type)
    case = case_of(method)
    if not items:
        return
    assert case.batch is not None
    assert case.batch.items in {field.name for field in items}
    results = method.output_type.fields_by_name["results"].message_type
    assert results is not None
    assert "error" in results.fields_by_name
    assert "outcome" in results.oneofs_by_name


@each_method
def test_lists_page(method: MethodDescriptor) -> None:
    fields = method.input_type.fields_by_name
    pages = {"page_size", "page_token"} <= set(fields)
    assert pages == (method.name.startswith("List") and short(method) not in BY_CURSOR)
    assert (case_of(method).listing is not None) == pages
    if pages:
        assert "next_page_token" in method.output_type.fields_by_name
        assert rules_of(fields["page_size"]).int32.lte == 1000
        assert rules_of(fields["page_token"]).string.max_len


@each_method
def test_who_may_call_is_declared(method: MethodDescriptor) -> None:
    assert rule_of(method).scope
    assert rule_of(method).platform or "tenant_id" in head_type(method).fields_by_name or short(method) in OF_NO_TENANT
    streams = method.client_streaming or method.server_streaming
    assert streams == bool(method.GetOptions().Extensions[options_pb2.stream].max_lifetime_seconds)


@each_method
def test_tenants_and_request_ids_are_uuids(method: MethodDescriptor) -> None:
    for field in fields_below(method.input_type):
        if field.name in {"tenant_id", "request_id"}:
            assert rules_of(field).string.uuid, f"{field.full_name} is not validated as a UUID"


@each_method
def test_what_is_left_out_says_why(method: MethodDescriptor) -> None:
    case = case_of(method)
    for words in (case.broken, case.absent):
        assert not isinstance(words, str) or len(words.split()) > 2
    if rule_of(method).platform:
        assert case.stranger == "NOT_FOUND", "a platform method knows no stranger"


def reasons_given() -> tuple[set[str], set[str]]:
    """Reasons that the tiers' and the chassis' sources give, and every other word in them that could be one."""
    given: set[str] = set()
    words: set[str] = set()
    sources = [ROOT / "libs" / "chassis" / "src", *(ROOT / "services").glob("*/src")]
    for path in (path for source in sources for path in source.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "reason" and isinstance(node.value, ast.Constant):
                given.add(str(node.value.value))
            elif isinstance(node, ast.Assign) and [getattr(t, "id", "") for t in node.targets] == ["reason"]:
                given.update(str(each.value) for each in ast.walk(node.value) if isinstance(each, ast.Constant))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                words.add(node.value)
    return given - {"None"}, words


def test_every_reason_given_is_of_the_contract_and_every_other_is_known_to_be_unused() -> None:
    known = {name.removeprefix("ERROR_REASON_") for name in errors_pb2.ErrorReason.keys()}  # noqa: SIM118
    given, words = reasons_given()
    assert given <= known, f"given by a tier and not in the contract: {sorted(given - known)}"
    unused = known - given - words
    assert unused == UNUSED_REASONS, (
        f"named by the contract and given by no tier: {sorted(unused)}; "
        f"listed here as unused: {sorted(UNUSED_REASONS)}. Give it, or list it."
    )
