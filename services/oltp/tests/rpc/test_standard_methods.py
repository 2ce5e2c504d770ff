"""The standard methods, the same for every resource that has them: one suite over all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from services.oltp.tests import rows

from penguin.common.v1 import mutation_pb2
from penguin.oltp.v1 import (
    campaign_service_pb2,
    campaign_service_pb2_grpc,
    company_service_pb2,
    company_service_pb2_grpc,
    domain_service_pb2,
    domain_service_pb2_grpc,
    email_account_service_pb2,
    email_account_service_pb2_grpc,
    lead_service_pb2,
    lead_service_pb2_grpc,
    sequence_step_service_pb2,
    sequence_step_service_pb2_grpc,
    suppression_service_pb2,
    suppression_service_pb2_grpc,
    template_service_pb2,
    template_service_pb2_grpc,
    user_service_pb2,
    user_service_pb2_grpc,
)
from penguin_testkit.calling import Refused, TierClient

New = Callable[[TierClient, UUID], Awaitable[Any]]


def plain(make: Callable[..., Any]) -> New:
    """A resource that needs nothing else to exist."""

    async def new(oltp: TierClient, tenant: UUID) -> Any:
        return make()

    return new


async def step_in_new_campaign(oltp: TierClient, tenant: UUID) -> Any:
    """A step needs its campaign."""
    stub = campaign_service_pb2_grpc.CampaignServiceStub(oltp.channel)
    campaign = rows.new_campaign()
    request = campaign_service_pb2.CreateCampaignRequest(tenant_id=str(tenant), campaign=campaign)
    await oltp.call(stub.CreateCampaign, request)
    return rows.new_step(campaign_id=campaign.id)


@dataclass(frozen=True)
class Noun:
    """One resource: its modules, its names, and what its tests write."""

    pb: Any
    stubs: Any
    name: str
    message: str
    plural: str
    new: New
    # Field -> its new value in an update; empty where there is no update.
    update: dict[str, Any] = field(default_factory=dict)
    # Field -> a value the contract refuses.
    bad: dict[str, Any] = field(default_factory=dict)
    # A field that must differ between two, and must refer to something, where there are such.
    unique: str = ""
    reference: str = ""

    def request(self, verb: str, tenant: UUID, **fields: Any) -> Any:
        """A request of one of the standard methods."""
        suffix = self.plural if verb == "List" else self.message
        return getattr(self.pb, f"{verb}{suffix}Request")(tenant_id=str(tenant), **fields)

    def method(self, oltp: TierClient, verb: str) -> Any:
        """One of the standard methods."""
        stub = getattr(self.stubs, f"{self.message}ServiceStub")(oltp.channel)
        return getattr(stub, f"{verb}{self.plural if verb == 'List' else self.message}")

    async def call(self, oltp: TierClient, verb: str, tenant: UUID, **fields: Any) -> Any:
        """Call one of the standard methods."""
        return await oltp.call(self.method(oltp, verb), self.request(verb, tenant, **fields))

    async def create(self, oltp: TierClient, tenant: UUID, item: Any = None) -> Any:
        """Create one and answer it."""
        item = item if item is not None else await self.new(oltp, tenant)
        return getattr(await self.call(oltp, "Create", tenant, **{self.name: item}), self.name)

    def plural_field(self) -> str:
        """The field that a list answers in."""
        response = getattr(self.pb, f"List{self.plural}Response")
        return str(next(f.name for f in response.DESCRIPTOR.fields if f.message_type is not None))

    def named(self, identifier: str) -> dict[str, str]:
        """The field that names one of them."""
        return {f"{self.name}_id": identifier}

    def updating(self, identifier: str, **fields: Any) -> dict[str, Any]:
        """The fields of an update of everything that can be updated here."""
        update = getattr(self.pb, f"{self.message}Update")(**self.update)
        mask = FieldMask(paths=list(self.update))
        request: dict[str, Any] = {self.name: update, "update_mask": mask, "request_id": str(uuid4())}
        return request | self.named(identifier) | fields


NOUNS = [
    Noun(user_service_pb2, user_service_pb2_grpc, "user", "User", "Users", plain(rows.new_user),
         {"display_name": "Ada", "roles": ["owner"], "email": "ada@new.example"}, {"email": "nobody"}, "email"),
    Noun(company_service_pb2, company_service_pb2_grpc, "company", "Company", "Companies", plain(rows.new_company),
         {"name": "Other", "website": ""}, {"name": ""}),
    Noun(domain_service_pb2, domain_service_pb2_grpc, "domain", "Domain", "Domains", plain(rows.new_domain),
         {"verification_status": domain_service_pb2.DOMAIN_VERIFICATION_VERIFIED, "is_primary": False,
          "dns_records": [domain_service_pb2.DnsRecord(type="MX", name="@", value="mx.example")]},
         {"domain": "not a name"}, "domain", "company_id"),
    Noun(email_account_service_pb2, email_account_service_pb2_grpc, "email_account", "EmailAccount", "EmailAccounts",
         plain(rows.new_account),
         {"status": email_account_service_pb2.EMAIL_ACCOUNT_STATUS_PAUSED, "daily_limit": 50,
          "imap": email_account_service_pb2.MailServer(host="imap.example", port=993, tls=True)},
         {"daily_limit": -1}, "email", "domain_id"),
    Noun(lead_service_pb2, lead_service_pb2_grpc, "lead", "Lead", "Leads", plain(rows.new_lead),
         {"first_name": "Ada", "custom_fields": {"city": "Wien"}, "status": lead_service_pb2.LEAD_STATUS_REPLIED},
         {"email": "nobody"}, "email"),
    Noun(template_service_pb2, template_service_pb2_grpc, "template", "Template", "Templates",
         plain(rows.new_template), {"name": "Other", "subject": "Dear {{ first_name }}"}, {"name": ""},
         "content_storage_key"),
    Noun(campaign_service_pb2, campaign_service_pb2_grpc, "campaign", "Campaign", "Campaigns",
         plain(rows.new_campaign), {"name": "Summer", "audience_list": "summer"}, {"audience_list": ""},
         reference="company_id"),
    Noun(sequence_step_service_pb2, sequence_step_service_pb2_grpc, "sequence_step", "SequenceStep", "SequenceSteps",
         step_in_new_campaign,
         {"step_order": 2, "wait_duration_hours": 48, "subject_override": "Again", "is_active": False},
         {"step_order": 0}, "step_order", "template_id"),
    Noun(suppression_service_pb2, suppression_service_pb2_grpc, "suppression", "Suppression", "Suppressions",
         plain(rows.new_suppression), {}, {"address": "nobody"}, "address"),
]  # fmt: skip
UPDATABLE = [noun for noun in NOUNS if noun.update]
every = pytest.mark.parametrize("noun", NOUNS, ids=lambda n: n.name)
updatable = pytest.mark.parametrize("noun", UPDATABLE, ids=lambda n: n.name)


def same(written: Any, read: Any, names: Any) -> bool:
    """Whether what was written is what is read, field by field."""
    return all(getattr(read, name) == getattr(written, name) for name in names)


@every
async def test_what_is_created_is_read(noun: Noun, oltp: TierClient, tenant: UUID) -> None:
    item = await noun.new(oltp, tenant)
    created = await noun.create(oltp, tenant, item)
    given = [f.name for f, _ in item.ListFields() if f.name != "request_id"]
    assert same(item, created, given)
    assert (created.tenant_id, created.etag) == (str(tenant), "1")
    assert created.created_at == created.updated_at
    assert getattr(await noun.call(oltp, "Get", tenant, **noun.named(item.id)), noun.name) == created


@every
async def test_a_repeat_gets_the_first_answer(noun: Noun, oltp: TierClient, tenant: UUID) -> None:
    item = await noun.new(oltp, tenant)
    first = await noun.create(oltp, tenant, item)
    item.id = str(uuid4())
    assert await noun.create(oltp, tenant, item) == first
    listed = await noun.call(oltp, "List", tenant)
    assert [each.id for each in getattr(listed, noun.plural_field())] == [first.id]


@every
async def test_another_body_under_the_same_request_id_is_refused(noun: Noun, oltp: TierClient, tenant: UUID) -> None:
    item = await noun.new(oltp, tenant)
    await noun.create(oltp, tenant, item)
    other = await noun.new(oltp, tenant)
    name = next(f.name for f, _ in other.ListFields() if f.name not in {"request_id", "id"} and f.type == f.TYPE_STRING)
    setattr(item, name, getattr(other, name) if getattr(other, name) != getattr(item, name) else "Something else")
    with pytest.raises(Refused) as refused:
        await noun.create(oltp, tenant, item)
    assert refused.value.answer.reason == "REQUEST_ID_REUSED"


@every
async def test_bad_fields_are_named(noun: Noun, oltp: TierClient, tenant: UUID) -> None:
    item = await noun.new(oltp, tenant)
    for name, value in noun.bad.items():
        setattr(item, name, value)
    with pytest.raises(Refused) as refused:
        await noun.create(oltp, tenant, item)
    assert refused.value.answer.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.answer.fields == [f"{noun.name}.{name}" for name in noun.bad]


@pytest.mark.parametrize("noun", [n for n in NOUNS if n.unique], ids=lambda n: n.name)
async def test_a_second_of_the_same_is_refused(noun: Noun, oltp: TierClient, tenant: UUID) -> None:
    item = await noun.new(oltp, tenant)
    await noun.create(oltp, tenant, item)
    item.request_id, item.id = str(uuid4()), str(uuid4())
    value = getattr(item, noun.unique)
    if "@" in str(value):
        setattr(item, noun.unique, value.upper())
    with pytest.raises(Refused) as refused:
        await noun.create(oltp, tenant, item)
    answer = refused.value.answer
    assert (answer.code, answer.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS")
    assert answer.metadata == {"resource": noun.name, "field": noun.unique}


@pytest.mark.parametrize("noun", [n for n in NOUNS if n.reference], ids=lambda n: n.name)
async def test_a_reference_to_nothing_is_refused(noun: Noun, oltp: TierClient, tenant: UUID) -> None:
    item = await noun.new(oltp, tenant)
    setattr(item, noun.reference, str(uuid4()))
    with pytest.raises(Refused) as refused:
        await noun.create(oltp, tenant, item)
    answer = refused.value.answer
    assert (answer.code, answer.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REFERENCE_MISSING")
    assert answer.metadata == {"field": noun.reference}


@every
async def test_pages_are_whole(noun: Noun, oltp: TierClient, tenant: UUID) -> None:
    made = sorted([(await noun.create(oltp, tenant)).id for _ in range(5)])
    seen: list[str] = []
    token = ""
    for _ in range(3):
        page = await noun.call(oltp, "List", tenant, page_size=2, page_token=token)
        seen += [each.id for each in getattr(page, noun.plural_field())]
        token = page.next_page_token
    assert (seen, token) == (made, "")


@every
async def test_a_token_of_ones_own_making_is_refused(noun: Noun, oltp: TierClient, tenant: UUID) -> None:
    with pytest.raises(Refused) as refused:
        await noun.call(oltp, "List", tenant, page_token="WyJhIiwgMV0")
    assert refused.value.answer.reason == "INVALID_PAGE_TOKEN"


@updatable
async def test_only_masked_fields_change(noun: Noun, oltp: TierClient, tenant: UUID) -> None:
    created = await noun.create(oltp, tenant)
    updating = noun.updating(created.id, etag="1")
    updated = getattr(await noun.call(oltp, "Update", tenant, **updating), noun.name)
    assert same(updating[noun.name], updated, noun.update)
    kept = [f.name for f in created.DESCRIPTOR.fields if f.name not in {*noun.update, "etag", "updated_at"}]
    assert same(created, updated, kept)
    assert updated.etag == "2"
    assert updated.updated_at.ToNanoseconds() > created.updated_at.ToNanoseconds()
    assert getattr(await noun.call(oltp, "Get", tenant, **noun.named(created.id)), noun.name) == updated
    assert getattr(await noun.call(oltp, "Update", tenant, **updating), noun.name) == updated


@updatable
async def test_a_stale_etag_and_a_wrong_mask_change_nothing(noun: Noun, oltp: TierClient, tenant: UUID) -> None:
    created = await noun.create(oltp, tenant)
    wrong: list[tuple[dict[str, Any], grpc.StatusCode, str]] = [
        ({"etag": "7"}, grpc.StatusCode.ABORTED, "ETAG_MISMATCH"),
        ({"update_mask": FieldMask(paths=["created_at"])}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_UPDATE_MASK"),
        ({"update_mask": FieldMask()}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_UPDATE_MASK"),
    ]
    for fields, code, reason in wrong:
        with pytest.raises(Refused) as refused:
            await noun.call(oltp, "Update", tenant, **noun.updating(created.id, **fields))
        assert (refused.value.answer.code, refused.value.answer.reason) == (code, reason)
    assert getattr(await noun.call(oltp, "Get", tenant, **noun.named(created.id)), noun.name) == created


@every
async def test_what_is_deleted_is_gone_at_once(noun: Noun, oltp: TierClient, tenant: UUID) -> None:
    created = await noun.create(oltp, tenant)
    with pytest.raises(Refused) as refused:
        await noun.call(oltp, "Delete", tenant, request_id=str(uuid4()), etag="7", **noun.named(created.id))
    assert refused.value.answer.reason == "ETAG_MISMATCH"
    request_id = str(uuid4())
    for _ in range(2):
        await noun.call(oltp, "Delete", tenant, request_id=request_id, etag="1", **noun.named(created.id))
    with pytest.raises(Refused) as refused:
        await noun.call(oltp, "Get", tenant, **noun.named(created.id))
    assert refused.value.answer.code is grpc.StatusCode.NOT_FOUND


@every
async def test_what_the_tenant_does_not_have_is_not_found(
    noun: Noun, oltp: TierClient, tenant: UUID, stranger: UUID
) -> None:
    created = await noun.create(oltp, tenant)
    calls: list[tuple[str, dict[str, Any]]] = [
        ("Get", noun.named(created.id)),
        ("Delete", {"request_id": str(uuid4())} | noun.named(created.id)),
    ]
    if noun.update:
        calls.append(("Update", noun.updating(created.id)))
    for verb, fields in calls:
        with pytest.raises(Refused) as refused:
            await noun.call(oltp, verb, stranger, **fields)
        assert refused.value.answer.code is grpc.StatusCode.NOT_FOUND
        assert refused.value.answer.metadata == {"resource": noun.name, "id": created.id}
    assert not getattr(await noun.call(oltp, "List", stranger), noun.plural_field())


@every
async def test_nobody_and_another_tenants_token_are_refused(
    noun: Noun, oltp: TierClient, tenant: UUID, stranger: UUID
) -> None:
    created = await noun.create(oltp, tenant)
    item = await noun.new(oltp, tenant)
    calls: list[tuple[str, dict[str, Any]]] = [
        ("Create", {noun.name: item}), ("Get", noun.named(created.id)), ("List", {}),
        ("Delete", {"request_id": str(uuid4())} | noun.named(created.id)),
    ]  # fmt: skip
    if noun.update:
        calls.append(("Update", noun.updating(created.id)))
    for verb, fields in calls:
        request = noun.request(verb, tenant, **fields)
        await rows.refuse_others(oltp, noun.method(oltp, verb), request, stranger)


@every
async def test_an_unknown_tenant_is_not_found(noun: Noun, oltp: TierClient, tenant: UUID) -> None:
    item = await noun.new(oltp, tenant)
    with pytest.raises(Refused) as refused:
        await noun.create(oltp, uuid4(), item)
    answer = refused.value.answer
    assert answer.code is grpc.StatusCode.NOT_FOUND or answer.metadata == {"field": "campaign_id"}


@every
async def test_undoing_what_never_happened_is_accepted_and_bars_it(noun: Noun, oltp: TierClient, tenant: UUID) -> None:
    step = mutation_pb2.SagaStep(
        saga_id=str(uuid4()), step="create", operation=mutation_pb2.STEP_OPERATION_COMPENSATION
    )
    item = await noun.new(oltp, tenant)
    fields = {"request_id": str(uuid4()), "saga_step": step} | noun.named(item.id)
    for _ in range(2):
        await noun.call(oltp, "Delete", tenant, **fields)
    step.operation = mutation_pb2.STEP_OPERATION_ACTION
    with pytest.raises(Refused) as refused:
        await noun.call(oltp, "Create", tenant, **{noun.name: item, "saga_step": step})
    assert refused.value.answer.reason == "SAGA_COMPENSATED"
