"""What stands around every method, once: from the outside the last-resort sanitiser, telemetry (in `telemetry`), and then
error translation, deadline, authentication, authorisation, admission and validation.

Idempotency is not here: its record is written by the store, in the transaction of the write.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Container
from typing import Any
from uuid import UUID

import grpc

from penguin_chassis import calls, errors, telemetry
from penguin_chassis.admission import TENANT_IN_FLIGHT, Admission
from penguin_chassis.auth import Verifier
from penguin_chassis.calls import Call, Caller
from penguin_chassis.clock import Now
from penguin_chassis.faults import DeadlineExceeded, FailedPrecondition, PermissionDenied, ResourceExhausted
from penguin_chassis.methods import MethodInfo
from penguin_chassis.mutations import step_of
from penguin_chassis.refusals import Refusals
from penguin_chassis.restoring import Incarnation
from penguin_chassis.settings import ServerSettings
from penguin_chassis.validation import refuse_unstorable, validate

log = logging.getLogger(__name__)

# How long a client may still read what it was sent when its stream's time is over (seconds); then the stream is cut off.
READ_S = 2.0

Context = grpc.aio.ServicerContext[Any, Any]
Handler = Any
Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Handler]]
# Who calls an open method, whatever token there may be.
NOBODY = Caller(actor="nobody", tenant_id=None, scopes=frozenset(), platform=False, methods=frozenset())


def _rewrap(handler: Handler, unary: Callable[..., Any], stream: Callable[..., Any]) -> Handler:
    """`handler` with another behaviour: a coroutine for one answer, an async generator for many."""
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    behavior = stream if handler.response_streaming else unary
    return make(
        behavior,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


def _behavior(handler: Handler) -> Callable[..., Any]:
    return handler.unary_unary or handler.stream_unary or handler.unary_stream or handler.stream_stream  # type: ignore[no-any-return]


class Sanitiser(grpc.aio.ServerInterceptor):
    """The outermost: whatever was not foreseen becomes INTERNAL with fixed text.

    grpc.aio would otherwise send the exception's own words to the client.
    """

    def __init__(self, domain: str) -> None:
        self._domain = domain

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Wrap the handler in a net."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        behavior = _behavior(handler)

        async def unary(request: Any, context: Context) -> Any:
            try:
                return await behavior(request, context)
            except grpc.aio.AbortError:
                raise
            except Exception as error:  # noqa: BLE001 - the net itself
                await errors.abort(context, error, self._domain)

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            try:
                replies = behavior(request, context)
                if inspect.isawaitable(replies):
                    await replies  # it writes its replies itself, as Health does
                    return
                async for reply in replies:
                    yield reply
            except grpc.aio.AbortError:
                raise
            except Exception as error:  # noqa: BLE001 - the net itself
                await errors.abort(context, error, self._domain)

        return _rewrap(handler, unary, stream)


class Gate(grpc.aio.ServerInterceptor):
    """Error translation, deadline, authentication, authorisation, admission and validation, in this order.

    One interceptor and not six: each method's wrapping is built once, and a call passes through plain functions.
    """

    def __init__(
        self,
        domain: str,
        methods: dict[str, MethodInfo],
        verifier: Verifier,
        now: Now | None = None,
        closed: Container[object] = (),
        incarnation: Incarnation | None = None,
        refusals: Refusals | None = None,
        places: int = ServerSettings.places,
    ) -> None:
        self._domain = domain
        self._methods = methods
        self._verifier = verifier
        self._now = now
        # Tenants that change nothing any more.
        self._closed = closed
        self._incarnation = incarnation or Incarnation()
        self._refusals = refusals or Refusals()
        self._wrapped: dict[str, Handler] = {}
        self._admission = Admission(places)
        # Streams are counted apart: a hundred that wait for something to happen must not shut the tenant's other calls out.
        self._streams: Counter[UUID] = Counter()
        # Those whose clients are told that their streams are cut off.
        self._cutting_off: set[asyncio.Task[None]] = set()

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Wrap the method's handler, once."""
        path = handler_call_details.method
        wrapped = self._wrapped.get(path)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            info = self._methods.get(path)
            if handler is None or info is None:
                return handler  # unknown to the contract, or one of the exempt services
            wrapped = self._wrapped[path] = self._wrap(handler, info)
        return wrapped

    def _wrap(self, handler: Handler, info: MethodInfo) -> Handler:
        behavior = _behavior(handler)

        async def unary(request: Any, context: Context) -> Any:
            async with self._answering(info, context), self._admitted(info, context) as call:
                try:
                    request = await self._accepted(request, info, call)
                    async with asyncio.timeout(call.remaining()):
                        return await behavior(request, context)
                except errors.UNSTORABLE:
                    if not info.client_streaming:
                        refuse_unstorable(request)
                    raise
                except Exception as error:
                    told = await self._refusals.final(call.claimed[0], error) if call.claimed else error
                    if told is not error:
                        raise told from error
                    raise

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            async with self._answering(info, context), self._admitted(info, context) as call:
                request = await self._accepted(request, info, call)
                async for reply in _until(behavior(request, context), call, self._cutter(context)):
                    yield reply

        return _rewrap(handler, unary, stream)

    def _cutter(self, context: Context) -> Callable[[], None]:
        """What ends the stream in hand though its client does not read: a generator stands still while gRPC writes its reply, so
        the task that writes is cancelled. A status waits behind what has been sent, for a client that reads after all."""
        writing = asyncio.current_task()

        async def tell() -> None:
            with contextlib.suppress(Exception):
                await errors.abort(context, DeadlineExceeded(), self._domain)

        def cut_off() -> None:
            telling = asyncio.create_task(tell())
            self._cutting_off.add(telling)
            telling.add_done_callback(self._cutting_off.discard)
            if writing is not None:
                writing.cancel()

        return cut_off

    @contextlib.asynccontextmanager
    async def _answering(self, info: MethodInfo, context: Context) -> AsyncIterator[None]:
        """Count the call by its outcome, and translate whatever goes wrong in it."""
        outcome = "OK"
        started = time.perf_counter()
        try:
            yield
        except grpc.aio.AbortError:
            outcome = "ABORTED"
            raise
        except (asyncio.CancelledError, GeneratorExit):
            outcome = "CANCELLED"
            raise
        except Exception as error:  # noqa: BLE001 - everything is translated
            outcome = type(error).__name__
            await errors.abort(context, error, self._domain)
        finally:
            telemetry.record_call(info.path, outcome, time.perf_counter() - started)

    @contextlib.asynccontextmanager
    async def _admitted(self, info: MethodInfo, context: Context) -> AsyncIterator[Call]:
        cap = float(info.max_lifetime_s) or calls.UNARY_CAP_S
        asked = context.time_remaining()
        seconds = cap if asked is None else min(asked, cap)
        if seconds <= 0:
            raise DeadlineExceeded
        if info.open:
            caller = NOBODY
        else:
            caller = self._verifier.caller(_authorization(context))
            self._authorise(info, caller)
        call = Call(info.path, caller, time.monotonic() + seconds, now=self._now, life=self._incarnation)
        tenant, streams = caller.tenant_id, info.max_lifetime_s > 0
        if tenant is not None:
            await self._enter(tenant, call, streams=streams)
        try:
            token = calls.enter(call)
            try:
                yield call
            finally:
                with contextlib.suppress(ValueError):  # a stream's generator may be closed in another context
                    calls.leave(token)
        finally:
            if tenant is not None:
                self._leave(tenant, streams=streams)

    async def _enter(self, tenant: UUID, call: Call, *, streams: bool) -> None:
        if not streams:
            place = self._admission.enter(tenant)
            if place is not None:
                await self._admission.wait(tenant, place, call.remaining())
        elif self._streams[tenant] >= TENANT_IN_FLIGHT:
            raise ResourceExhausted(f"The tenant has {TENANT_IN_FLIGHT} streams under way here.", retry_after_s=1.0)
        else:
            self._streams[tenant] += 1

    def _leave(self, tenant: UUID, *, streams: bool) -> None:
        if not streams:
            self._admission.leave(tenant)
            return
        self._streams[tenant] -= 1
        if not self._streams[tenant]:
            del self._streams[tenant]

    @staticmethod
    def _authorise(info: MethodInfo, caller: Caller) -> None:
        narrowed = caller.platform and info.path in caller.methods
        if info.platform and not narrowed:
            raise PermissionDenied("The method is for platform tokens that name it.", reason="PLATFORM_ONLY")
        if info.scope not in caller.scopes:
            raise PermissionDenied(f"The token lacks the scope {info.scope}.", metadata={"scope": info.scope})
        if caller.platform and not narrowed:
            raise PermissionDenied("The platform token does not name this method.", reason="PLATFORM_ONLY")

    async def _accepted(self, request: Any, info: MethodInfo, call: Call) -> Any:
        """The request once it is checked, or the stream of them, each checked as it comes."""
        await self._look(info, call)
        if info.client_streaming:
            return self._checked_stream(request, info, call)
        self._check(request, info, call)
        return request

    async def _look(self, info: MethodInfo, call: Call) -> None:
        """Before the first call that this matters to: whether the database that is served was restored."""
        if not self._incarnation.known and _waits_for_replay(info, call.caller):
            await self._incarnation.look()

    def _check(self, request: Any, info: MethodInfo, call: Call) -> None:
        """Validate one message, and hold its tenant against the token's and the closed ones."""
        caller = call.caller
        if _waits_for_replay(info, caller):
            self._incarnation.admit(caller.tenant_id)
        if info.has_tenant and not caller.platform:
            if hasattr(request, "tenant_id"):
                _same_tenant(request.tenant_id, caller)
            elif request.HasField("start"):
                _same_tenant(request.start.tenant_id, caller)
        validate(request)
        if info.changes and caller.tenant_id in self._closed:
            if info.saga_step and request.HasField("saga_step") and (step := step_of(request)).refusal_stands:
                # A process that does not know yet would let a copy of it in, and so would all once it is opened again.
                call.claimed.append(step)
            raise FailedPrecondition("The tenant is closed.", reason="TENANT_CLOSED")

    async def _checked_stream(self, messages: Any, info: MethodInfo, call: Call) -> AsyncIterator[Any]:
        async for message in messages:
            self._check(message, info, call)
            if call.caller.tenant_id is not None:
                await self._admission.turn(call.caller.tenant_id, call.remaining())
            yield message


