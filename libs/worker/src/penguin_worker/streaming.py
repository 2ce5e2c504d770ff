"""One open stream of work: jobs come in lots, and words on them go out, each said once its answer has come.

It knows nothing of jobs beyond their columns, and opens no second stream: whoever holds it does.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import TierError, tier_error

# The contract's limit for a stream's life; whoever opens one leaves it earlier, in order (seconds).
LIFE_S = 300.0
# Until the tier has let us in; until words are answered, which is more than the tier takes for an act.
OPEN_S = 5.0
ANSWER_S = 12.0


class WorkStream:
    """A stream that the tier has let us into. `lots` is read by one task to its end; words may be said by several."""

    def __init__(self, tier: str, call: Any) -> None:
        self._tier = tier
        self._call = call
        self._numbers = itertools.count(1)
        self._unanswered: dict[int, asyncio.Future[pb.WorkAnswer | TierError]] = {}
        # gRPC takes one message at a time.
        self._writing = asyncio.Lock()
        self._ended = False
        # The tier leases nothing more here, for its process is about to end; and what is called when it says so.
        self.draining = False
        self.on_draining: Callable[[], object] | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, queue: Tier, start: pb.WorkStart) -> AsyncIterator[WorkStream]:
        """Start a stream, and wait until it is let in; raises TierError. Left in disorder, it is cancelled."""
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(OPEN_S):
                    talk = queue.conversation(queue.stub(QueueServiceStub).WorkJobs, timeout=LIFE_S)
                    call = await stack.enter_async_context(talk)
                    with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.UsageError):
                        await call.write(pb.WorkJobsRequest(start=start))
                    # The first reply is empty; where it does not come, reading tells why.
                    if await call.read() is grpc.aio.EOF:
                        raise ended(queue.name)
            except TimeoutError:
                raise TierError(
                    queue.name, grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE", "No answer in time."
                ) from None
            except grpc.aio.AioRpcError as error:
                raise tier_error(queue.name, error) from None
            stream = cls(queue.name, call)
            try:
                yield stream
            finally:
                stream._end(ended(queue.name))

    async def lots(self) -> AsyncIterator[pb.LeasedJobs]:
        """Jobs as they come, until either side has ended the stream in order; raises TierError where it breaks off."""
        ending = ended(self._tier)
        try:
            while (reply := await self._call.read()) is not grpc.aio.EOF:
                if reply.HasField("answer"):
                    self._answered(reply.answer)
                for lot in reply.jobs:
                    yield lot
        except grpc.aio.AioRpcError as error:
            # Told to those who wait for an answer, too: it may be their words that were refused.
            ending = tier_error(self._tier, error)
            raise ending from None
        except asyncio.CancelledError:
            # gRPC says so of a call that we gave up, too: then nobody has cancelled whoever reads.
            task = asyncio.current_task()
            if task is None or task.cancelling() or not self._call.cancelled():
                raise
            raise ending from None
        finally:
            self._end(ending)

    async def say(self, words: pb.WorkJobsRequest) -> pb.WorkAnswer:
        """Say something of jobs; returns once it is answered, and numbers the words for that.

        Raises TierError: with no answer the words may have been heard or not, and may be said again on another stream. An error
        that is of words is raised for those alone that it is of.
        """
        if self._ended:
            raise ended(self._tier)
        words.number = next(self._numbers)
        answering: asyncio.Future[pb.WorkAnswer | TierError] = asyncio.get_running_loop().create_future()
        self._unanswered[words.number] = answering
        try:
            async with asyncio.timeout(ANSWER_S):
                async with self._writing:
                    await self._call.write(words)
                answer = await answering
        except TimeoutError:
            # A stream that answers no more is no use to its jobs either.
            self._call.cancel()
            raise TierError(self._tier, grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE", "No answer in time.") from None
        except grpc.aio.AioRpcError as error:
            raise (tier_error(self._tier, error) if self._first(words.number) else ended(self._tier)) from None
        except (asyncio.InvalidStateError, grpc.aio.UsageError):
            # It has ended meanwhile; the reader is told why.
            raise ended(self._tier) from None
        finally:
            self._unanswered.pop(words.number, None)
        if isinstance(answer, TierError):
            raise answer
        return answer

    async def finish(self) -> None:
        """Say no more: the tier answers what it has heard, sends what it has leased for us, and ends the stream."""
        self._ended = True
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, grpc.aio.UsageError):
            async with self._writing:
                await self._call.done_writing()

    def _answered(self, answer: pb.WorkAnswer) -> None:
        if answer.draining and not self.draining:
            self.draining = True
            if self.on_draining is not None:
                self.on_draining()
        waiting = self._unanswered.get(answer.number)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    def _first(self, number: int) -> bool:
        # The tier takes words in their order, and answers each before it looks at the next: where it breaks off because of some,
        # it is the first ones that have no answer.
        return next((each for each, waiting in self._unanswered.items() if not waiting.done()), number) == number

    def _end(self, error: TierError) -> None:
        self._ended = True
        unanswered = [waiting for waiting in self._unanswered.values() if not waiting.done()]
        for n, waiting in enumerate(unanswered):
            waiting.set_result(ended(self._tier) if n else error)


def ended(tier: str) -> TierError:
    """What a stream that is no more is to whoever needs one: it may be tried on another."""
    return TierError(tier, grpc.StatusCode.UNAVAILABLE, "STREAM_ENDED", "The stream has ended.")
