"""The ledger of erasures: what was ordered to be erased, kept outside of every tier's database, so that it can be ordered
again after one of them is restored.

A folder of small files, one a record, numbered without a gap and only ever added. Each is sealed with AES-256-GCM under a
key that is kept elsewhere, and names the hash of the one before it: none can be changed, left out or put in unseen. A second
folder, on another disk, has the same files; a record counts as written once both have it on disk. It is written to the folder
first: a copy that is ahead means that the folder has lost something, and nothing is added until that is brought back. Nor is
anything where the copy has nothing at all: its disk may not be mounted, and what was written in its place would not be there again.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

ERASE = "erase"
# Storage keys that were found to be the subject's: once the ledger of emails is anonymised nothing else tells them.
KEYS = "keys"
# It was refused, and nothing was erased: not to be replayed.
WITHDRAWN = "withdrawn"
# Every tier has carried it out, or somebody answers for one whose part was skipped (the receipt says who); and every tier was told of
# that record. It has the digest of the receipts.
ERASED = "erased"
KNOWN = "known"
# The digest of receipts that were recorded in place of those: by a replay, which carries the order out again.
RECEIPTS = "receipts"

GENESIS = "0" * 64
KEY_BYTES = 32
_NAME = re.compile(r"^\d{12}\.erasure$")
_NONCE_BYTES = 12
# How long the first record of all may be on its way from the folder to the copy (seconds).
FIRST_COPIED_S = 1.0


class LedgerError(Exception):
    """The ledger cannot be written, or is not what was written; says where, never what stands there."""


class LedgerAwayError(LedgerError):
    """Its folder, or its copy's, cannot be read or written as things are, as when a disk is full or away: nothing is known to be
    wrong with what was written."""


@dataclass(frozen=True)
class Entry:
    """One record. Of its kind: `address` for an order, `keys` for what was found, `receipts` for what the tiers said of it (a digest,
    hex; none of what was written before there was one); `digest` is its hash in the chain (hex)."""

    kind: str
    erasure_id: UUID
    tenant_id: UUID
    subject: str
    at: datetime
    address: str = ""
    keys: tuple[str, ...] = ()
    part: int = 0
    sequence: int = 0
    digest: str = ""
    receipts: str = ""


def make_key(path: Path) -> bool:
    """Write a new key where there is none; whether there was none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_hex(KEY_BYTES) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return True