def _waits_for_replay(info: MethodInfo, caller: Caller) -> bool:
    """Whether the call is not let in while erasures are to be replayed into the database."""
    return info.not_while_restoring or (caller.tenant_id is not None and not info.while_restoring)


def _same_tenant(named: str, caller: Caller) -> None:
    try:
        same = UUID(named) == caller.tenant_id
    except ValueError:
        return  # not a UUID: validation says so
    if not same:
        raise PermissionDenied(
            "The request names another tenant than the token.", reason="TENANT_MISMATCH", field="tenant_id"
        )


def _authorization(context: Context) -> str | None:
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            return value if isinstance(value, str) else value.decode("latin-1")
    return None


async def _until(replies: AsyncIterator[Any], call: Call, cut_off: Callable[[], None]) -> AsyncIterator[Any]:
    """Replies until the call's time is over, which is how a stream ends in good order. One whose client does not read is not
    asked for more: it is cut off."""
    iterator = aiter(replies)
    sending = False

    def late() -> None:
        if sending:
            cut_off()

    overdue = asyncio.get_running_loop().call_later(call.remaining() + READ_S, late)
    try:
        while call.remaining() > 0:
            try:
                async with asyncio.timeout(call.remaining()):
                    reply = await anext(iterator)
            except StopAsyncIteration:
                return
            except TimeoutError:
                if call.remaining() > 0:
                    raise
                return
            sending = True
            yield reply
            sending = False
    finally:
        overdue.cancel()
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()
