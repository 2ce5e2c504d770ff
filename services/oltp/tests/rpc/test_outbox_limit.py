"""The outbox has a limit that every writer holds: what is new is refused, what was taken on is answered, and what follows from
it is owed all the same."""

from __future__ import annotations

import ast
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from services.oltp.tests.rows import (
    create_request,
    inbox_request,
    new_email,
    new_message,
    new_template,
    owed,
    send,
    set_scene,
    write_emails,
)

import penguin_oltp
from penguin.oltp.v1 import campaign_service_pb2 as campaign_pb
from penguin.oltp.v1 import email_service_pb2 as email_pb
from penguin.oltp.v1 import inbox_service_pb2 as inbox_pb
from penguin.oltp.v1 import template_service_pb2 as template_pb
from penguin.oltp.v1.campaign_service_pb2_grpc import CampaignServiceStub
from penguin.oltp.v1.email_service_pb2_grpc import EmailServiceStub
from penguin.oltp.v1.inbox_service_pb2_grpc import InboxServiceStub
from penguin.oltp.v1.template_service_pb2_grpc import TemplateServiceStub
from penguin_chassis import outbox
from penguin_chassis.pool import Database
from penguin_testkit.calling import Refused, TierClient

# Who owes though the outbox is full, and why it must not be refused.
FOLLOWING = {
    "attempts._record": "a worker's word on an email in its hands: refused, it would be lost with the worker",
    "campaigns.complete": "one notification of a campaign that was launched",
    "reconcile.finish": "one event of a run",
    "sagas._stop": "one event of a saga: who is to mend the outbox is called by it",
    "subjects._remove_messages": "one row for a page of an erasure, which nobody may hold up",
}
# What stands once in each request.
Made = tuple[Any, Any]


async def _email(oltp: TierClient, tenant: UUID) -> Made:
    return EmailServiceStub(oltp.channel).BatchCreateEmails, create_request(tenant, new_email())


async def _requeue(oltp: TierClient, tenant: UUID) -> Made:
    stub, email = EmailServiceStub(oltp.channel), new_email()
    await oltp.call(stub.BatchCreateEmails, create_request(tenant, email))
    request = email_pb.RequeueEmailsRequest(tenant_id=str(tenant), request_id=str(uuid4()), email_ids=[email.id])
    return stub.RequeueEmails, request


async def _resend(oltp: TierClient, tenant: UUID) -> Made:
    stub, email = EmailServiceStub(oltp.channel), new_email()
    await oltp.call(stub.BatchCreateEmails, create_request(tenant, email))
    await send(oltp, tenant, email.id, email_pb.ATTEMPT_OUTCOME_UNKNOWN)
    request = email_pb.SettleEmailRequest(
        tenant_id=str(tenant), request_id=str(uuid4()), email_id=email.id, settlement=email_pb.SETTLEMENT_RESEND
    )
    return stub.SettleEmail, request


async def _import(oltp: TierClient, tenant: UUID) -> Made:
    return InboxServiceStub(oltp.channel).BatchCreateInboxMessages, inbox_request(tenant, new_message())


async def _delete_messages(oltp: TierClient, tenant: UUID) -> Made:
    stub, message = InboxServiceStub(oltp.channel), new_message()
    await oltp.call(stub.BatchCreateInboxMessages, inbox_request(tenant, message))
    request = inbox_pb.DeleteInboxMessagesRequest(
        tenant_id=str(tenant), request_id=str(uuid4()), inbox_message_ids=[message.id]
    )
    return stub.DeleteInboxMessages, request


async def _template(oltp: TierClient, tenant: UUID) -> Made:
    request = template_pb.CreateTemplateRequest(tenant_id=str(tenant), template=new_template())
    return TemplateServiceStub(oltp.channel).CreateTemplate, request


