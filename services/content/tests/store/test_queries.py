"""Every named query against the migrated schema, and the plans that must not depend on statistics."""

from __future__ import annotations

import random
from uuid import UUID, uuid4

import asyncpg
import pytest
from services.content.tests.conftest import running
from services.content.tests.rows import attached, new_content, put_request

from penguin.content.v1.content_service_pb2_grpc import ContentServiceStub
from penguin_chassis.pool import Database, database
from penguin_chassis.settings import PoolSettings
from penguin_content.store import blobs, contents, duties, reading, subjects
from penguin_testkit.databases import Databases
from penguin_testkit.tokens import TokenFactory

FILES = {
    "blobs": blobs.sql,
    "contents": contents.sql,
    "duties": duties.sql,
    "reading": reading.sql,
    "subjects": subjects.sql,
}
QUERIES = {f"{file}.{name}": text for file, queries in FILES.items() for name, text in queries.names().items()}
# By keys, by hashes: only ever through the primary key.
KEYED = {
    "contents.claim": "storage_key", "contents.hold": "storage_key", "contents.lock": "storage_key",
    "contents.blobs_of": "storage_key", "contents.delete": "storage_key", "reading.objects": "storage_key",
    "reading.attachments": "storage_key", "blobs.hold": "sha256", "blobs.read": "sha256",
    "blobs.remove_unreferenced": "sha256",
}  # fmt: skip


@pytest.mark.parametrize("name", QUERIES)
async def test_a_named_query_fits_the_schema(db: Database, tenant: UUID, name: str) -> None:
    async with db.tenant(tenant) as connection:
        statement = await connection.prepare(QUERIES[name])
        assert statement.get_query() == QUERIES[name]


@pytest.mark.parametrize("analysed", [False, True])
async def test_keys_are_looked_up_by_their_index(
    databases: Databases, tokens: TokenFactory, tenant: UUID, analysed: bool
) -> None:
    # A database of its own: where other tests hung thousands of attachments on few keys, a scan of all of them is right.
    urls = await databases.clone("content")
    async with running(urls, tokens) as content:
        stub = ContentServiceStub(content.channel)
        for _ in range(5):
            items = [new_content(attachments=[attached(random.randbytes(3_000))]) for _ in range(200)]
            await content.call(stub.BatchPutContents, put_request(tenant, *items))
    if analysed:
        owner = await asyncpg.connect(urls.owner_url)
        await owner.execute("ANALYZE")
        await owner.close()
    async with (
        database(PoolSettings(urls.app_url, urls.maintenance_url, max_size=2)) as db,
        db.tenant(tenant) as connection,
    ):
        await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        for name, column in KEYED.items():
            await connection.execute(f"PREPARE keyed AS {QUERIES[name]}")
            values = "ARRAY['k']" if column == "storage_key" else "ARRAY['\\x00'::bytea]"
            rest = {"reading.objects": ", true, false", "blobs.remove_unreferenced": ", now()"}.get(name, "")
            plan = await connection.fetch(f"EXPLAIN EXECUTE keyed ('{uuid4()}', {values}{rest})")
            text = "\n".join(row[0] for row in plan)
            assert f"({column} = ANY ($2))" in text.partition("Index Cond: ")[2].split("\n")[0], f"{name}\n{text}"
            assert "Seq Scan" not in text, f"{name}\n{text}"
            await connection.execute("DEALLOCATE keyed")
