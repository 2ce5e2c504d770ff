"""Queue's servicers: wire to domain, call, domain to wire. The only place that registers them."""

from __future__ import annotations

from collections.abc import Callable

from externalscaler import externalscaler_pb2_grpc
from penguin.queue.v1 import queue_admin_service_pb2_grpc, queue_service_pb2_grpc, schedule_service_pb2_grpc
from penguin_chassis.server import Registration
from penguin_queue.operations.control import Control
from penguin_queue.operations.streams import Start, Stream
from penguin_queue.operations.work import Work
from penguin_queue.servicers.jobs import QueueServicer
from penguin_queue.servicers.queues import QueueAdminServicer
from penguin_queue.servicers.scaler import ScalerServicer
from penguin_queue.servicers.schedules import ScheduleServicer
from penguin_queue.store.jobs import JobStore


def registrations(
    work: Work,
    jobs: JobStore,
    control: Control,
    admin: QueueAdminServicer,
    schedules: ScheduleServicer,
    scaler: ScalerServicer,
    streams: Callable[[Start], Stream],
) -> list[Registration]:
    """Every service of this tier."""
    return [
        Registration(
            "penguin.queue.v1.QueueService",
            queue_service_pb2_grpc.add_QueueServiceServicer_to_server,
            QueueServicer(work, jobs, control, streams),
        ),
        Registration(
            "penguin.queue.v1.QueueAdminService",
            queue_admin_service_pb2_grpc.add_QueueAdminServiceServicer_to_server,
            admin,
        ),
        Registration(
            "penguin.queue.v1.ScheduleService",
            schedule_service_pb2_grpc.add_ScheduleServiceServicer_to_server,
            schedules,
        ),
        Registration(
            "externalscaler.ExternalScaler",
            externalscaler_pb2_grpc.add_ExternalScalerServicer_to_server,
            scaler,
        ),
    ]
