"""What stands around every method: sanitiser, error translation, deadlines, admission, validation, streams."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from libs.chassis.tests.probe import Probe

from penguin.content.v1 import content_service_pb2 as content_pb
from penguin.oltp.v1 import email_service_pb2 as pb
from penguin_chassis import calls, faults
from penguin_chassis.faults import Fault, InvalidArgument
from penguin_chassis.methods import ContractError
from penguin_chassis.pool import Database
from penguin_chassis.server import Registration, serve
from penguin_chassis.settings import ServerSettings
from penguin_chassis.telemetry import JsonFormatter
from penguin_testkit.calling import Answer, Refused, answer_of
from penguin_testkit.tokens import TokenFactory

SECRET = "SELECT secret FROM vault WHERE owner = 'ada@example.com'"


def get(tenant: UUID) -> pb.GetEmailRequest:
    return pb.GetEmailRequest(tenant_id=str(tenant), email_id=str(uuid4()))


def raising(error: Callable[[], BaseException]) -> Callable[[Any, Any], Any]:
    async def act(request: Any, context: Any) -> Any:
        raise error()

    return act


async def refusal(probe: Probe, tenant: UUID, timeout: float = 5.0) -> Answer:
    with pytest.raises(Refused) as caught:
        await probe.client.call(probe.stub.GetEmail, get(tenant), timeout=timeout)
    return caught.value.answer


async def settled(condition: Callable[[], bool], within_s: float = 2.0) -> None:
    """Wait until `condition` holds."""
    ends = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < ends, "it never came to that"
        await asyncio.sleep(0.005)


async def test_the_unforeseen_becomes_internal_and_says_nothing(
    probe: Probe, tenant: UUID, caplog: pytest.LogCaptureFixture
) -> None:
    class Odd(Exception):
        pass

    probe.emails.act = raising(lambda: Odd(SECRET))
    metadata = probe.client.authorization("/penguin.oltp.v1.EmailService/GetEmail", tenant)
    caplog.set_level(logging.DEBUG)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await probe.stub.GetEmail(get(tenant), metadata=metadata, timeout=5)
    error = caught.value
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "Internal error.")
    status = rpc_status.from_call(error)
    infos = [d for d in status.details if d.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)]
    info = error_details_pb2.ErrorInfo()
    assert len(infos) == 1
    assert infos[0].Unpack(info)
    assert (info.reason, info.domain) == ("INTERNAL", "oltp.penguinmails")
    sent = str(error) + str(error.trailing_metadata()) + str(status)
    logged = "".join(JsonFormatter("oltp").format(record) for record in caplog.records) + caplog.text
    assert "vault" not in sent + logged
    assert "ada@example.com" not in sent + logged
    (record,) = [r for r in caplog.records if r.levelno >= logging.ERROR]
    line = json.loads(JsonFormatter("oltp").format(record))
    assert line["message"] == "unexpected Odd"
    assert any("test_gate.py" in place for place in line["places"])


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (lambda: asyncpg.UniqueViolationError(SECRET), "INTERNAL", "INTERNAL"),
        (lambda: asyncpg.PostgresSyntaxError(SECRET), "INTERNAL", "INTERNAL"),
        (lambda: asyncpg.DataError(SECRET), "INTERNAL", "INTERNAL"),
        # A value that the driver cannot encode is our defect: the database is well.
        (lambda: asyncpg.exceptions._base.DataError(SECRET), "INTERNAL", "INTERNAL"),
        (lambda: ExceptionGroup(SECRET, [ValueError(SECRET)]), "INTERNAL", "INTERNAL"),
        (lambda: Fault(SECRET, reason="NO_SUCH_REASON"), "INTERNAL", "INTERNAL"),
        (lambda: asyncpg.ConnectionDoesNotExistError(SECRET), "UNAVAILABLE", "TIER_DB_DOWN"),
        (lambda: asyncpg.AdminShutdownError(SECRET), "UNAVAILABLE", "TIER_DB_DOWN"),
        (lambda: asyncpg.TooManyConnectionsError(SECRET), "UNAVAILABLE", "TIER_DB_DOWN"),
        (lambda: asyncpg.ReadOnlySQLTransactionError(SECRET), "UNAVAILABLE", "TIER_DB_DOWN"),
        (lambda: ConnectionRefusedError(SECRET), "UNAVAILABLE", "TIER_DB_DOWN"),
        (lambda: asyncpg.DeadlockDetectedError(SECRET), "UNAVAILABLE", "TIER_DB_DOWN"),
        (lambda: asyncpg.exceptions.InvalidCachedStatementError(SECRET), "UNAVAILABLE", "TIER_DB_DOWN"),
        (lambda: asyncpg.QueryCanceledError(SECRET), "DEADLINE_EXCEEDED", "DEADLINE"),
        (lambda: TimeoutError(SECRET), "DEADLINE_EXCEEDED", "DEADLINE"),
        (lambda: NotImplementedError(SECRET), "UNIMPLEMENTED", "UNIMPLEMENTED"),
        (lambda: faults.Aborted("Read again."), "ABORTED", "ETAG_MISMATCH"),
        (lambda: faults.NotFound("email", "x"), "NOT_FOUND", "NOT_FOUND"),
        (lambda: faults.FailedPrecondition("No."), "FAILED_PRECONDITION", "STATE_CONFLICT"),
        (lambda: faults.AlreadyExists("No."), "ALREADY_EXISTS", "ALREADY_EXISTS"),
    ],
)
async def test_every_kind_of_failure_has_its_status_and_reason(
    probe: Probe, tenant: UUID, caplog: pytest.LogCaptureFixture, error: Any, code: str, reason: str
) -> None:
    probe.emails.act = raising(error)
    answer = await refusal(probe, tenant)
    assert (answer.code.name, answer.reason) == (code, reason)
    assert "vault" not in answer.message + caplog.text
    if code == "UNAVAILABLE":
        assert answer.retry_after_s is not None


async def test_a_defect_in_a_stream_is_sanitised_too(
    probe: Probe, tenant: UUID, caplog: pytest.LogCaptureFixture
) -> None:
    async def down(request: Any, context: Any) -> AsyncIterator[content_pb.DownloadRawResponse]:
        yield content_pb.DownloadRawResponse(chunk=b"first")
        raise ValueError(SECRET)

    probe.contents.down = down
    call = download(probe, tenant)
    assert (await call.read()).chunk == b"first"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    answer = answer_of(caught.value)
    assert (answer.code, answer.reason, answer.message) == (grpc.StatusCode.INTERNAL, "INTERNAL", "Internal error.")
    assert "vault" not in caplog.text
    assert probe.in_flight == 0


def download(probe: Probe, tenant: UUID, timeout: float = 10.0) -> Any:
    request = content_pb.DownloadRawRequest(tenant_id=str(tenant), storage_key="k")
    path = "/penguin.content.v1.ContentService/DownloadRaw"
    metadata = probe.client.authorization(path, tenant)
    return probe.streams.DownloadRaw(request, metadata=metadata, timeout=timeout)


async def test_a_method_that_nobody_wrote_or_nobody_knows_is_unimplemented(probe: Probe, tenant: UUID) -> None:
    with pytest.raises(Refused) as caught:
        await probe.client.call(
            probe.stub.CancelEmails,
            pb.CancelEmailsRequest(tenant_id=str(tenant), request_id=str(uuid4()), email_ids=[str(uuid4())]),
        )
    assert (caught.value.answer.code, caught.value.answer.reason) == (grpc.StatusCode.UNIMPLEMENTED, "UNIMPLEMENTED")
    for path in ("/penguin.oltp.v1.EmailService/NoSuchMethod", "/no.such.Service/Method"):
        unknown: Any = probe.client.channel.unary_unary(path)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await unknown(b"", timeout=5)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_call_ends_with_its_clients_deadline(probe: Probe, tenant: UUID) -> None:
    seen: list[float] = []

    async def act(request: Any, context: Any) -> Any:
        seen.append(calls.remaining())
        await asyncio.sleep(30)

    probe.emails.act = act
    started = time.monotonic()
    answer = await refusal(probe, tenant, timeout=0.3)
    assert answer.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - started < 1.5
    # On the wire a time-out has few digits, and is rounded up.
    assert 0 < seen[0] <= 0.3 * 1.02
    await settled(lambda: probe.in_flight == 0)


async def test_no_unary_call_outlasts_the_cap(probe: Probe, tenant: UUID, monkeypatch: pytest.MonkeyPatch) -> None:
    assert calls.UNARY_CAP_S == 30.0
    monkeypatch.setattr(calls, "UNARY_CAP_S", 0.2)

    async def act(request: Any, context: Any) -> Any:
        await asyncio.sleep(30)

    probe.emails.act = act
    started = time.monotonic()
    answer = await refusal(probe, tenant, timeout=20)
    assert (answer.code, answer.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE")
    assert time.monotonic() - started < 1.5


async def test_validation_names_every_field(probe: Probe, tenant: UUID) -> None:
    emails = [
        pb.NewEmail(request_id="x", id=str(uuid4()), recipient="nobody", sender="a@b.example", content_storage_key="k"),
        pb.NewEmail(request_id=str(uuid4()), id=str(uuid4()), recipient="a@b.example", sender="a@b.example"),
    ]
    request = pb.BatchCreateEmailsRequest(tenant_id=str(tenant), emails=emails)
    with pytest.raises(Refused) as caught:
        await probe.client.call(probe.stub.BatchCreateEmails, request)
    answer = caught.value.answer
    assert (answer.code, answer.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert set(answer.fields) == {
        "emails[0].request_id", "emails[0].recipient", "emails[1].content_storage_key", "content_claim_by",
    }  # fmt: skip


async def test_a_request_with_a_thousand_faults_gets_a_short_answer(probe: Probe, tenant: UUID) -> None:
    request = pb.BatchCreateEmailsRequest(tenant_id=str(tenant), emails=[pb.NewEmail()] * 1000)
    with pytest.raises(Refused) as caught:
        await probe.client.call(probe.stub.BatchCreateEmails, request)
    assert caught.value.answer.code is grpc.StatusCode.INVALID_ARGUMENT
    assert len(caught.value.answer.fields) == 20


async def test_a_nul_in_a_text_is_refused_by_the_name_of_its_field(probe: Probe, db: Database, tenant: UUID) -> None:
    async def create(request: pb.BatchCreateEmailsRequest, context: Any) -> Any:
        async with db.tenant(tenant) as connection:
            await connection.fetchval("SELECT $1::text[]", [email.subject for email in request.emails])

    probe.emails.create = create
    emails = [
        pb.NewEmail(
            request_id=str(uuid4()), id=str(uuid4()), recipient="a@b.example", sender="a@b.example",
            content_storage_key="k", subject=subject,
        )
        for subject in ("right", "wr\0ng")
    ]  # fmt: skip
    request = pb.BatchCreateEmailsRequest(tenant_id=str(tenant), emails=emails)
    request.content_claim_by.GetCurrentTime()
    with pytest.raises(Refused) as caught:
        await probe.client.call(probe.stub.BatchCreateEmails, request)
    answer = caught.value.answer
    assert (answer.code, answer.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert answer.fields == ["emails[1].subject"]


async def test_the_101st_call_of_a_tenant_is_refused_and_anothers_passes(probe: Probe, tenant: UUID) -> None:
    gate = asyncio.Event()

    async def act(request: Any, context: Any) -> pb.GetEmailResponse:
        if request.tenant_id == str(tenant):
            await gate.wait()
        return pb.GetEmailResponse()

    probe.emails.act = act
    hundred = [asyncio.create_task(probe.client.call(probe.stub.GetEmail, get(tenant))) for _ in range(100)]
    await settled(lambda: probe.in_flight == 100, within_s=5)
    answer = await refusal(probe, tenant)
    assert (answer.code, answer.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TENANT_QUOTA")
    assert answer.retry_after_s is not None
    assert answer.retry_after_s > 0
    await probe.client.call(probe.stub.GetEmail, get(uuid4()))
    gate.set()
    await asyncio.gather(*hundred)
    await probe.client.call(probe.stub.GetEmail, get(tenant))
    assert probe.in_flight == 0


async def test_a_refused_call_is_not_counted(probe: Probe, tenant: UUID) -> None:
    for _ in range(3):
        with pytest.raises(Refused):
            await probe.client.call(probe.stub.GetEmail, pb.GetEmailRequest(tenant_id=str(tenant), email_id="x"))
    probe.emails.act = raising(lambda: InvalidArgument("No.", field="email_id"))
    assert (await refusal(probe, tenant)).fields == ["email_id"]
    assert probe.in_flight == 0


async def test_a_cancelled_call_frees_everything(probe: Probe, db: Database, tenant: UUID) -> None:
    inside = asyncio.Event()

    async def act(request: Any, context: Any) -> Any:
        async with db.tenant(tenant) as connection:
            inside.set()
            await connection.execute("SELECT pg_sleep(20)")

    probe.emails.act = act
    call = asyncio.create_task(probe.client.call(probe.stub.GetEmail, get(tenant)))
    await asyncio.wait_for(inside.wait(), 5)
    await asyncio.sleep(0.05)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await settled(lambda: probe.in_flight == 0 and db.pool_size == db.pool_idle)
    async with db.tenant(tenant) as connection:
        assert await connection.fetchval("SELECT 1") == 1


async def test_a_message_above_the_limit_is_refused(probe: Probe, tenant: UUID) -> None:
    request = pb.GetEmailRequest(tenant_id=str(tenant), email_id="x" * (4 * 1024 * 1024 + 1))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await probe.stub.GetEmail(request, timeout=10)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def _declare(name: str, *, streams: bool, scope: bytes) -> str:
    """A service with one method, put into the descriptor pool; `scope` is the raw bytes of its method options."""
    package = f"test.chassis.{name}"
    file = descriptor_pb2.FileDescriptorProto(name=f"test/chassis/{name}.proto", package=package, syntax="proto3")
    file.dependency.append("penguin/common/v1/options.proto")
    file.message_type.add(name="Empty")
    method = file.service.add(name="Bare").method.add(
        name="Act", input_type=f".{package}.Empty", output_type=f".{package}.Empty", server_streaming=streams
    )
    method.options.MergeFromString(scope)
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
    return f"{package}.Bare"


@pytest.mark.parametrize(
    ("name", "streams", "options", "words"),
    [
        ("open", False, b"", "declares no authorization"),
        # Option 50001 (authorization) with scope "x" on a stream without option 50002.
        ("endless", True, bytes([0x8A, 0xB5, 0x18, 0x03, 0x0A, 0x01]) + b"x", "declares no lifetime"),
        # With scope "x", and open.
        ("ajar", False, bytes([0x8A, 0xB5, 0x18, 0x05, 0x0A, 0x01]) + b"x\x18\x01", "is open, and names a scope"),
    ],
)
async def test_a_server_with_an_undeclared_method_does_not_start(
    tokens: TokenFactory, name: str, streams: bool, options: bytes, words: str
) -> None:
    service = _declare(name, streams=streams, scope=options)
    settings = ServerSettings("oltp", "127.0.0.1:0", tokens.jwks_path)
    with pytest.raises(ContractError, match=words):
        async with serve(settings, [Registration(service, lambda servicer, server: None, None)]):
            pytest.fail("it serves")


async def test_the_call_in_hand_is_known_inside_and_forgotten_outside(probe: Probe, tenant: UUID) -> None:
    seen: list[calls.Call | None] = []

    async def act(request: Any, context: Any) -> pb.GetEmailResponse:
        seen.append(calls.current_call())
        return pb.GetEmailResponse()

    probe.emails.act = act
    await probe.client.call(probe.stub.GetEmail, get(tenant))
    assert seen[0] is not None
    assert seen[0].caller.tenant_id == tenant
    assert seen[0].method == "/penguin.oltp.v1.EmailService/GetEmail"
    assert calls.current_call() is None
    assert calls.remaining(7.0) == 7.0
