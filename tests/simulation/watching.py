"""Holds every answer of the tiers to what they have promised before: a lease is one owner's until it ends, and a word under an old
one moves nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tests.simulation.chronicle import Chronicle

from penguin.oltp.v1 import saga_service_pb2 as saga_pb
from penguin.queue.v1 import queue_service_pb2 as job_pb
from penguin.tier.v1 import tier_service_pb2 as tier_pb

# Times are taken when an answer is given, a lease's beginning is some moments before.
MARGIN_S = 1.0


class Watch:
    """What the tiers have promised in this history, and where they broke it."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.chronicle = Chronicle()
        # By outbox row and by job: under which token, and until when it is somebody's alone.
        self._rows: dict[str, tuple[str, float]] = {}
        self._jobs: dict[int, tuple[int, float]] = {}
        self._epochs: dict[str, int] = {}
        self._attempts: dict[tuple[str, int], str] = {}
        self._judges: dict[str, Callable[[Any, Any], None]] = {
            "LeaseOutbox": self._outbox_leased, "SettleOutbox": self._outbox_settled, "LeaseJobs": self._jobs_leased,
            "CompleteJobs": self._completed, "FailJobs": self._failed, "SnoozeJobs": self._snoozed,
            "ClaimSagas": self._sagas_claimed, "CreateSaga": self._saga_created, "AdvanceSaga": self._advanced,
            "BatchStartAttempts": self._started,
        }  # fmt: skip

    def __call__(self, tier: str, method: str, request: Any, reply: Any) -> None:
        judge = self._judges.get(method)
        if judge is not None:
            judge(request, reply)
        self.chronicle.note(method, request, reply)

    def _broken(self, what: str) -> None:
        self.violations.append(what)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    def _outbox_leased(self, request: tier_pb.LeaseOutboxRequest, reply: tier_pb.LeaseOutboxResponse) -> None:
        for row in reply.rows:
            held = self._rows.get(row.id)
            if held is not None and held[0] != reply.lease_token and self._now() < held[1] - MARGIN_S:
                self._broken(f"outbox row leased to two relays at once ({row.destination}/{row.kind})")
            self._rows[row.id] = (reply.lease_token, self._now() + request.lease_duration.seconds)

    def _outbox_settled(self, request: tier_pb.SettleOutboxRequest, reply: tier_pb.SettleOutboxResponse) -> None:
        settled: list[Any] = [*request.delivered, *request.failed]
        foreign = [each for each in settled if self._rows.get(each.id, ("", 0.0))[0] not in {"", request.lease_token}]
        if reply.stale < len(foreign):
            self._broken("outbox row settled under a lease that another relay had taken over")
        for each in settled:
            if self._rows.get(each.id, ("", 0.0))[0] == request.lease_token:
                del self._rows[each.id]

    def _jobs_leased(self, request: job_pb.LeaseJobsRequest, reply: job_pb.LeaseJobsResponse) -> None:
        for each in reply.jobs:
            held = self._jobs.get(each.job.id)
            if held is not None and held[0] != each.lease_token and self._now() < held[1] - MARGIN_S:
                self._broken("job leased to two workers at once")
            self._jobs[each.job.id] = (each.lease_token, self._now() + request.lease_duration.seconds)

    def _completed(self, request: job_pb.CompleteJobsRequest, reply: job_pb.CompleteJobsResponse) -> None:
        self._word(list(request.leases), set(reply.lost_job_ids))

    def _failed(self, request: job_pb.FailJobsRequest, reply: job_pb.FailJobsResponse) -> None:
        self._word([each.lease for each in request.failures], set(reply.lost_job_ids))

    def _snoozed(self, request: job_pb.SnoozeJobsRequest, reply: job_pb.SnoozeJobsResponse) -> None:
        self._word([each.lease for each in request.snoozes], set(reply.lost_job_ids))

    def _word(self, leases: list[job_pb.LeaseRef], lost: set[int]) -> None:
        for lease in leases:
            token, _ = self._jobs.get(lease.job_id, (0, 0.0))
            if token not in {0, lease.lease_token} and lease.job_id not in lost:
                self._broken("a word on a job counted under a lease that another worker had taken over")
            if token == lease.lease_token:
                self._jobs[lease.job_id] = (token, 0.0)

    def _saga_created(self, request: saga_pb.CreateSagaRequest, reply: saga_pb.CreateSagaResponse) -> None:
        self._epochs.setdefault(reply.saga.id, reply.saga.owner_epoch)

    def _sagas_claimed(self, request: saga_pb.ClaimSagasRequest, reply: saga_pb.ClaimSagasResponse) -> None:
        for saga in reply.sagas:
            if saga.owner_epoch <= self._epochs.get(saga.id, 0):
                self._broken("a saga claimed twice under one epoch")
            self._epochs[saga.id] = saga.owner_epoch

    def _advanced(self, request: saga_pb.AdvanceSagaRequest, reply: saga_pb.AdvanceSagaResponse) -> None:
        # A repeat of what was said in time is answered as it was then.
        if request.owner_epoch != reply.saga.owner_epoch:
            self._broken("a saga advanced by an owner who had lost it")

    def _started(self, request: Any, reply: Any) -> None:
        for asked, result in zip(request.attempts, reply.results, strict=True):
            if result.WhichOneof("outcome") != "started" or result.started.decision != 1:
                continue
            attempt = (result.started.email.id, result.started.email.attempt)
            if self._attempts.setdefault(attempt, asked.request_id) != asked.request_id:
                self._broken("one attempt at an email given to two workers")
