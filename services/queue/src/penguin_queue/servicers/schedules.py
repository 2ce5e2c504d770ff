"""ScheduleService on the wire."""

from __future__ import annotations

from itertools import islice
from typing import Any
from uuid import UUID

from penguin.queue.v1 import schedule_service_pb2 as pb
from penguin.queue.v1 import schedule_service_pb2_grpc
from penguin_chassis.mutations import now, step_of
from penguin_chassis.paging import next_token, page_size, page_start
from penguin_chassis.wire import number, stamp, word
from penguin_queue.domain.jobs import check_payload
from penguin_queue.domain.schedules import (
    ALLOW,
    RUN_ONCE,
    START_DEADLINE,
    Schedule,
    Terms,
    Timing,
    check_timing,
    times_after,
)
from penguin_queue.operations.firing import Schedules
from penguin_queue.servicers.queues import name_of
from penguin_queue.store.schedules import ScheduleStore


class ScheduleServicer(schedule_service_pb2_grpc.ScheduleServiceServicer):
    """Jobs by the clock."""

    def __init__(self, schedules: Schedules, store: ScheduleStore) -> None:
        self._schedules = schedules
        self._store = store

    async def PutSchedule(self, request: pb.PutScheduleRequest, context: Any) -> pb.PutScheduleResponse:
        step, terms = step_of(request), _terms(request.schedule)
        check_payload(terms.payload, "schedule.payload")
        check_timing(terms.timing, step.at)
        return pb.PutScheduleResponse(schedule=_schedule(await self._schedules.put(step, terms)))

    async def GetSchedule(self, request: pb.GetScheduleRequest, context: Any) -> pb.GetScheduleResponse:
        found = await self._store.get(UUID(request.tenant_id), request.name)
        times = islice(times_after(found.terms.timing, now()), request.next_times)
        return pb.GetScheduleResponse(schedule=_schedule(found), next_times=filter(None, map(stamp, times)))

    async def ListSchedules(self, request: pb.ListSchedulesRequest, context: Any) -> pb.ListSchedulesResponse:
        size = page_size(request.page_size)
        after = page_start(request, name_of, "")
        found = await self._store.list_page(UUID(request.tenant_id), after, size + 1)
        token = next_token(request, [found[size - 1].terms.name]) if len(found) > size else ""
        return pb.ListSchedulesResponse(schedules=map(_schedule, found[:size]), next_page_token=token)

    async def DeleteSchedule(self, request: pb.DeleteScheduleRequest, context: Any) -> pb.DeleteScheduleResponse:
        await self._store.delete(step_of(request), request.name)
        return pb.DeleteScheduleResponse()

    async def RunSchedule(self, request: pb.RunScheduleRequest, context: Any) -> pb.RunScheduleResponse:
        return pb.RunScheduleResponse(job_id=await self._schedules.run(step_of(request), request.name))

    async def PauseSchedule(self, request: pb.PauseScheduleRequest, context: Any) -> pb.PauseScheduleResponse:
        rested = await self._schedules.rest(step_of(request), request.name, paused=True)
        return pb.PauseScheduleResponse(schedule=_schedule(rested))

    async def ResumeSchedule(self, request: pb.ResumeScheduleRequest, context: Any) -> pb.ResumeScheduleResponse:
        resumed = await self._schedules.rest(step_of(request), request.name, paused=False)
        return pb.ResumeScheduleResponse(schedule=_schedule(resumed))


def _terms(asked: pb.Schedule) -> Terms:
    deadline = asked.start_deadline.ToTimedelta() if asked.HasField("start_deadline") else START_DEADLINE
    return Terms(
        name=asked.name,
        timing=Timing(asked.cron, asked.time_zone or "UTC"),
        kind=asked.kind,
        payload=asked.payload,
        priority=asked.priority,
        rank=asked.rank,
        max_attempts=asked.max_attempts,
        missed_runs=word(pb.MissedRunPolicy, asked.missed_runs, RUN_ONCE),
        start_deadline=deadline,
        overlap=word(pb.OverlapPolicy, asked.overlap, ALLOW),
        paused=asked.paused,
    )


def _schedule(row: Schedule) -> pb.Schedule:
    """A schedule as it is told: its payload is not."""
    terms, standing = row.terms, row.standing
    told = pb.Schedule(
        name=terms.name,
        cron=terms.timing.cron,
        time_zone=terms.timing.time_zone,
        kind=terms.kind,
        priority=terms.priority,  # type: ignore[arg-type]
        rank=terms.rank,
        max_attempts=terms.max_attempts,
        missed_runs=number(pb.MissedRunPolicy, terms.missed_runs),
        overlap=number(pb.OverlapPolicy, terms.overlap),
        paused=terms.paused,
        next_at=stamp(standing.next_at),
        last_at=stamp(standing.last_at),
        last_job_id=standing.last_job_id,
        missed=standing.missed,
        created_at=stamp(standing.created_at),
        updated_at=stamp(standing.updated_at),
    )
    told.start_deadline.FromTimedelta(terms.start_deadline)
    return told
