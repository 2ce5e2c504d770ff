"""Handing over: each way it can end, and that what may have arrived is never tried again."""

from __future__ import annotations

import asyncio

import pytest
from libs.worker.tests.receivers import Mailbox, ScriptedSmtp

from penguin_devstack.ports import free_port
from penguin_worker.smtp import Handover, Outcome, ServerAwayError, SmtpPool, SmtpSettings

BODY = b"Subject: x\r\n\r\n.leading dot\r\nhello"


def pool_for(port: int, *, connections: int = 2, timeout_s: float = 0.5) -> SmtpPool:
    return SmtpPool(SmtpSettings("127.0.0.1", port, connections, timeout_s, timeout_s))


async def send(pool: SmtpPool, recipient: str = "ada@example.com", body: bytes = BODY) -> Handover:
    handover = await pool.hand_over("us@sender.example", recipient, lambda: body, lambda: True)
    assert handover is not None
    return handover


async def test_a_message_arrives_as_it_is_on_one_kept_connection(mailbox: Mailbox) -> None:
    async with pool_for(mailbox.port, connections=1) as pool:
        for _ in range(3):
            assert await send(pool) == Handover(Outcome.SENT, 250, "2.0.0")
        assert len(pool._idle) == 1
    received = mailbox.messages()
    assert [message.content for message in received] == [BODY + b"\r\n"] * 3
    assert {message.recipients for message in received} == {("ada@example.com",)}


@pytest.mark.parametrize(
    ("recipient", "expected"),
    [
        ("reject-550@example.com", Handover(Outcome.REJECTED, 550, "5.1.1")),
        ("tempfail-451@example.com", Handover(Outcome.DEFERRED, 451, "4.3.0")),
        ("reject-data-554@example.com", Handover(Outcome.REJECTED, 554)),
        ("tempfail-data-452@example.com", Handover(Outcome.DEFERRED, 452)),
        ("drop@example.com", Handover(Outcome.UNKNOWN)),
    ],
)
async def test_what_the_local_receiver_does_on_purpose(mailbox: Mailbox, recipient: str, expected: Handover) -> None:
    async with pool_for(mailbox.port, connections=1) as pool:
        assert await send(pool, recipient) == expected
        # The next one on the pool is not harmed by it.
        assert (await send(pool)).outcome is Outcome.SENT


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"MAIL": "550 5.7.1 not you"}, Handover(Outcome.REJECTED, 550, "5.7.1")),
        ({"MAIL": "451 4.7.1 later"}, Handover(Outcome.DEFERRED, 451, "4.7.1")),
        ({"RCPT": "421 4.3.2 closing"}, Handover(Outcome.DEFERRED, 421, "4.3.2", away=True)),
        ({"RCPT": None}, Handover(Outcome.DEFERRED, away=True)),
        ({"RCPT": "hang"}, Handover(Outcome.DEFERRED, away=True)),
        ({"DATA": "451 no"}, Handover(Outcome.DEFERRED, 451)),
        ({"DATA": "554 5.6.0 no"}, Handover(Outcome.REJECTED, 554, "5.6.0")),
        ({"DATA": "hang"}, Handover(Outcome.DEFERRED, away=True)),
        ({"END": "421 4.3.2 closing"}, Handover(Outcome.DEFERRED, 421, "4.3.2", away=True)),
        ({"END": "451 4.3.0 later"}, Handover(Outcome.DEFERRED, 451, "4.3.0")),
        ({"END": "550 5.7.1 spam"}, Handover(Outcome.REJECTED, 550, "5.7.1")),
        ({"END": None}, Handover(Outcome.UNKNOWN)),
        ({"END": "hang"}, Handover(Outcome.UNKNOWN)),
        ({"END": "what is this"}, Handover(Outcome.UNKNOWN)),
    ],
)
async def test_every_answer_has_its_outcome(
    scripted: ScriptedSmtp, answers: dict[str, str | None], expected: Handover
) -> None:
    scripted.answers = answers
    async with pool_for(scripted.port) as pool:
        assert await send(pool) == expected
        # Whatever happened: a message whose end was sent is sent once.
        assert scripted.complete <= 1
        scripted.answers = {}
        assert (await send(pool)).outcome is Outcome.SENT


async def test_a_connection_lost_before_the_final_dot_is_no_handover(scripted: ScriptedSmtp) -> None:
    scripted.drop_in_data = True
    async with pool_for(scripted.port) as pool:
        # More than the system buffers, so that the end of the message cannot have left.
        assert await send(pool, body=b"x" * 70 + b"\r\n" * 10_000_000) == Handover(Outcome.DEFERRED, away=True)
    assert scripted.complete == 0


async def test_nobody_listens(scripted: ScriptedSmtp) -> None:
    async with pool_for(free_port()) as pool:
        with pytest.raises(ServerAwayError):
            await pool.ready()
        assert await send(pool) == Handover(Outcome.DEFERRED, away=True)


@pytest.mark.parametrize("greeting", ["554 no service", "421 busy", None, "hang"])
async def test_a_server_that_does_not_greet_is_away(scripted: ScriptedSmtp, greeting: str | None) -> None:
    scripted.greeting = greeting
    async with pool_for(scripted.port) as pool:
        with pytest.raises(ServerAwayError):
            await pool.ready()
        scripted.greeting = "220 back"
        await pool.ready()
        assert (await send(pool)).outcome is Outcome.SENT


async def test_an_idle_connection_that_was_closed_is_replaced(scripted: ScriptedSmtp) -> None:
    async with pool_for(scripted.port, connections=1) as pool:
        assert (await send(pool)).outcome is Outcome.SENT
        scripted.once = {"MAIL": "421 4.4.2 idle too long"}
        assert (await send(pool)).outcome is Outcome.SENT
    assert scripted.connections == 2
    assert scripted.complete == 2


async def test_no_more_connections_than_allowed_and_no_start_out_of_turn(scripted: ScriptedSmtp) -> None:
    scripted.answers = {"END": "250 2.0.0 kept"}
    async with pool_for(scripted.port, connections=3) as pool:
        outcomes = await asyncio.gather(*(send(pool) for _ in range(30)))
        assert {handover.outcome for handover in outcomes} == {Outcome.SENT}
        assert scripted.connections <= 3
        assert await pool.hand_over("a@b.example", "c@d.example", lambda: BODY, lambda: False) is None
    assert scripted.complete == 30