class ErasureLedger:
    """The ledger in its folders. Several processes may write to it. All of it blocks: call it in a thread."""

    def __init__(self, folder: Path, copy: Path, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise LedgerError(f"the ledger's key has {len(key)} bytes and not {KEY_BYTES}")
        self._folder = folder
        self._copy = copy
        self._key = key
        self._cipher = AESGCM(HKDF(SHA256(), KEY_BYTES, None, b"penguin erasure ledger").derive(key))
        self._entries: list[Entry] = []
        # Held while records are read: steps of sagas do so side by side, each in a thread.
        self._reading = threading.RLock()

    @classmethod
    def open(cls, folder: Path, copy: Path, key_path: Path) -> ErasureLedger:
        """The ledger under the key of a file; raises LedgerError."""
        try:
            key = bytes.fromhex(key_path.read_text().strip())
        except (OSError, ValueError):
            raise LedgerError("the ledger's key cannot be read") from None
        return cls(folder, copy, key)

    def subject_key(self, tenant_id: UUID) -> bytes:
        """The tenant's own key: the same address of two tenants has two HMACs."""
        return HKDF(SHA256(), KEY_BYTES, None, b"penguin subject " + tenant_id.bytes).derive(self._key)

    def subject(self, tenant_id: UUID, address: str) -> str:
        """What a person is known by: HMAC-SHA256 of the address in lower case (hex)."""
        return hmac.new(self.subject_key(tenant_id), address.lower().encode(), hashlib.sha256).hexdigest()

    def append(self, entry: Entry) -> Entry:
        """Add a record, durably in both folders; one of the same erasure, kind and part that stands is answered instead.

        Raises LedgerError. An order is withdrawn then; the rest may be tried again.
        """
        self._keep_to_the_copy(self.entries())  # before folders are made: one that is away must not be begun anew
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._copy.mkdir(parents=True, exist_ok=True)
            self._compare()
            written = self._add(entry)
            self._mend(self._folder, self._copy)
        except (OSError, LedgerAwayError) as error:
            may_stand = entry.kind == ERASE and not self._taken_back(entry)
            raise LedgerAwayError(
                f"the ledger cannot be written ({type(error).__name__})"
                + (": what was ordered may stand in it" if may_stand else "")
            ) from None
        if entry.kind == ERASE and any(e.kind == WITHDRAWN and e.erasure_id == entry.erasure_id for e in self._entries):
            raise LedgerError("the order was withdrawn")
        return written

    def entries(self) -> list[Entry]:
        """Every record in order, each held against its hash, its seal and the one before it. Raises LedgerError."""
        with self._reading:
            return self._read()

    def _read(self) -> list[Entry]:
        names = self._present()
        if len(names) < len(self._entries):
            raise LedgerError("records of the ledger are gone: `penguin erasure recover`")
        for number in range(len(self._entries) + 1, len(names) + 1):
            if names[number - 1] != _name(number):
                raise LedgerError(f"record {number} of the ledger is missing")
            head = self._entries[-1].digest if self._entries else GENESIS
            try:
                sealed = (self._folder / _name(number)).read_bytes()
            except OSError:
                raise LedgerAwayError(f"record {number} of the ledger cannot be read") from None
            self._entries.append(self._unsealed(number, head, sealed))
        return list(self._entries)

    def _present(self) -> list[str]:
        """Records that the folder has. One that lacks its newest, as its copy has them or as they were read, is no ledger that says
        so: its volume may not be mounted, and what stands in its place is empty. Raises LedgerAwayError."""
        try:
            copied = _names(self._copy)  # first: others may be writing, the folder before the copy
            stands = self._folder.exists()
            names = sorted(each.name for each in self._folder.glob("*.erasure")) if stands else []
        except OSError as error:
            raise LedgerAwayError(f"the ledger cannot be read ({type(error).__name__})") from None
        lacks = max(len(self._entries), len(copied)) - len(names)
        if lacks > 0 and names == [_name(number) for number in range(1, len(names) + 1)]:
            what = (
                f"{lacks} records of the ledger are gone, or its volume is" if stands else "the ledger's folder is away"
            )
            raise LedgerAwayError(f"{what}: bring it back, or `penguin erasure recover`")
        return names

    def verify(self) -> str:
        """Read all of it anew, and its copy; returns the chain's head. Raises LedgerError."""
        with self._reading:
            self._entries = []
            entries = self.entries()
        names = {_name(entry.sequence) for entry in entries}
        copied = {each.name for each in self._copy.glob("*.erasure")} if self._copy.exists() else set()
        if copied != names:
            raise LedgerError(
                f"ledger and copy differ: {len(names)} records, {len(copied)} copied: `penguin erasure recover`"
            )
        for name in sorted(names):
            if (self._copy / name).read_bytes() != (self._folder / name).read_bytes():
                raise LedgerError(f"the copy of {name} is another")
        return entries[-1].digest if entries else GENESIS

    def orders(self) -> list[tuple[Entry, list[str]]]:
        """Every erasure that stands, with the keys that were found for it."""
        orders: dict[UUID, Entry] = {}
        keys: dict[UUID, list[str]] = {}
        for entry in self.entries():
            if entry.kind == ERASE:
                orders[entry.erasure_id] = entry
            elif entry.kind == WITHDRAWN:
                orders.pop(entry.erasure_id, None)
            elif entry.kind == KEYS:
                keys.setdefault(entry.erasure_id, []).extend(entry.keys)
        return [(order, keys.get(order.erasure_id, [])) for order in orders.values()]

    def order(self, erasure_id: UUID) -> tuple[Entry, list[str]]:
        """One of them; raises LedgerError where there is none."""
        for order, keys in self.orders():
            if order.erasure_id == erasure_id:
                return order, keys
        raise LedgerError("the ledger has no such erasure")

    def carried_out(self, order: Entry, receipts: str) -> Entry:
        """Write that every tier has carried an order out, with the digest of receipts that are then recorded: they are never found
        without. Returns the one record of it that tiers are told of, whichever of the order's sagas comes first. Raises LedgerError."""
        first = self.append(replace(ended(order, ERASED), receipts=receipts))
        while receipts not in (bound := self.bound().get(order.erasure_id, [])):
            # Where another saga had the number first, the next one.
            self.append(replace(ended(order, RECEIPTS), receipts=receipts, part=len(bound)))
        return first

    def bound(self) -> dict[UUID, list[str]]:
        """The digests of receipts of each erasure that was carried out, the oldest first. One is empty where a version wrote it that
        made none. Raises LedgerError."""
        found: dict[UUID, list[str]] = {}
        for entry in self.entries():
            if entry.kind in {ERASED, RECEIPTS}:
                found.setdefault(entry.erasure_id, []).append(entry.receipts)
        return found

    def known(self) -> Entry | None:
        """The newest record of an erasure carried out that every tier was told of, as each keeps."""
        erased: dict[UUID, Entry] = {}
        newest: Entry | None = None
        for entry in self.entries():
            if entry.kind == ERASED:
                erased[entry.erasure_id] = entry
            elif entry.kind == KNOWN:
                told = erased[entry.erasure_id]
                newest = told if newest is None or told.sequence > newest.sequence else newest
        return newest

    def restore(self) -> int:
        """Bring back from the copy what the folder lacks, and the other way round, also where one has nothing; returns how many
        records. Nothing is where the two contradict each other. Raises LedgerError."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._copy.mkdir(parents=True, exist_ok=True)
            both = _names(self._copy) & _names(self._folder)
            if (other := self._contradicted(sorted(both))) is not None:
                raise LedgerError(f"the copy of {other} is another")
            count = self._mend(self._copy, self._folder) + self._mend(self._folder, self._copy)
        except OSError as error:
            raise LedgerError(f"the ledger cannot be written ({type(error).__name__})") from None
        self.verify()
        return count

    def _compare(self) -> None:
        """Raise LedgerError where the copy has what the folder lacks, or another newest record. The copy is looked at first:
        others may be writing, the folder before the copy."""
        copied = _names(self._copy)
        if lost := copied - _names(self._folder):
            raise LedgerError(f"the copy has {len(lost)} records that the ledger lacks: `penguin erasure recover`")
        if (other := self._contradicted(sorted(copied)[-1:])) is not None:
            raise LedgerError(f"the copy of {other} is another")

    def _contradicted(self, names: Sequence[str]) -> str | None:
        return next((n for n in names if (self._copy / n).read_bytes() != (self._folder / n).read_bytes()), None)

    def _keep_to_the_copy(self, entries: Sequence[Entry]) -> None:
        """Raise LedgerAwayError where the copy has none of the records that the folder has: a copy is begun with the first of them, and
        anew by `restore` alone. The first may be on its way."""
        ends = time.monotonic() + (FIRST_COPIED_S if len(entries) == 1 else 0.0)
        try:
            while entries and not _names(self._copy):
                if time.monotonic() >= ends:
                    raise LedgerAwayError(
                        f"the copy has none of the ledger's {len(entries)} records, or its volume is away:"
                        " bring it back, or `penguin erasure recover` to begin another"
                    )
                time.sleep(0.01)
        except OSError as error:
            raise LedgerAwayError(f"the ledger's copy cannot be read ({type(error).__name__})") from None

    def _add(self, entry: Entry, *, copied: bool = True) -> Entry:
        """Put the record into the folder, unless it stands; `copied`: where the copy has those before it."""
        while True:
            entries = self.entries()
            if copied:
                self._keep_to_the_copy(entries)
            standing = [e for e in entries if _identity(e) == _identity(entry)]
            written = standing[0] if standing else self._write(entry, entries[-1] if entries else None)
            if written is not None:
                return written

    def _taken_back(self, order: Entry) -> bool:
        """Withdraw an order that could not be kept in both folders, where it stands in one: whoever gave it is told that nothing
        was done. Whether it stands nowhere."""
        try:
            if all(_identity(e) != _identity(order) for e in self.entries()):
                return True
            self._add(ended(order, WITHDRAWN), copied=False)
        except (OSError, LedgerError):
            return False
        return True

    def _write(self, entry: Entry, last: Entry | None) -> Entry | None:
        """Seal and link the record in; None where another process had the number first."""
        number, head = (last.sequence + 1, last.digest) if last is not None else (1, GENESIS)
        sealed = self._sealed(number, head, entry)
        if not _put(self._folder, _name(number), sealed):
            return None
        return self.entries()[number - 1]

    def _mend(self, source: Path, target: Path) -> int:
        """Put into one folder what only the other has; returns how many records."""
        missing = sorted(_names(source) - _names(target))
        for name in missing:
            _put(target, name, (source / name).read_bytes())
        return len(missing)

    def _sealed(self, number: int, head: str, entry: Entry) -> bytes:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        plain = orjson.dumps(
            {"kind": entry.kind, "erasure_id": str(entry.erasure_id), "tenant_id": str(entry.tenant_id),
             "subject": entry.subject, "at": entry.at.isoformat(), "address": entry.address, "keys": entry.keys,
             "part": entry.part, "receipts": entry.receipts}
        )  # fmt: skip
        data = self._cipher.encrypt(nonce, plain, _bound(number, head))
        body = {"sequence": number, "previous": head, "nonce": nonce.hex(), "sealed": data.hex()}
        return orjson.dumps({**body, "hash": _hash(number, head, nonce, data)}) + b"\n"

    def _unsealed(self, number: int, head: str, sealed: bytes) -> Entry:
        try:
            body: dict[str, Any] = orjson.loads(sealed)
            nonce, data = bytes.fromhex(body["nonce"]), bytes.fromhex(body["sealed"])
            if (body["sequence"], body["previous"]) != (number, head):
                raise LedgerError(f"record {number} of the ledger does not follow the one before it")
            if body["hash"] != _hash(number, head, nonce, data):
                raise LedgerError(f"record {number} of the ledger was changed")
            told = orjson.loads(self._cipher.decrypt(nonce, data, _bound(number, head)))
            return Entry(
                told["kind"], UUID(told["erasure_id"]), UUID(told["tenant_id"]), told["subject"],
                datetime.fromisoformat(told["at"]).astimezone(UTC), told["address"], tuple(told["keys"]), told["part"],
                number, body["hash"], told.get("receipts", ""),
            )  # fmt: skip
        except InvalidTag:
            raise LedgerError(f"record {number} of the ledger is sealed with another key, or was changed") from None
        except (ValueError, KeyError, TypeError):
            raise LedgerError(f"record {number} of the ledger is damaged") from None


def _identity(entry: Entry) -> tuple[UUID, str, int]:
    return entry.erasure_id, entry.kind, entry.part


def _name(number: int) -> str:
    return f"{number:012d}.erasure"


def _bound(number: int, head: str) -> bytes:
    return f"{number}:{head}".encode()


def _hash(number: int, head: str, nonce: bytes, data: bytes) -> str:
    return hashlib.sha256(_bound(number, head) + nonce + data).hexdigest()


def _names(folder: Path) -> set[str]:
    """Records that a folder has."""
    return {each.name for each in folder.glob("*.erasure") if _NAME.match(each.name)}


def _put(folder: Path, name: str, data: bytes) -> bool:
    """Make the file, whole and on disk, unless it stands; whether it was made."""
    scratch = folder / f".{name}.{secrets.token_hex(8)}"
    try:
        with scratch.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(scratch, folder / name)
        except FileExistsError:
            return False
    finally:
        scratch.unlink(missing_ok=True)
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return True


def ended(order: Entry, kind: str) -> Entry:
    """A record of how an order ended, or of who was told."""
    return replace(order, kind=kind, address="", keys=(), part=0, sequence=0, digest="")


def numbered(entry: Entry, part: int, keys: tuple[str, ...]) -> Entry:
    """A record of keys that were found for an order."""
    return replace(entry, kind=KEYS, address="", keys=keys, part=part, sequence=0, digest="")
