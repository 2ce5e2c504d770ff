"""Checks of sends: refused without a trace, taken through the outbox, or launched again."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from uuid import UUID

from penguin_cli.drill import faults, judging
from penguin_cli.drill.acts import Sample, letter
from penguin_cli.drill.findings import RECOVERY_S
from penguin_cli.drill.probing import AWAY, REFUSED_S, Probe, Works
from penguin_cli.drill.stand import eventually
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.messages import OutcomeUnknownError, OutgoingEmail, Sent

# A send that is refused has tried for as long as the client is patient, and then undone what it had done (seconds).
SEND_REFUSED_S = 12.0


class NothingDone(Probe):
    """A send is refused, and leaves nothing behind: neither a body nor a row."""

    async def before(self) -> None:
        self._recipients: list[str] = []
        self._tried = 0

    async def during(self, seconds: float) -> None:
        took: list[float] = []
        ends = time.monotonic() + seconds
        while not took or time.monotonic() < ends:
            took.append(await self._refused())
        self._tried = len(took)
        self.tried(took)
        await self._nothing_left()

    def tried(self, took: list[float]) -> None:
        """Sends were tried, and took so long (seconds)."""
        self.judged(judging.sends_refused(took))

    async def _refused(self) -> float:
        sample, began = self.stand.refused, time.monotonic()
        email = letter(sample, self.scene.load.address())
        self._recipients.append(email.recipient)
        await self._expect_refusal(sample, email)
        took = time.monotonic() - began
        if took > SEND_REFUSED_S:
            self.wrong(f"a send was refused only after {took:.1f} s")
        return took

    async def _expect_refusal(self, sample: Sample, email: OutgoingEmail) -> None:
        try:
            (result,) = await self.penguin.send_emails(sample.tenant, [email], deadline_s=5)
        except TierError as error:
            if error.code not in AWAY:
                self.wrong(f"a send was refused with {error.code.name} {error.reason}")
        except OutcomeUnknownError:
            self.wrong("the outcome of a send is unknown, though the tier was known to be down")
        else:
            if isinstance(result, Sent):
                self.accepted(email.recipient)

    def accepted(self, recipient: str) -> None:
        """A send came through."""
        self.wrong("a send was accepted")

    async def _nothing_left(self) -> None:
        await self._undone(5.0)

    async def _undone(self, within_s: float) -> None:
        sql = "SELECT FROM content_objects WHERE tenant_id = $1 AND state <> 'claimed'"

        async def undone() -> bool:
            return not await self.stand.rows("content", sql, self.stand.refused.tenant)

        if await eventually(undone, within_s, 0.2) is None:
            self.wrong("the body of a refused send was left in Content")

    async def after(self) -> None:
        sql = "SELECT FROM emails WHERE recipient = ANY($1)"
        if found := await self.stand.rows("oltp", sql, self._recipients):
            self.wrong(f"{len(found)} refused sends stand in the ledger")
        received = await self.stand.received()
        if any(received[each] for each in self._recipients):
            self.wrong("a refused send arrived")


class SendsOrSheds(NothingDone):
    """A send is carried out where there is still room for it; one that is refused leaves nothing behind."""

    async def _refused(self) -> float:
        took = await super()._refused()
        await asyncio.sleep(0.2)
        return took

    async def before(self) -> None:
        await super().before()
        self._accepted: list[str] = []

    def tried(self, took: list[float]) -> None:
        """What came of them is told when all has come to rest."""

    def accepted(self, recipient: str) -> None:
        """It is to be sent, and no refused one."""
        self._recipients.remove(recipient)
        self._accepted.append(recipient)

    async def _nothing_left(self) -> None:
        """What was accepted can be claimed only when there is room again."""

    async def after(self) -> None:
        await super().after()
        await self._undone(RECOVERY_S + 10)

        async def arrived() -> bool:
            received = await self.stand.received()
            return all(received[each] for each in self._accepted)

        await eventually(arrived, RECOVERY_S, 0.5)
        self.judged(judging.sent_or_shed(self._tried, self._accepted, await self.stand.received()))


class BodyMissing(NothingDone):
    """A send is refused and leaves nothing in OLTP; emails are read without their bodies."""

    async def during(self, seconds: float) -> None:
        await self._read()
        await super().during(seconds)

    async def _read(self) -> None:
        began = time.monotonic()
        try:
            body = (await self.penguin.get_email(self.sample.tenant, self.sample.email)).body
        except TierError as error:
            self.wrong(f"an email could not be read: {error}")
            return
        took = time.monotonic() - began
        there = body.content is not None
        self.judged(judging.body_marked(body.unavailable, there=there, took_s=took, limit_s=2 * REFUSED_S))

    async def _nothing_left(self) -> None:
        sql = "SELECT FROM emails WHERE recipient = ANY($1)"
        if await self.stand.rows("oltp", sql, self._recipients):
            self.wrong("a refused send stands in the ledger")


class ByOutbox(Works):
    """Sends are accepted and wait; when what was away is back they arrive."""

    async def before(self) -> None:
        self._emails: list[UUID] = []

    async def during(self, seconds: float) -> None:
        first = len(self.scene.load.account.mails)
        await super().during(seconds)
        mails = self.scene.load.account.mails[first:]
        self._emails = [mail.email_id for mail in mails if mail.email_id is not None]
        (owed,) = await self.stand.rows("oltp", "SELECT count(*) AS n FROM outbox WHERE destination = 'queue'")
        waiting = len(self._emails) - len(await self._sent())
        # A full disk may have room for one email more; away, whoever carries them on lets all of them wait.
        must_wait = self.scene.row.fault != "fill_disk"
        self.judged(judging.waited_in_outbox(len(self._emails), waiting, owed["n"], must_wait=must_wait))

    async def after(self) -> None:
        async def sent() -> bool:
            return len(await self._sent()) == len(self._emails)

        took = await eventually(sent, RECOVERY_S + 10, 0.5)
        if took is None:
            self.wrong("what was accepted in the outage had not left in time")
        else:
            self.cell.said.append(f"{len(self._emails)} emails left within {took:.1f} s")

    async def _sent(self) -> list[Any]:
        return await self.stand.rows("oltp", "SELECT FROM emails WHERE id = ANY($1) AND status = 'sent'", self._emails)


class LaunchedOnce(Works):
    """A campaign whose launch died is launched again; every recipient gets one email."""

    async def after(self) -> None:
        scene = self.scene
        if scene.campaign is None:
            self.wrong("there was no launch")
            return
        launched = await self.penguin.campaigns.launch(self.sample.tenant, scene.campaign)
        sql = "SELECT FROM emails WHERE campaign_id = $1 AND status = 'sent'"

        async def sent() -> bool:
            return len(await self.stand.rows("oltp", sql, scene.campaign)) == len(scene.audience)

        if await eventually(sent, 2 * RECOVERY_S, 0.5) is None:
            self.wrong("not every recipient's email has left")
        self.cell.said.append(
            f"{scene.figures.get('created_before_kill', 0):g} emails before, {launched.created} after"
        )
        emails = await faults.created(self.stand, scene.campaign)
        self.judged(judging.launched_once(scene.audience, await self.stand.received(), emails))
