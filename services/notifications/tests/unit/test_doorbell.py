"""Who hears a ring."""

from __future__ import annotations

from uuid import UUID

from penguin_notifications.operations.watching import Doorbell


async def test_a_tenants_listeners_hear_it_and_nobody_else() -> None:
    bell = Doorbell()
    with (
        bell.listening(UUID(int=1)) as first,
        bell.listening(UUID(int=1)) as second,
        bell.listening(UUID(int=2)) as other,
    ):
        bell.ring(UUID(int=1))
        assert (first.is_set(), second.is_set(), other.is_set()) == (True, True, False)
    bell.ring(UUID(int=1))
    assert bell._listening == {}
