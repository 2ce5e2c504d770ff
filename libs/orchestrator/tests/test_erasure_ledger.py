"""The ledger of erasures: nothing of it can be changed, left out, put in or lost unseen."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import orjson
import pytest

from penguin_orchestrator import erasure_ledger
from penguin_orchestrator.erasure_ledger import (
    ERASE,
    ERASED,
    GENESIS,
    RECEIPTS,
    WITHDRAWN,
    Entry,
    ErasureLedger,
    LedgerAwayError,
    LedgerError,
    ended,
    make_key,
    numbered,
)

KEY = b"k" * 32
TENANT = UUID(int=7)


class KilledError(BaseException):
    """The process was ended."""


def order(ledger: ErasureLedger, address: str = "ada@example.com") -> Entry:
    return Entry(ERASE, uuid4(), TENANT, ledger.subject(TENANT, address), datetime.now(UTC), address)


@pytest.fixture
def ledger(tmp_path: Path) -> ErasureLedger:
    return ErasureLedger(tmp_path / "ledger", tmp_path / "copy", KEY)


def again(tmp_path: Path, key: bytes = KEY) -> ErasureLedger:
    """The ledger as another process has it."""
    return ErasureLedger(tmp_path / "ledger", tmp_path / "copy", key)


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_what_is_written_is_read_by_another_process(ledger: ErasureLedger, tmp_path: Path) -> None:
    first = ledger.append(order(ledger))
    keys = ledger.append(numbered(first, 0, ("a", "b")))
    refused = ledger.append(order(ledger, "bob@example.com"))
    ledger.append(Entry(WITHDRAWN, refused.erasure_id, TENANT, refused.subject, refused.at))
    other = again(tmp_path)
    assert other.orders() == [(first, ["a", "b"])]
    assert other.order(first.erasure_id) == (first, ["a", "b"])
    assert other.verify() == other.entries()[-1].digest
    assert (first.sequence, keys.sequence) == (1, 2)
    assert ErasureLedger(tmp_path / "none", tmp_path / "none", KEY).verify() == GENESIS
    with pytest.raises(LedgerError, match="no such erasure"):
        other.order(refused.erasure_id)


def test_the_same_record_is_written_once(ledger: ErasureLedger, tmp_path: Path) -> None:
    entry = order(ledger)
    assert again(tmp_path).append(entry) == ledger.append(entry)
    assert len(files(tmp_path / "ledger")) == len(files(tmp_path / "copy")) == 1


def test_threads_that_read_it_for_the_first_time_read_the_same(
    ledger: ErasureLedger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the steps of an erasure do side by side, in a process that goes on with it."""
    monkeypatch.setattr("penguin_orchestrator.erasure_ledger.os.fsync", lambda _: None)
    written = [ledger.append(order(ledger)) for _ in range(40)]
    with ThreadPoolExecutor(4) as threads:
        for _ in range(10):
            other = again(tmp_path)
            reads = [threads.submit(read) for read in (other.entries, other.verify, other.entries, other.entries)]
            for read in reads:
                assert read.result() in (written, written[-1].digest)
            assert other.entries() == written


def test_nothing_of_a_person_stands_there_in_the_clear(ledger: ErasureLedger, tmp_path: Path) -> None:
    # Letters that no hexadecimal digit is: what is sealed is written in those, and "ada" came up by chance.
    ledger.append(order(ledger, "zworykin@example.com"))
    for path in (*files(tmp_path / "ledger"), *files(tmp_path / "copy")):
        assert b"zworykin" not in path.read_bytes().lower()
        assert str(TENANT).encode() not in path.read_bytes()


def test_a_person_has_one_hmac_in_a_tenant_and_another_elsewhere(ledger: ErasureLedger) -> None:
    known = ledger.subject(TENANT, "Ada@Example.com")
    assert known == ledger.subject(TENANT, "ada@example.com")
    assert known != ledger.subject(UUID(int=8), "ada@example.com")
    assert known != ledger.subject(TENANT, "bob@example.com")


