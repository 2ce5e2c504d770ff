"""A steady load of sends: batches leave when their time comes, whatever has become of those before them."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from tests.chaos.recording import FAIL, INFO, OK, Operation, Recording

from penguin_orchestrator import keys
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.messages import OutcomeUnknownError, OutgoingEmail, Refusal
from penguin_orchestrator.platform import Penguin

BATCH = 10
# What nobody knows is asked again after so long, until somebody does (seconds).
AGAIN_S = 1.0
SEND_S = 15.0
# Batches on their way at once; beyond that the load waits, as a caller with a bounded pool does.
MOST = 100


@dataclass(frozen=True)
class Sender:
    """A tenant that sends. `policy`: what is done where nobody knows whether an email was handed over."""

    tenant: UUID
    policy: str


@dataclass
class Load:
    """Sends by several tenants in turn."""

    penguin: Penguin
    recording: Recording
    senders: list[Sender]
    rate: float
    chance: random.Random
    enough: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Send until it is enough, and until all that was sent has an answer."""
        clock = asyncio.get_running_loop().time
        began, batches = clock(), 0
        places = asyncio.Semaphore(MOST)
        async with asyncio.TaskGroup() as group:
            while not self.enough.is_set():
                await asyncio.sleep(max(0.0, began + batches * BATCH / self.rate - clock()))
                await places.acquire()
                task = group.create_task(self._send(self.senders[batches % len(self.senders)]))
                task.add_done_callback(lambda _: places.release())
                batches += 1

    async def _send(self, sender: Sender) -> None:
        emails = [_email(sender) for _ in range(BATCH)]
        operations = [
            self.recording.invoked(email.request_id or uuid4(), sender.tenant, email.recipient) for email in emails
        ]
        while not await self._asked(sender, emails, operations):  # noqa: ASYNC110 - each round asks the tiers
            await asyncio.sleep(AGAIN_S * self.chance.uniform(0.5, 1.5))

    async def _asked(self, sender: Sender, emails: list[OutgoingEmail], operations: list[Operation]) -> bool:
        """Ask once; whether it is known now what became of it."""
        try:
            results = await self.penguin.send_emails(sender.tenant, emails, deadline_s=SEND_S)
        except OutcomeUnknownError as error:
            self._all(operations, INFO, error.cause.reason)
            return False
        except TierError as error:
            # It speaks of this asking: what an earlier one brought about is as open as before.
            earlier = INFO in operations[0].words
            self._all(operations, INFO if earlier else FAIL, f"{error.tier} {error.reason}")
            return not earlier
        for operation, result in zip(operations, results, strict=True):
            if isinstance(result, Refusal):
                self.recording.answered(operation, FAIL, why=result.reason)
            else:
                self.recording.answered(operation, OK, email_id=result.email_id)
        return True

    def _all(self, operations: list[Operation], word: str, why: str) -> None:
        for operation in operations:
            self.recording.answered(operation, word, why=why)


def _email(sender: Sender) -> OutgoingEmail:
    recipient = f"{uuid4().hex}@{sender.tenant.hex}.example.com"
    return OutgoingEmail(
        recipient=recipient, sender="us@sender.example", subject="Hello",
        # Whom a text is for stands in it: it is held against whom it came to.
        text=f"Dear {recipient},\n" + "we wrote a line.\n" * 40, request_id=keys.new_id(),
    )  # fmt: skip
