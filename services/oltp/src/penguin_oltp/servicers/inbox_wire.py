"""Mail references between the wire and the domain. Mail holds NULs now and then; the database cannot, and they go."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from penguin.oltp.v1 import inbox_service_pb2 as pb
from penguin_chassis.errors import item_error
from penguin_chassis.faults import Fault
from penguin_chassis.wire import number, stamp, when, word
from penguin_oltp.domain.inbox import CreatedInboxMessage, InboxMessage


def _text(value: str) -> str:
    return value.replace("\0", "")


def new_inbox_message(
    request: pb.BatchCreateInboxMessagesRequest, item: pb.NewInboxMessage, at: datetime
) -> InboxMessage:
    """An item of a batch create; received now, where it does not say."""
    return InboxMessage(
        tenant_id=UUID(request.tenant_id),
        id=UUID(item.id),
        mailbox=_text(item.mailbox),
        direction=word(pb.MessageDirection, item.direction),
        message_id=_text(item.message_id),
        in_reply_to=_text(item.in_reply_to),
        thread_id=_text(item.thread_id),
        sender=_text(item.sender),
        subject=_text(item.subject),
        sent_at=when(item, "sent_at"),
        received_at=when(item, "received_at") or at,
        content_storage_key=item.content_storage_key,
        content_generation=request.content_generation,
        fingerprint=item.fingerprint,
        defects=tuple(map(_text, item.defects)),
    )


def inbox_message(row: InboxMessage) -> pb.InboxMessage:
    """A reference as it stands."""
    return pb.InboxMessage(
        id=str(row.id),
        tenant_id=str(row.tenant_id),
        mailbox=row.mailbox,
        direction=number(pb.MessageDirection, row.direction),
        message_id=row.message_id,
        in_reply_to=row.in_reply_to,
        thread_id=row.thread_id,
        sender=row.sender,
        subject=row.subject,
        sent_at=stamp(row.sent_at),
        received_at=stamp(row.received_at),
        content_storage_key=row.content_storage_key,
        content_generation=row.content_generation,
        fingerprint=row.fingerprint,
        defects=row.defects,
    )


def created(answer: CreatedInboxMessage | Fault) -> pb.CreateInboxMessageResult:
    """The answer to one item of a batch create."""
    if isinstance(answer, Fault):
        return pb.CreateInboxMessageResult(error=item_error(answer))
    return pb.CreateInboxMessageResult(
        message=pb.CreatedInboxMessage(
            id=str(answer.id), content_storage_key=answer.content_storage_key, existed=answer.existed
        )
    )