def test_many_writers_make_one_chain(tmp_path: Path) -> None:
    def write(_: int) -> Entry:
        mine = again(tmp_path)
        return mine.append(order(mine))

    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(write, range(40)))
    assert sorted(entry.sequence for entry in written) == list(range(1, 41))
    again(tmp_path).verify()


def test_many_threads_read_it_at_once(ledger: ErasureLedger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(8):
        ledger.append(order(ledger))
    read = Path.read_bytes

    def slowly(path: Path) -> bytes:
        time.sleep(0.001)  # others come between
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", slowly)
    mine = again(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        assert [len(each) for each in pool.map(lambda _: mine.entries(), range(8))] == [8] * 8
    assert mine.verify() == ledger.entries()[-1].digest


def test_what_is_bound_to_an_order_is_every_digest_that_its_sagas_told(ledger: ErasureLedger, tmp_path: Path) -> None:
    first = ledger.append(order(ledger))
    done = ledger.carried_out(first, "a" * 64)
    for digest in ("a", "b", "c", "b", "a"):
        assert again(tmp_path).carried_out(first, digest * 64) == done, "tiers are told of one record"
    assert again(tmp_path).bound() == {first.erasure_id: [each * 64 for each in "abc"]}
    assert [entry.kind for entry in ledger.entries()] == [ERASE, ERASED, RECEIPTS, RECEIPTS]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: again(tmp_path).carried_out(first, f"{n:064}"), range(16)))
    assert sorted(again(tmp_path).bound()[first.erasure_id][3:]) == [f"{n:064}" for n in range(16)]
    again(tmp_path).verify()