async def _update_template(oltp: TierClient, tenant: UUID) -> Made:
    create, made = await _template(oltp, tenant)
    await oltp.call(create, made)
    request = template_pb.UpdateTemplateRequest(
        tenant_id=str(tenant), template_id=made.template.id, request_id=str(uuid4()),
        template=template_pb.TemplateUpdate(content_storage_key=f"k/{uuid4()}", content_generation=3),
        update_mask=FieldMask(paths=["content_storage_key", "content_generation"]),
    )  # fmt: skip
    return TemplateServiceStub(oltp.channel).UpdateTemplate, request


async def _delete_template(oltp: TierClient, tenant: UUID) -> Made:
    create, made = await _template(oltp, tenant)
    await oltp.call(create, made)
    request = template_pb.DeleteTemplateRequest(
        tenant_id=str(tenant), template_id=made.template.id, request_id=str(uuid4())
    )
    return TemplateServiceStub(oltp.channel).DeleteTemplate, request


async def _seal(oltp: TierClient, tenant: UUID) -> Made:
    scene = await set_scene(oltp, tenant)
    request = campaign_pb.SealCampaignRequest(
        tenant_id=str(tenant), campaign_id=scene.campaign, request_id=str(uuid4())
    )
    return CampaignServiceStub(oltp.channel).SealCampaign, request


WRITERS: list[Callable[[TierClient, UUID], Awaitable[Made]]] = [
    _email, _requeue, _resend, _import, _delete_messages, _template, _update_template, _delete_template, _seal,
]  # fmt: skip


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    return lambda rows: monkeypatch.setattr(outbox, "COUNT_LIMIT", rows)


@pytest.mark.parametrize("writer", WRITERS, ids=[each.__name__.strip("_") for each in WRITERS])
async def test_a_full_outbox_refuses_what_is_new_and_answers_what_was_taken_on(
    oltp: TierClient, tenant: UUID, db: Database, limit: Callable[[int], None],
    writer: Callable[[TierClient, UUID], Awaitable[Made]],
) -> None:  # fmt: skip
    method, request = await writer(oltp, tenant)
    before = await owed(db, tenant)
    limit(0)
    with pytest.raises(Refused) as refused:
        await oltp.call(method, request)
    answer = refused.value.answer
    assert (answer.code, answer.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "BACKLOG_FULL")
    assert answer.retry_after_s == 5.0
    assert await owed(db, tenant) == before
    # It was not done, and is once there is room; and then the answer stands.
    limit(100_000)
    done = await oltp.call(method, request)
    assert len(await owed(db, tenant)) > len(before)
    limit(0)
    assert await oltp.call(method, request) == done


async def test_a_workers_word_is_taken_however_much_is_owed(
    oltp: TierClient, tenant: UUID, db: Database, limit: Callable[[int], None]
) -> None:
    scene = await set_scene(oltp, tenant, leads=1)
    (email,) = await write_emails(oltp, tenant, scene, scene.leads)
    campaigns = CampaignServiceStub(oltp.channel)
    named: dict[str, Any] = {"tenant_id": str(tenant), "campaign_id": scene.campaign}
    await oltp.call(campaigns.SealCampaign, campaign_pb.SealCampaignRequest(**named, request_id=str(uuid4())))
    limit(0)
    await send(oltp, tenant, email)
    await oltp.call(campaigns.CompleteCampaign, campaign_pb.CompleteCampaignRequest(**named, request_id=str(uuid4())))
    assert (await owed(db, tenant))[-1][1] == "create_notifications"


def _calls(source: Path) -> Iterator[str]:
    """Functions of a store that owe without asking whether there is room."""
    for function in ast.walk(ast.parse(source.read_text())):
        if isinstance(function, ast.AsyncFunctionDef):
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "outbox.append":
                    yield f"{source.stem}.{function.name}"


def test_whoever_goes_past_the_limit_has_a_reason() -> None:
    store = Path(str(penguin_oltp.__file__)).parent / "store"
    found = {name for source in sorted(store.glob("*.py")) for name in _calls(source)}
    # Within a method, the function that is its transaction is found too.
    assert found - {"campaigns.act"} == set(FOLLOWING)
