"""One page of a list by id: where it begins, how much of it is shown, and the token of the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar
from uuid import UUID

from penguin_chassis.paging import DEFAULT_PAGE_SIZE, next_token, page_size, page_start

FIRST = UUID(int=0)


class Identified(Protocol):
    """Has an id."""

    @property
    def id(self) -> UUID:
        """The key that pages are ordered by."""


X = TypeVar("X", bound=Identified)


class Page:
    """The page that a request asks for. A store is asked for `limit` rows after `after`: one more than are shown."""

    def __init__(self, request: Any, default_size: int = DEFAULT_PAGE_SIZE) -> None:
        self._request = request
        self.size = page_size(request.page_size, default_size)
        self.limit = self.size + 1
        self.after = _key(request)

    def shown(self, rows: Sequence[X]) -> Sequence[X]:
        """What of the rows is on this page."""
        return rows[: self.size]

    def next(self, rows: Sequence[X]) -> str:
        """The next page's token; empty on the last page."""
        return self.token(rows[self.size - 1].id) if len(rows) > self.size else ""

    def token(self, after: UUID | None) -> str:
        """The token of a page after this id."""
        return next_token(self._request, [str(after)]) if after is not None else ""


def _key(request: Any) -> UUID:
    return page_start(request, lambda key: UUID(*key), FIRST)
