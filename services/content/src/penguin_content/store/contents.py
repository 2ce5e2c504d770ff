"""Contents' rows: put under fresh keys, claimed by their owner's word, deleted with what only they referred to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from penguin_chassis import barrier, subjects
from penguin_chassis.barrier import Step
from penguin_chassis.faults import AlreadyExists, FailedPrecondition, Fault
from penguin_chassis.pool import Connection, Database
from penguin_chassis.queries import load
from penguin_content.domain.contents import CLAIMED, QUARANTINED, UNCLAIMED, Attachment, Blob, Metadata, NewContent
from penguin_content.store import blobs as blob_store

sql = load("penguin_content.store", "contents.sql")

Asked = NewContent | Fault
Put = Metadata | Fault


@dataclass(frozen=True)
class Terms:
    """What holds for every content of one put."""

    claim_by: datetime
    generation: int
    at: datetime


@dataclass(frozen=True)
class Claimed:
    """How many of the keys are claimed now, and those the tenant does not have."""

    claimed: int
    missing: list[str]


@dataclass(frozen=True)
class Deleted:
    """How many contents went, and the keys left alone: those that are claimed, those not long enough in quarantine, and those
    that a legal hold keeps."""

    deleted: int
    claimed: list[str]
    spared: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Quarantined:
    """How many contents went into quarantine now, and the keys whose claim_by has not passed."""

    quarantined: int
    early: list[str]


@dataclass(frozen=True)
class Sparing:
    """What a deletion leaves alone: claimed contents, and those not in quarantine since before a moment."""

    claimed: bool = False
    quarantined_before: datetime | None = None


class ContentStore:
    """Contents of one database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def put_batch(
        self,
        tenant_id: UUID,
        items: Sequence[tuple[Step, Asked]],
        given: Mapping[str, Blob],
        terms: Terms,
        gate: Step | None,
    ) -> list[Put]:
        """Store contents, unclaimed, and of the `given` blobs (by hash) those they refer to. Answers in order."""

        async def write(fresh: list[tuple[Step, Asked]]) -> list[Put | None]:
            return await _write(connection, tenant_id, [asked for _, asked in fresh], given, terms)

        def foresee(asked: Asked) -> Metadata | None:
            return None if isinstance(asked, Fault) else _metadata(asked, terms)

        async with self._db.tenant(tenant_id) as connection:
            if gate is not None:
                await barrier.claim(connection, gate, object)
            return await barrier.once_each(connection, items, Metadata, write, foresee=foresee)

    async def claim(self, step: Step, keys: Sequence[str]) -> Claimed:
        """Make contents permanent; a quarantined one is revived."""
        async with self._db.tenant(step.tenant_id) as connection:
            if (done := await barrier.claim(connection, step, Claimed)) is not None:
                return done.reply
            rows = await connection.fetch(sql.hold, step.tenant_id, list(keys))
            present = {row["storage_key"] for row in rows}
            unclaimed = [row["storage_key"] for row in rows if row["state"] != CLAIMED or row["quarantined_at"]]
            if unclaimed:
                await connection.execute(sql.claim, step.tenant_id, unclaimed)
            missing = [key for key in dict.fromkeys(keys) if key not in present]
            return await barrier.record(connection, step, Claimed(len(present), missing), Claimed)

    async def quarantine(self, step: Step, keys: Sequence[str]) -> Quarantined:
        """Put contents into quarantine, claimed ones too; those that may yet be claimed in time stay out of it."""
        async with self._db.tenant(step.tenant_id) as connection:
            if (done := await barrier.claim(connection, step, Quarantined)) is not None:
                return done.reply
            rows = await connection.fetch(sql.hold, step.tenant_id, list(keys))
            outside = [row for row in rows if row["state"] != QUARANTINED or row["quarantined_at"] is None]
            early = [r["storage_key"] for r in outside if r["state"] == UNCLAIMED and r["claim_by"] > step.at]
            due = sorted({row["storage_key"] for row in outside}.difference(early))
            if due:
                await connection.execute(sql.quarantine, step.tenant_id, due, step.at)
            return await barrier.record(connection, step, Quarantined(len(due), early), Quarantined)

    async def delete(self, step: Step, keys: Sequence[str], sparing: Sparing) -> Deleted:
        """Remove contents, their attachments, and the blobs that nothing else of the tenant refers to."""
        tenant_id = step.tenant_id
        async with self._db.tenant(tenant_id) as connection:
            if (done := await barrier.claim(connection, step, Deleted)) is not None:
                return done.reply
            kept = await subjects.held_among(connection, tenant_id, keys)
            rows = await connection.fetch(sql.lock, tenant_id, list(keys))
            held = [row["storage_key"] for row in rows if row["storage_key"] in kept]
            claimed = [row["storage_key"] for row in rows if sparing.claimed and row["state"] == CLAIMED]
            early = [row["storage_key"] for row in rows if _too_early(row, sparing)]
            doomed = sorted({row["storage_key"] for row in rows}.difference(claimed, early, held))
            await remove(connection, tenant_id, doomed, step.at)
            return await barrier.record(connection, step, Deleted(len(doomed), claimed, early, held), Deleted)


