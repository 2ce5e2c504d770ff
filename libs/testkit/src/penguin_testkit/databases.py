"""Databases for tests: one cluster per test process, one migrated template per tier, clones of it for those who need
a database of their own."""

from __future__ import annotations

import re
from dataclasses import replace
from uuid import uuid4

from penguin_chassis import migrate
from penguin_devstack.postgres import PostgresCluster
from penguin_devstack.roles import TierDatabase, TierPasswords, provision_tier

_NAME = re.compile(r"(?<=/)[^/]+$")


class Databases:
    """The tiers' databases within one cluster."""

    def __init__(self, cluster: PostgresCluster) -> None:
        self.cluster = cluster
        self._templates: dict[str, TierDatabase] = {}

    async def template(self, tier: str) -> TierDatabase:
        """The tier's migrated database, made once; never to be connected to while it is cloned."""
        if tier not in self._templates:
            database = await provision_tier(self.cluster, tier, TierPasswords.generate())
            migrations = migrate.load(f"penguin_{tier}.migrations")
            await migrate.migrate(database.owner_url, tier, migrations)
            self._templates[tier] = database
        return self._templates[tier]

    async def clone(self, tier: str) -> TierDatabase:
        """A fresh copy of the tier's migrated database, gone with the cluster."""
        template = await self.template(tier)
        name = f"{template.database}_{uuid4().hex[:12]}"
        await self.cluster.create_database(name, owner=f"{tier}_owner", template=template.database)
        urls = {
            field: _NAME.sub(name, getattr(template, field))
            for field in ("owner_url", "app_url", "maintenance_url", "readonly_url")
        }
        return replace(template, database=name, **urls)
