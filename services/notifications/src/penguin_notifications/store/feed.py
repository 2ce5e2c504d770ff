"""Reading the feed: what was committed since a place, with none missed.

Each look is one short transaction; nothing is held between looks.
"""

from __future__ import annotations

from datetime import datetime

from penguin_chassis.pool import Database
from penguin_chassis.queries import load
from penguin_notifications.domain.feed import News, Place, Watcher, end_below, invalid_token
from penguin_notifications.domain.notifications import Notification

sql = load("penguin_notifications.store", "feed.sql")

# Notifications per look.
LIMIT = 200


class FeedStore:
    """The feed of one database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def end(self, watcher: Watcher) -> Place:
        """The place after everything there is now."""
        async with self._db.tenant(watcher.tenant_id) as connection:
            return end_below(await connection.fetchval(sql.head))

    async def news(self, watcher: Watcher, since: Place, at: datetime) -> News:
        """What came after `since`, at most 200 at once.

        Raises InvalidArgument (INVALID_RESUME_TOKEN) for a place this database has not come to: it was restored to an
        earlier state, and nobody can say what was missed.
        """
        async with self._db.tenant(watcher.tenant_id) as connection:
            rows = await connection.fetch(sql.news, watcher.tenant_id, watcher.user_id, at, since.xid, since.id, LIMIT)
        below = rows[0]["below"]
        if since.xid >= below:
            raise invalid_token()
        found: list[tuple[Notification, Place]] = []
        for row in rows:
            if row["id"] is not None:
                columns = {k: v for k, v in row.items() if k not in {"below", "feed_xid"}}
                found.append((Notification(**columns), Place(row["feed_xid"], row["id"])))
        more = len(found) == LIMIT
        return News(tuple(found), found[-1][1] if more else end_below(below), more)