async def remove(connection: Connection, tenant_id: UUID, doomed: Sequence[str], at: datetime) -> None:
    """Remove contents that are locked, and the blobs that only they referred to and no upload keeps alive at that time."""
    if doomed:
        referred = await connection.fetch(sql.blobs_of, tenant_id, list(doomed))
        await connection.execute(sql.delete, tenant_id, list(doomed))
        hashes = [row["blob_sha256"] for row in referred if row["blob_sha256"] is not None]
        await blob_store.remove_unreferenced(connection, tenant_id, hashes, at)


def _too_early(row: Any, sparing: Sparing) -> bool:
    before = sparing.quarantined_before
    if before is None:
        return False
    since = row["quarantined_at"]
    return row["state"] != QUARANTINED or since is None or since >= before


async def _write(
    connection: Connection, tenant_id: UUID, asked: Sequence[Asked], given: Mapping[str, Blob], terms: Terms
) -> list[Put | None]:
    wanted = {a.sha256 for c in asked if isinstance(c, NewContent) and not c.raw_source for a in c.attachments}
    held = await blob_store.hold(connection, tenant_id, wanted)
    sizes = {sha256: blob.raw_size for sha256, blob in given.items()} | held
    answers = _judged(asked, sizes)
    ready = [answer for answer in answers if isinstance(answer, NewContent)]
    inserted = await _insert(connection, tenant_id, ready, terms)
    written = [content for content in ready if content.storage_key in inserted]
    referred = {a.sha256 for c in written if not c.raw_source for a in c.attachments}
    new = {sha256: given[sha256] for sha256 in referred if sha256 not in held}
    await blob_store.keep(connection, tenant_id, new, terms.at)
    await _attach(connection, tenant_id, written)
    return [_answer(answer, first, inserted, terms) for answer, first in zip(answers, asked, strict=True)]


def _judged(asked: Sequence[Asked], sizes: Mapping[str, int]) -> list[Asked]:
    """Each content with its attachments' sizes known, or why it cannot be stored."""
    seen: set[str] = set()
    answers: list[Asked] = []
    for content in asked:
        if isinstance(content, NewContent):
            content = _sized(content, sizes) if content.storage_key not in seen else _taken()
        if isinstance(content, NewContent):
            seen.add(content.storage_key)
        answers.append(content)
    return answers


def _taken() -> AlreadyExists:
    return AlreadyExists(
        "Another content stands under this key.", field="storage_key", metadata={"resource": "content"}
    )


def _sized(content: NewContent, sizes: Mapping[str, int]) -> Asked:
    if content.raw_source or not content.attachments:
        return content
    attachments: list[Attachment] = []
    for attachment in content.attachments:
        size = sizes.get(attachment.sha256)
        if size is None:
            field = f"attachments[{attachment.position}].blob_sha256"
            return FailedPrecondition("No such blob is stored.", reason="BLOB_MISSING", field=field)
        attachments.append(replace(attachment, size=size) if attachment.size != size else attachment)
    return replace(content, attachments=tuple(attachments))


async def _insert(connection: Connection, tenant_id: UUID, contents: Sequence[NewContent], terms: Terms) -> set[str]:
    if not contents:
        return set()
    rows = await connection.fetch(
        sql.insert, tenant_id, terms.generation, terms.claim_by, terms.at,
        [c.storage_key for c in contents], [c.expire_at for c in contents],
        [bytes.fromhex(c.content_hash) for c in contents], [c.raw_source for c in contents],
        [c.body.codec for c in contents], [c.raw_size for c in contents], [len(c.attachments) for c in contents],
        ["\n".join(c.defects) for c in contents], [c.body.data for c in contents],
        [c.lists_people for c in contents],
    )  # fmt: skip
    return {row["storage_key"] for row in rows}


async def _attach(connection: Connection, tenant_id: UUID, contents: Sequence[NewContent]) -> None:
    rows = [
        (c.storage_key, c.raw_source, a.position, a.filename, a.mime_type, a.disposition, a.content_id, a.size,
         bytes.fromhex(a.sha256))
        for c in contents
        for a in c.attachments
    ]  # fmt: skip
    if rows:
        await connection.execute(sql.attach, tenant_id, *map(list, zip(*rows, strict=True)))


def _answer(content: Asked, asked: Asked, inserted: set[str], terms: Terms) -> Put | None:
    """Why a content was not stored, or what is known of it; None where it is just what was asked for."""
    if isinstance(content, Fault):
        return content
    if content.storage_key not in inserted:
        return _taken()
    return None if content is asked else _metadata(content, terms)


def _metadata(content: NewContent, terms: Terms) -> Metadata:
    return Metadata(
        storage_key=content.storage_key, state=UNCLAIMED, content_hash=content.content_hash,
        raw_size=content.raw_size, stored_size=len(content.body.data), codec=content.body.codec, created_at=terms.at,
        claim_by=terms.claim_by, expire_at=content.expire_at, raw_source=content.raw_source,
        generation=terms.generation, attachments=content.attachments, defects=tuple(content.defects),
    )  # fmt: skip
