"""Page tokens are good for the query they were given for; update masks for the fields there are."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import orjson
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from libs.chassis.tests.probe import Probe

from penguin.oltp.v1 import email_service_pb2 as pb
from penguin_chassis import calls
from penguin_chassis.calls import Call, Caller
from penguin_chassis.faults import InvalidArgument
from penguin_chassis.masks import masked_fields
from penguin_chassis.paging import next_token, page_key, page_size, page_start

LIST = "/penguin.oltp.v1.EmailService/ListEmails"


@pytest.fixture(autouse=True)
def in_a_call() -> Iterator[None]:
    token = calls.enter(Call(LIST, Caller("test", None, frozenset()), 0))
    yield
    calls.leave(token)


def request(**fields: Any) -> pb.ListEmailsRequest:
    usual: dict[str, Any] = {"tenant_id": "t", "status": pb.EMAIL_STATUS_SENT}
    return pb.ListEmailsRequest(**(usual | fields))


def test_a_token_leads_to_its_page() -> None:
    token = next_token(request(), ["key", 3])
    assert page_key(request(page_token=token)) == ["key", 3]
    assert page_key(request(page_token=token, page_size=5)) == ["key", 3]
    assert page_key(request()) is None
    assert (page_size(0), page_size(7)) == (100, 7)


@pytest.mark.parametrize("changed", [{"tenant_id": "u"}, {"status": pb.EMAIL_STATUS_FAILED}, {"recipient": "a@b.c"}])
def test_a_token_is_bound_to_tenant_and_filter(changed: dict[str, Any]) -> None:
    token = next_token(request(), ["key"])
    with pytest.raises(InvalidArgument) as caught:
        page_key(request(page_token=token, **changed))
    assert (caught.value.reason, caught.value.field) == ("INVALID_PAGE_TOKEN", "page_token")


def test_a_token_is_bound_to_its_method() -> None:
    token = next_token(request(), ["key"])
    other = calls.enter(Call("/another/Method", Caller("test", None, frozenset()), 0))
    try:
        with pytest.raises(InvalidArgument):
            page_key(request(page_token=token))
    finally:
        calls.leave(other)


def crafted(value: object) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(value)).decode().rstrip("=")


@given(st.text(min_size=1, max_size=60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rubbish_is_refused(token: str) -> None:
    with pytest.raises(InvalidArgument):
        page_key(request(page_token=token))


@pytest.mark.parametrize(
    "value", [5, [], {}, "x", [1, 2, 3], {"a": 1, "b": 2}, ["0" * 16, ["key"]], [None, None], [[[[[]]]]]]
)
def test_a_crafted_token_is_refused(value: object) -> None:
    with pytest.raises(InvalidArgument):
        page_key(request(page_token=crafted(value)))


def test_a_key_that_cannot_be_read_is_refused() -> None:
    """Who crafts a token with the right binding gets a refusal too, not a defect."""
    keys: list[list[Any]] = [[], [None], [{}], ["no number"], [[1]]]
    for key in keys:
        token = next_token(request(), key)
        with pytest.raises(InvalidArgument):
            page_start(request(page_token=token), lambda key: int(key[0]), 0)
    assert page_start(request(), lambda key: int(key[0]), 7) == 7


async def test_the_binding_is_that_of_the_served_method(probe: Probe) -> None:
    tenant, tokens = uuid4(), []

    async def act(asked: pb.GetEmailRequest, context: Any) -> pb.GetEmailResponse:
        tokens.append(next_token(request(), ["key"]))
        return pb.GetEmailResponse()

    probe.emails.act = act
    await probe.client.call(probe.stub.GetEmail, pb.GetEmailRequest(tenant_id=str(tenant), email_id=str(uuid4())))
    with pytest.raises(InvalidArgument):
        page_key(request(page_token=tokens[0]))


def test_a_mask_names_fields_once_each() -> None:
    update = pb.NewEmail(subject="new", recipient="")
    assert masked_fields(update, FieldMask(paths=["subject", "sender", "subject"])) == ("subject", "sender")
    assert set(masked_fields(update, FieldMask(paths=["*"]))) == {f.name for f in pb.NewEmail.DESCRIPTOR.fields}


@pytest.mark.parametrize("paths", [[], ["no_such_field"], ["subject", "sender.name"], [""], ["*", "subject"]])
def test_a_mask_that_names_no_field_is_refused(paths: list[str]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        masked_fields(pb.NewEmail(), FieldMask(paths=paths))
    assert (caught.value.reason, caught.value.field) == ("INVALID_UPDATE_MASK", "update_mask")


def test_a_required_field_cannot_be_emptied() -> None:
    with pytest.raises(InvalidArgument) as caught:
        masked_fields(pb.NewEmail(), FieldMask(paths=["recipient"]), required=["recipient"])
    assert (caught.value.reason, caught.value.field) == ("INVALID_FIELD", "recipient")