def test_a_record_from_before_digests_of_receipts_is_read(
    ledger: ErasureLedger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dumps = orjson.dumps
    with monkeypatch.context() as before:
        # It is sealed: the field is left out as the record is made.
        before.setattr(orjson, "dumps", lambda body: dumps({k: v for k, v in body.items() if k != "receipts"}))
        first = ledger.append(order(ledger))
        ledger.append(ended(first, ERASED))
    other = again(tmp_path)
    assert (other.orders(), other.bound()) == ([(first, [])], {first.erasure_id: [""]})
    other.carried_out(first, "a" * 64)
    assert other.bound() == {first.erasure_id: ["", "a" * 64]}


def test_whoever_changes_a_record_is_found_out(ledger: ErasureLedger, tmp_path: Path) -> None:
    for _ in range(3):
        ledger.append(order(ledger))
    path = files(tmp_path / "ledger")[1]
    whole = path.read_bytes()
    body = orjson.loads(whole)
    for change, said in (
        ({"sealed": f"{int(body['sealed'], 16) ^ 1:0{len(body['sealed'])}x}"}, "changed"),
        ({"previous": "0" * 64}, "does not follow"),
        ({"sequence": 3}, "does not follow"),
        ({"hash": "0" * 64}, "changed"),
        ({"nonce": 7}, "damaged"),
    ):
        path.write_bytes(orjson.dumps(body | change))
        with pytest.raises(LedgerError, match=said):
            again(tmp_path).entries()
    path.write_bytes(b"")
    with pytest.raises(LedgerError, match="damaged"):
        again(tmp_path).entries()
    path.write_bytes(whole)
    with pytest.raises(LedgerError, match="another key"):
        again(tmp_path, b"x" * 32).entries()
    path.unlink()
    with pytest.raises(LedgerError, match="record 2 of the ledger is missing"):
        again(tmp_path).entries()


def test_what_is_lost_comes_back_from_the_copy(ledger: ErasureLedger, tmp_path: Path) -> None:
    for _ in range(3):
        ledger.append(order(ledger))
    files(tmp_path / "ledger")[-1].unlink()
    for read in (ledger.entries, again(tmp_path).verify):
        with pytest.raises(LedgerError, match="1 records of the ledger are gone"):
            read()
    assert again(tmp_path).restore() == 1
    assert len(again(tmp_path).orders()) == 3
    files(tmp_path / "copy")[0].write_bytes(b"other")
    with pytest.raises(LedgerError, match="is another"):
        again(tmp_path).verify()


def test_a_copy_that_was_away_is_made_up_for(ledger: ErasureLedger, tmp_path: Path) -> None:
    (tmp_path / "copy").write_text("no folder")
    entry = order(ledger)
    with pytest.raises(LedgerError, match="cannot be written"):
        ledger.append(entry)
    (tmp_path / "copy").unlink()
    ledger.append(replace(entry))
    assert [p.name for p in files(tmp_path / "copy")] == [p.name for p in files(tmp_path / "ledger")]
    ledger.verify()


def test_a_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "erasures"
    assert make_key(path)
    made = path.read_text()
    assert not make_key(path)
    assert path.read_text() == made
    assert path.stat().st_mode & 0o077 == 0
    ErasureLedger.open(tmp_path / "ledger", tmp_path / "copy", path).verify()
    path.write_text("short")
    with pytest.raises(LedgerError, match="cannot be read"):
        ErasureLedger.open(tmp_path / "ledger", tmp_path / "copy", path)
    path.write_text("00")
    with pytest.raises(LedgerError, match="32"):
        ErasureLedger.open(tmp_path / "ledger", tmp_path / "copy", path)


def test_an_order_that_the_copy_cannot_take_is_withdrawn(
    ledger: ErasureLedger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.append(order(ledger))
    refused = order(ledger, "bob@example.com")
    put = erasure_ledger._put

    def full(folder: Path, name: str, data: bytes) -> bool:
        if folder.name == "copy":
            raise OSError(28, "full")
        return put(folder, name, data)

    with monkeypatch.context() as patched:
        patched.setattr(erasure_ledger, "_put", full)
        with pytest.raises(LedgerError, match=r"cannot be written \(OSError\)$"):
            ledger.append(refused)
    assert len(again(tmp_path).orders()) == 1
    # Whoever sees that the two differ mends it without another's being erased, and what was refused stays refused.
    with pytest.raises(LedgerError, match="recover"):
        again(tmp_path).verify()
    assert again(tmp_path).restore() == 2
    with pytest.raises(LedgerError, match="withdrawn"):
        again(tmp_path).append(refused)
    assert len(again(tmp_path).orders()) == 1


def test_an_order_that_may_stand_after_all_is_said_to(
    ledger: ErasureLedger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = erasure_ledger._put

    def once(folder: Path, name: str, data: bytes) -> bool:
        if folder.name == "copy" or name != "000000000001.erasure":
            raise OSError(28, "full")
        return put(folder, name, data)

    monkeypatch.setattr(erasure_ledger, "_put", once)
    with pytest.raises(LedgerError, match="may stand"):
        ledger.append(order(ledger))


@pytest.mark.parametrize("left", [0, 2], ids=["all of it", "the tail"])
def test_nothing_is_added_to_a_folder_that_lost_what_its_copy_has(
    ledger: ErasureLedger, tmp_path: Path, left: int
) -> None:
    for _ in range(3):
        ledger.append(order(ledger))
    for path in files(tmp_path / "ledger")[left:]:
        path.unlink()
    with pytest.raises(LedgerError, match=f"{3 - left} records of the ledger are gone"):
        again(tmp_path).append(order(ledger))
    assert len(files(tmp_path / "ledger")) == left
    assert again(tmp_path).restore() == 3 - left
    again(tmp_path).append(order(ledger))
    assert again(tmp_path).verify() == again(tmp_path).entries()[3].digest


@pytest.mark.parametrize("records", [1, 3])
@pytest.mark.parametrize("mounted_on", [False, True], ids=["no folder", "an empty folder"])
def test_no_copy_is_begun_in_the_place_of_one_that_is_away(
    ledger: ErasureLedger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: int, *, mounted_on: bool
) -> None:
    """What was acknowledged with a copy on the wrong disk is lost with the folder's."""
    monkeypatch.setattr(erasure_ledger, "FIRST_COPIED_S", 0.05)
    stood = [ledger.append(order(ledger)) for _ in range(records)]
    folder, copy, elsewhere = tmp_path / "ledger", tmp_path / "copy", tmp_path / "elsewhere"
    copy.rename(elsewhere)
    if mounted_on:
        copy.mkdir()
    for process in (ledger, again(tmp_path)):
        for entry in (order(ledger, "bob@example.com"), stood[-1]):
            with pytest.raises(LedgerAwayError, match=f"the copy has none of the ledger's {records} records"):
                process.append(entry)
        assert process.entries() == stood, "it is read as ever"
    assert len(files(folder)) == records, "a refused order stands"
    assert copy.exists() is mounted_on
    assert not (mounted_on and files(copy))
    if mounted_on:
        copy.rmdir()
    elsewhere.rename(copy)
    added = again(tmp_path).append(order(ledger, "bob@example.com"))
    for path in files(folder):
        path.unlink()
    assert again(tmp_path).restore() == records + 1
    assert added in again(tmp_path).entries()


def test_a_copy_is_begun_anew_by_whoever_says_so(ledger: ErasureLedger, tmp_path: Path) -> None:
    for _ in range(3):
        ledger.append(order(ledger))
    for path in files(tmp_path / "copy"):
        path.unlink()
    (tmp_path / "copy").rmdir()
    assert again(tmp_path).restore() == 3
    ledger.append(order(ledger))
    assert again(tmp_path).verify() == ledger.entries()[3].digest


def test_the_first_record_of_one_who_died_is_copied_by_whoever_recovers(
    ledger: ErasureLedger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a volume that is away it cannot be told."""
    monkeypatch.setattr(erasure_ledger, "FIRST_COPIED_S", 0.05)

    def killed(*_: Path) -> int:
        raise KilledError

    with monkeypatch.context() as dying:
        dying.setattr(ErasureLedger, "_mend", killed)
        with pytest.raises(KilledError):
            ledger.append(order(ledger))
    with pytest.raises(LedgerAwayError, match="recover"):
        again(tmp_path).append(order(ledger))
    assert again(tmp_path).restore() == 1
    again(tmp_path).append(order(ledger))
    assert len(files(tmp_path / "copy")) == 2


def test_nothing_is_mended_where_the_two_contradict_each_other(ledger: ErasureLedger, tmp_path: Path) -> None:
    ledger.append(order(ledger))
    files(tmp_path / "ledger")[0].unlink()
    forked = ErasureLedger(tmp_path / "ledger", tmp_path / "elsewhere", KEY)
    forked.append(order(forked))
    forked.append(order(forked))
    for act in (again(tmp_path).restore, lambda: again(tmp_path).append(order(forked))):
        with pytest.raises(LedgerError, match=r"the copy of 0+1\.erasure is another"):
            act()
    assert len(files(tmp_path / "copy")) == 1


@pytest.mark.parametrize("mounted_on", [False, True], ids=["no folder", "an empty folder"])
def test_a_folder_that_is_away_is_told_from_one_that_was_tampered_with(
    ledger: ErasureLedger, tmp_path: Path, *, mounted_on: bool
) -> None:
    first = ledger.append(order(ledger))
    folder, elsewhere = tmp_path / "ledger", tmp_path / "elsewhere"
    folder.rename(elsewhere)
    if mounted_on:
        folder.mkdir()
    for process in (ledger, again(tmp_path)):
        with pytest.raises(LedgerAwayError):
            process.order(first.erasure_id)
        with pytest.raises(LedgerAwayError):
            process.append(order(ledger))
    assert not (folder.exists() and files(folder)), "nothing was begun anew in its place"
    elsewhere.rename(folder)
    assert ledger.order(first.erasure_id) == (first, [])
    (record,) = files(folder)
    data = record.read_bytes()
    record.unlink()
    record.mkdir()
    with pytest.raises(LedgerAwayError, match="record 1 of the ledger cannot be read"):
        again(tmp_path).entries()
    record.rmdir()
    record.write_bytes(data[:-10])
    wrong = []
    with pytest.raises(LedgerError) as damaged:
        again(tmp_path).entries()
    wrong.append(damaged.value)
    record.write_bytes(data)
    ledger.append(order(ledger))
    record.unlink()
    for process in (ledger, again(tmp_path)):
        with pytest.raises(LedgerError) as lost:
            process.entries()
        wrong.append(lost.value)
    assert not any(isinstance(each, LedgerAwayError) for each in wrong)
