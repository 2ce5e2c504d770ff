"""What makes a repeat a repeat: the digest leaves out how a request is known, and nothing of what it asks for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given, settings
from hypothesis import strategies as st

from penguin.common.v1 import mutation_pb2, options_pb2
from penguin.content.v1 import content_service_pb2 as content_pb
from penguin.oltp.v1 import campaign_service_pb2 as campaign_pb
from penguin.oltp.v1 import email_service_pb2 as pb
from penguin_chassis.faults import InvalidArgument
from penguin_chassis.mutations import gate_of, item_steps, request_digest, step_of

texts = st.text(max_size=20)
emails = st.builds(
    pb.NewEmail,
    request_id=texts, id=texts, recipient=texts, sender=texts, subject=texts, content_storage_key=texts,
    campaign_id=texts, priority=st.sampled_from([0, 1, 2, 3]),
)  # fmt: skip
ASKED = ("recipient", "recipient_name", "sender", "sender_name", "subject", "campaign_id", "step_id", "lead_id")
KNOWN_BY = ("request_id", "id", "content_storage_key")


def copy(email: pb.NewEmail, **changed: str) -> pb.NewEmail:
    other = pb.NewEmail()
    other.CopyFrom(email)
    for name, value in changed.items():
        setattr(other, name, value)
    return other


@given(emails, st.sampled_from(KNOWN_BY), texts)
def test_how_a_request_is_known_is_left_out(email: pb.NewEmail, field: str, value: str) -> None:
    assert request_digest(copy(email, **{field: value})) == request_digest(email)


@given(emails, st.sampled_from(ASKED), texts)
def test_what_it_asks_for_is_not(email: pb.NewEmail, field: str, value: str) -> None:
    other = copy(email, **{field: value})
    assert (request_digest(other) == request_digest(email)) == (getattr(other, field) == getattr(email, field))


@given(st.lists(emails, max_size=4), texts, texts)
def test_the_same_holds_below_repeated_fields(items: list[pb.NewEmail], key: str, subject: str) -> None:
    request = pb.BatchCreateEmailsRequest(tenant_id="t", emails=items, content_generation=3)
    again = pb.BatchCreateEmailsRequest()
    again.CopyFrom(request)
    again.content_generation = 4
    again.content_claim_by.GetCurrentTime()
    again.saga_step.saga_id = key
    for email in again.emails:
        email.request_id, email.content_storage_key, email.id = key, key, key
    assert request_digest(again) == request_digest(request)
    if items and items[-1].subject != subject:
        again.emails[-1].subject = subject
        assert request_digest(again) != request_digest(request)


@settings(max_examples=30)
@given(emails)
def test_the_request_itself_stays_as_it_was(email: pb.NewEmail) -> None:
    before = email.SerializeToString(deterministic=True)
    request_digest(email)
    assert email.SerializeToString(deterministic=True) == before


def test_the_order_of_items_counts() -> None:
    one, two = pb.NewEmail(subject="1"), pb.NewEmail(subject="2")
    assert request_digest(pb.BatchCreateEmailsRequest(emails=[one, two])) != request_digest(
        pb.BatchCreateEmailsRequest(emails=[two, one])
    )


def test_equal_bytes_of_two_methods_are_two_requests() -> None:
    start = campaign_pb.StartCampaignRequest(tenant_id=str(uuid4()), campaign_id=str(uuid4()), request_id=str(uuid4()))
    seal = campaign_pb.SealCampaignRequest.FromString(start.SerializeToString())
    assert start.SerializeToString() == seal.SerializeToString()
    assert step_of(start).key == step_of(seal).key
    assert step_of(start).digest != step_of(seal).digest


def test_streamed_beginnings_are_looked_into() -> None:
    start = content_pb.UploadBlobStart(tenant_id="t", request_id="1", sha256="a", size=1)
    other = content_pb.UploadBlobStart(tenant_id="t", request_id="2", sha256="a", size=1)
    assert request_digest(content_pb.UploadBlobRequest(start=start)) == request_digest(
        content_pb.UploadBlobRequest(start=other)
    )


def _deep() -> type:
    """Outer { repeated Middle middles }, Middle { Inner inner; Middle again }, Inner { minted key, text asked }."""
    package = "test.digest"
    file = descriptor_pb2.FileDescriptorProto(name="test/digest.proto", package=package, syntax="proto3")
    file.dependency.append("penguin/common/v1/options.proto")
    kinds = descriptor_pb2.FieldDescriptorProto
    inner = file.message_type.add(name="Inner")
    key = inner.field.add(name="key", number=1, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    key.options.Extensions[options_pb2.minted] = True
    inner.field.add(name="asked", number=2, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    middle = file.message_type.add(name="Middle")
    for number, (name, kind) in enumerate([("inner", "Inner"), ("again", "Middle")], 1):
        middle.field.add(
            name=name, number=number, type=kinds.TYPE_MESSAGE, type_name=f".{package}.{kind}",
            label=kinds.LABEL_OPTIONAL,
        )  # fmt: skip
    outer = file.message_type.add(name="Outer")
    outer.field.add(
        name="middles", number=1, type=kinds.TYPE_MESSAGE, type_name=f".{package}.Middle", label=kinds.LABEL_REPEATED
    )
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
    found = descriptor_pool.Default().FindMessageTypeByName(f"{package}.Outer")
    return message_factory.GetMessageClass(found)


def test_minted_fields_are_left_out_at_any_depth_and_in_circles() -> None:
    outer = _deep()

    def made(key: str, asked: str) -> object:
        message = outer()
        middle = message.middles.add()
        middle.inner.key = key
        middle.again.again.inner.key, middle.again.again.inner.asked = key, asked
        return message

    assert request_digest(made("1", "x")) == request_digest(made("2", "x"))  # type: ignore[arg-type]
    assert request_digest(made("1", "x")) != request_digest(made("1", "y"))  # type: ignore[arg-type]


def test_the_key_is_the_request_or_the_sagas_step() -> None:
    tenant, saga, request_id = uuid4(), uuid4(), uuid4()
    request = pb.CancelEmailsRequest(tenant_id=str(tenant), request_id=str(request_id).upper())
    assert step_of(request).key == f"req:{request_id}"
    not_after = datetime.now(UTC) + timedelta(hours=1)
    step = mutation_pb2.SagaStep(
        saga_id=str(saga).upper(), step="hold", operation=mutation_pb2.STEP_OPERATION_COMPENSATION
    )
    step.not_after.FromDatetime(not_after)
    put = content_pb.DeleteContentsRequest(tenant_id=str(tenant), request_id=str(request_id), saga_step=step)
    found = step_of(put)
    assert (found.tenant_id, found.key, found.operation) == (tenant, f"saga:{saga}:hold", "compensation")
    assert found.not_after == not_after
    batch = pb.BatchCreateEmailsRequest(tenant_id=str(tenant), emails=[pb.NewEmail(request_id=str(request_id).upper())])
    assert [s.key for s in item_steps(batch, batch.emails)] == [f"req:{request_id}"]
    assert gate_of(batch) is None
    batch.saga_step.CopyFrom(step)
    with pytest.raises(InvalidArgument):
        gate_of(batch)
    batch.saga_step.operation = mutation_pb2.STEP_OPERATION_ACTION
    gate = gate_of(batch)
    assert gate is not None
    assert (gate.key, gate.operation) == (found.key, "action")
    # What was undone is remembered for longer than any action may be late.
    batch.saga_step.not_after.FromDatetime(datetime.now(UTC) + timedelta(days=2))
    with pytest.raises(InvalidArgument) as caught:
        gate_of(batch)
    assert caught.value.field == "saga_step.not_after"


@pytest.mark.parametrize("tenant", ["", str(UUID(int=0))])
def test_a_platform_mutation_has_the_zero_tenant(tenant: str) -> None:
    assert step_of(pb.CancelEmailsRequest(tenant_id=tenant, request_id=str(uuid4()))).tenant_id == UUID(int=0)
