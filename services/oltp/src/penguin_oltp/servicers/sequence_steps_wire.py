"""Steps of campaigns between the wire and the domain."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from penguin.oltp.v1 import sequence_step_service_pb2 as pb
from penguin_chassis.wire import number, stamp, text, uuid_or_none, when, word
from penguin_oltp.domain.sequence_steps import SequenceStep
from penguin_oltp.servicers.changes import changes


def new_sequence_step(tenant_id: UUID, item: pb.NewSequenceStep, at: datetime) -> SequenceStep:
    """A step as it begins."""
    return SequenceStep(
        tenant_id=tenant_id,
        id=UUID(item.id),
        campaign_id=UUID(item.campaign_id),
        step_order=item.step_order,
        step_type=word(pb.SequenceStepType, item.step_type, "email"),
        email_account_id=uuid_or_none(item.email_account_id),
        template_id=uuid_or_none(item.template_id),
        subject_override=item.subject_override,
        wait_duration_hours=item.wait_duration_hours,
        wait_until=when(item, "wait_until"),
        condition_type=word(pb.StepCondition, item.condition_type, "always"),
        condition_value=item.condition_value,
        is_active=item.is_active,
        version=1,
        created_at=at,
        updated_at=at,
    )


def sequence_step(row: SequenceStep) -> pb.SequenceStep:
    """A step as it stands."""
    return pb.SequenceStep(
        id=str(row.id),
        tenant_id=str(row.tenant_id),
        campaign_id=str(row.campaign_id),
        step_order=row.step_order,
        step_type=number(pb.SequenceStepType, row.step_type),
        email_account_id=text(row.email_account_id),
        template_id=text(row.template_id),
        subject_override=row.subject_override,
        wait_duration_hours=row.wait_duration_hours,
        wait_until=stamp(row.wait_until),
        condition_type=number(pb.StepCondition, row.condition_type),
        condition_value=row.condition_value,
        is_active=row.is_active,
        created_at=stamp(row.created_at),
        updated_at=stamp(row.updated_at),
        etag=str(row.version),
    )


def changed_sequence_step(request: pb.UpdateSequenceStepRequest) -> dict[str, Any]:
    """What an update changes."""
    update = request.sequence_step
    return changes(
        request,
        update,
        required=("step_order", "step_type"),
        step_type=word(pb.SequenceStepType, update.step_type),
        email_account_id=uuid_or_none(update.email_account_id),
        template_id=uuid_or_none(update.template_id),
        wait_until=when(update, "wait_until"),
        condition_type=word(pb.StepCondition, update.condition_type, "always"),
    )
