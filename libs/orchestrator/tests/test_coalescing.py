"""Single sends that come together travel together, and each gets its own answer."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from libs.orchestrator.tests.stored import emails, outgoing

from penguin_chassis.pool import Database
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.coalescing import ITEM_BYTES, SendCoalescer
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.messages import OutcomeUnknownError, OutgoingEmail, Refusal, SendError, SendResult, Sent
from penguin_orchestrator.platform import Penguin
from penguin_testkit.faults import Break, Code, Faults

TENANT, OTHER = UUID(int=1), UUID(int=2)


def numbered(number: int) -> OutgoingEmail:
    return OutgoingEmail("a@b.example", "c@d.example", str(number))


class Batches:
    """What was sent, batch by batch; held until `open` is set, and failing where `failure` says so."""

    def __init__(self) -> None:
        self.sent: list[tuple[UUID, list[str]]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.failure: Callable[[], Exception] | None = None

    async def send(self, tenant_id: UUID, emails: Sequence[OutgoingEmail]) -> list[SendResult]:
        self.sent.append((tenant_id, [email.subject for email in emails]))
        await self.open.wait()
        if self.failure is not None:
            raise self.failure()
        return [
            Refusal(9, "NO", email.subject) if email.subject == "13" else Sent(uuid4(), email.subject, "k")
            for email in emails
        ]

    async def under_way(self, count: int) -> None:
        """So many have been sent."""
        async with asyncio.timeout(10):
            while len(self.sent) < count:  # noqa: ASYNC110 - what is tested is to know nothing of being watched
                await asyncio.sleep(0.001)


@pytest.fixture
def batches() -> Batches:
    return Batches()


async def test_sends_of_one_turn_travel_together_and_each_gets_its_own(batches: Batches) -> None:
    coalescer = SendCoalescer(batches.send)
    answers = await asyncio.gather(*(coalescer.send(TENANT, numbered(n)) for n in range(20)), return_exceptions=True)
    assert batches.sent == [(TENANT, [str(n) for n in range(20)])]
    for number, answer in enumerate(answers):
        if number == 13:
            assert isinstance(answer, SendError)
            assert answer.refusal.message == "13"
        else:
            assert isinstance(answer, Sent)
            assert answer.message_id == str(number)
    assert not coalescer._lines


async def turns_of(send: Coroutine[object, object, Sent]) -> int:
    """How many turns of the loop it takes."""
    loop, turns = asyncio.get_running_loop(), 0
    task = asyncio.ensure_future(send)

    def count() -> None:
        nonlocal turns
        turns += 1
        if not task.done():
            loop.call_soon(count)

    loop.call_soon(count)
    await task
    return turns


async def test_a_send_alone_waits_for_no_clock(batches: Batches) -> None:
    coalescer = SendCoalescer(batches.send)
    assert max([await turns_of(coalescer.send(TENANT, numbered(100 + n))) for n in range(50)]) < 10
    assert [len(subjects) for _, subjects in batches.sent] == [1] * 50


async def test_tenants_never_share_a_batch(batches: Batches) -> None:
    coalescer = SendCoalescer(batches.send)
    await asyncio.gather(*(coalescer.send((TENANT, OTHER)[n % 2], numbered(n)) for n in range(10)))
    assert sorted(batches.sent) == [(TENANT, list("02468")), (OTHER, list("13579"))]


async def test_what_comes_while_batches_are_under_way_gathers_for_the_next(batches: Batches) -> None:
    coalescer = SendCoalescer(batches.send, batch=10, parallel=2)
    batches.open.clear()
    sends = [asyncio.create_task(coalescer.send(TENANT, numbered(100 + n))) for n in range(45)]
    await batches.under_way(2)
    assert [len(subjects) for _, subjects in batches.sent] == [10, 10]
    batches.open.set()
    await asyncio.gather(*sends)
    assert [len(subjects) for _, subjects in batches.sent] == [10, 10, 10, 10, 5]
    assert [each for _, subjects in batches.sent for each in subjects] == [str(100 + n) for n in range(45)]


async def test_a_caller_that_gives_up_harms_nobody(batches: Batches) -> None:
    coalescer = SendCoalescer(batches.send)
    batches.open.clear()
    sends = [asyncio.create_task(coalescer.send(TENANT, numbered(n))) for n in range(5)]
    await batches.under_way(1)
    sends[2].cancel()
    batches.open.set()
    answers = await asyncio.gather(*sends, return_exceptions=True)
    assert [type(a) for a in answers] == [Sent, Sent, asyncio.CancelledError, Sent, Sent]
    assert not coalescer._lines


async def test_who_gives_up_before_departure_is_not_sent_and_leaves_no_line(batches: Batches) -> None:
    coalescer = SendCoalescer(batches.send)
    alone = asyncio.create_task(coalescer.send(TENANT, numbered(1)))
    await asyncio.sleep(0)
    alone.cancel()
    await asyncio.gather(alone, return_exceptions=True)
    await asyncio.sleep(0.01)
    assert batches.sent == []
    assert not coalescer._lines


async def test_a_backlog_is_bounded(batches: Batches) -> None:
    coalescer = SendCoalescer(batches.send, batch=2, parallel=1, limit=5)
    batches.open.clear()
    sends = [asyncio.create_task(coalescer.send(TENANT, numbered(n))) for n in range(2)]
    await batches.under_way(1)
    sends += [asyncio.create_task(coalescer.send(TENANT, numbered(n))) for n in range(5)]
    await asyncio.sleep(0.01)
    with pytest.raises(SendError) as caught:
        await coalescer.send(TENANT, numbered(99))
    assert (caught.value.refusal.reason, caught.value.refusal.message) == (
        "BACKLOG_FULL", "5 items of the tenant are here already.",
    )  # fmt: skip
    other = asyncio.create_task(coalescer.send(OTHER, numbered(1)))
    batches.open.set()
    assert isinstance(await other, Sent)
    assert all(isinstance(each, Sent) for each in await asyncio.gather(*sends))


async def test_what_is_held_for_all_tenants_is_bounded_by_its_bytes(batches: Batches) -> None:
    text = "x" * 1000
    limit = 5 * (len(text) + ITEM_BYTES)
    coalescer = SendCoalescer(batches.send, batch=2, parallel=1, limit_bytes=limit)

    def mail(size: int = len(text)) -> OutgoingEmail:
        return replace(numbered(1), text="x" * (size // 2), html="x" * (size - size // 2))

    batches.open.clear()
    # Two on their way, and three that wait.
    sends = [asyncio.create_task(coalescer.send(TENANT, mail())) for _ in range(5)]
    await batches.under_way(1)
    for tenant in (TENANT, OTHER):
        with pytest.raises(SendError, match=f"{limit} bytes of all tenants") as caught:
            await coalescer.send(tenant, mail(1))
        assert caught.value.refusal.reason == "BACKLOG_FULL"
    assert OTHER not in coalescer._lines
    # Room that a caller leaves who gives up before departure is there again once its turn has come.
    sends[4].cancel()
    batches.open.set()
    assert all(isinstance(each, Sent) for each in await asyncio.gather(*sends[:4]))
    # One larger than the bound goes alone.
    alone = asyncio.create_task(coalescer.send(TENANT, mail(2 * limit)))
    await asyncio.sleep(0)
    with pytest.raises(SendError):
        await coalescer.send(OTHER, mail(1))
    assert isinstance(await alone, Sent)
    await coalescer.close()
    assert coalescer._held == 0
    batches.failure = lambda: RuntimeError("broken")
    with pytest.raises(RuntimeError):
        await coalescer.send(TENANT, mail())
    assert coalescer._held == 0


async def test_a_failure_is_every_callers_and_the_next_batch_passes(batches: Batches) -> None:
    coalescer = SendCoalescer(batches.send)
    batches.failure = lambda: TierError("content", Code.UNAVAILABLE, "TIER_DB_DOWN", "away")
    answers = await asyncio.gather(*(coalescer.send(TENANT, numbered(n)) for n in range(4)), return_exceptions=True)
    assert [getattr(answer, "reason", "") for answer in answers] == ["TIER_DB_DOWN"] * 4
    batches.failure = None
    assert isinstance(await coalescer.send(TENANT, numbered(1)), Sent)


async def test_an_unknown_outcome_gives_each_caller_its_own_id(batches: Batches) -> None:
    coalescer = SendCoalescer(batches.send)
    ids = tuple(uuid4() for _ in range(3))
    cause = TierError("oltp", Code.DEADLINE_EXCEEDED, "DEADLINE", "")
    batches.failure = lambda: OutcomeUnknownError(ids, cause)
    answers = await asyncio.gather(*(coalescer.send(TENANT, numbered(n)) for n in range(3)), return_exceptions=True)
    assert [answer.request_ids for answer in answers if isinstance(answer, OutcomeUnknownError)] == [
        (each,) for each in ids
    ]


async def test_a_failure_that_nobody_waits_for_is_no_complaint(batches: Batches) -> None:
    """Every caller has gone: a failure left unread would be reported as never retrieved."""
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
    try:
        coalescer = SendCoalescer(batches.send)
        batches.open.clear()
        batches.failure = lambda: RuntimeError("broken")
        sends = [asyncio.create_task(coalescer.send(TENANT, numbered(n))) for n in range(3)]
        await batches.under_way(1)
        for each in sends:
            each.cancel()
        await asyncio.gather(*sends, return_exceptions=True)
        batches.open.set()
        await coalescer.close()
        del sends
        gc.collect()
        await asyncio.sleep(0)
        assert complaints == []
    finally:
        asyncio.get_running_loop().set_exception_handler(None)


async def test_closing_waits_for_all_that_came(batches: Batches) -> None:
    coalescer = SendCoalescer(batches.send, batch=5, parallel=1)
    sends = [asyncio.create_task(coalescer.send(TENANT, numbered(20 + n))) for n in range(23)]
    await asyncio.sleep(0)
    async with asyncio.timeout(2):
        await coalescer.close()
    assert len(batches.sent) == 5
    assert all(isinstance(each, Sent) for each in await asyncio.gather(*sends))
    assert not coalescer._lines
    assert not coalescer._tasks


async def test_over_the_tiers_many_single_sends_are_few_calls(
    tiers: dict[str, Tier], tenant: UUID, faults: dict[str, Faults], oltp_db: Database
) -> None:
    penguin = Penguin(tiers)
    sent = await asyncio.gather(*(penguin.send_email(tenant, outgoing()) for _ in range(150)))
    assert await emails(oltp_db, tenant) == {each.email_id: each.storage_key for each in sent}
    assert len(faults["oltp"].requests["BatchCreateEmails"]) <= 3
    bad = asyncio.gather(
        penguin.send_email(tenant, outgoing()),
        penguin.send_email(tenant, outgoing(recipient="nobody")),
        return_exceptions=True,
    )
    good, refused = await bad
    assert isinstance(good, Sent)
    assert isinstance(refused, SendError)
    assert refused.refusal.field == "recipient"
    await penguin.close()


async def test_over_the_tiers_an_unknown_outcome_can_be_asked_again(
    tiers: dict[str, Tier],
    tenant: UUID,
    faults: dict[str, Faults],
    oltp_db: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("penguin_orchestrator.sending.DEADLINE_S", 0.5)
    penguin = Penguin(tiers)
    coalescer = SendCoalescer(lambda t, e: penguin._sender.send_emails(t, e, deadline_s=0.5))
    faults["oltp"].breaks("BatchCreateEmails", *[Break(Code.UNAVAILABLE, acted=True)] * 20)
    mails = [outgoing() for _ in range(3)]
    started = time.monotonic()
    answers = await asyncio.gather(*(coalescer.send(tenant, each) for each in mails), return_exceptions=True)
    assert time.monotonic() - started < 3
    faults["oltp"].heal()
    ids = [answer.request_ids[0] for answer in answers if isinstance(answer, OutcomeUnknownError)]
    assert len(set(ids)) == 3
    again = [outgoing(recipient=mail.recipient, request_id=each) for mail, each in zip(mails, ids, strict=True)]
    assert all(isinstance(each, Sent) for each in await penguin.send_emails(tenant, again))
    assert len(await emails(oltp_db, tenant)) == 3
