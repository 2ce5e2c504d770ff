"""Creates leads many at a time, within the tier's limits. One that breaks the contract sinks no other."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import grpc

from penguin.common.v1 import errors_pb2
from penguin.oltp.v1 import lead_service_pb2 as lead_pb
from penguin.oltp.v1.lead_service_pb2_grpc import LeadServiceStub
from penguin_chassis.faults import InvalidArgument
from penguin_chassis.parting import parted
from penguin_chassis.validation import refuse_unstorable, validate
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import TierError

DEADLINE_S = 20.0
LEADS_PER_CALL = 1000
BATCH_BYTES = 3 * 1024 * 1024
# What a lead takes besides itself (bytes).
_OVERHEAD = 16


async def create_leads(oltp: Tier, tenant_id: UUID, leads: Sequence[lead_pb.NewLead]) -> list[lead_pb.CreateLeadResult]:
    """Create leads, asking again while OLTP is away; answers in order. Raises TierError."""
    results: list[lead_pb.CreateLeadResult] = []
    for part in parted(leads, lambda lead: lead.ByteSize() + _OVERHEAD, BATCH_BYTES, LEADS_PER_CALL):
        results += await _create(oltp, tenant_id, part)
    return results


async def _create(oltp: Tier, tenant_id: UUID, leads: Sequence[lead_pb.NewLead]) -> list[lead_pb.CreateLeadResult]:
    request = lead_pb.BatchCreateLeadsRequest(tenant_id=str(tenant_id), leads=leads)
    method = oltp.stub(LeadServiceStub).BatchCreateLeads
    try:
        return list((await oltp.insist(method, request, deadline_s=DEADLINE_S)).results)
    except TierError as error:
        if error.code is not grpc.StatusCode.INVALID_ARGUMENT:
            raise
        # The whole batch was refused for the sake of some; looked for only now, since validating all is dear.
        refused = [_against_contract(lead) for lead in leads]
        if not any(refused):
            raise
    good = [lead for lead, fault in zip(leads, refused, strict=True) if fault is None]
    answers = iter(await _create(oltp, tenant_id, good) if good else [])
    return [fault or next(answers) for fault in refused]


def _against_contract(lead: lead_pb.NewLead) -> lead_pb.CreateLeadResult | None:
    try:
        validate(lead)
        refuse_unstorable(lead)
    except InvalidArgument as fault:
        error = errors_pb2.ItemError(
            code=grpc.StatusCode.INVALID_ARGUMENT.value[0],
            reason=errors_pb2.ERROR_REASON_INVALID_FIELD,
            message=fault.message,
            field=fault.field,
        )
        return lead_pb.CreateLeadResult(error=error)
    return None
