"""Resume tokens: whose they are, and what they say."""

from __future__ import annotations

import base64
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penguin_chassis.faults import InvalidArgument
from penguin_notifications.domain.feed import Place, Watcher, end_below, place_of, token_of

WATCHER = Watcher(UUID(int=1), UUID(int=2))


@settings(deadline=None)
@given(st.integers(0, 2**63 - 1), st.uuids())
def test_a_token_says_where_its_stream_stood(xid: int, identifier: UUID) -> None:
    token = token_of(WATCHER, Place(xid, identifier))
    assert place_of(WATCHER, token) == Place(xid, identifier)
    assert len(token) <= 200


@pytest.mark.parametrize(
    "other", [Watcher(UUID(int=1), None), Watcher(UUID(int=1), uuid4()), Watcher(uuid4(), UUID(int=2))]
)
def test_another_watchers_token_is_refused(other: Watcher) -> None:
    with pytest.raises(InvalidArgument) as refused:
        place_of(WATCHER, token_of(other, Place(1, UUID(int=1))))
    assert (refused.value.reason, refused.value.field) == ("INVALID_RESUME_TOKEN", "resume_token")


@settings(deadline=None)
@given(st.text(max_size=60))
def test_whatever_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        place_of(WATCHER, text)
    assert refused.value.reason == "INVALID_RESUME_TOKEN"


def test_a_transaction_no_database_has_is_refused() -> None:
    packed = WATCHER.binding + b"\xff" * 24
    with pytest.raises(InvalidArgument):
        place_of(WATCHER, base64.urlsafe_b64encode(packed).decode().rstrip("="))


def test_the_end_lies_before_the_next_transaction() -> None:
    end = end_below(100)
    assert (99, UUID(int=2**128 - 1)) == (end.xid, end.id)
    assert (100, UUID(int=0)) > (end.xid, end.id)
