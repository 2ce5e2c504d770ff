"""Where mail comes from: files, folders, mbox and archives, whole or damaged."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import lzma
import mailbox
import random
import tarfile
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path

import pytest
from libs.orchestrator.tests.test_importing import refer

from penguin_orchestrator import mailsources
from penguin_orchestrator.mailsources import MailSourceError


def eml(folder: Path, name: str, raw: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)
    return path


def archive(path: Path, **members: bytes) -> Path:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, raw in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    pack: dict[str, Callable[[bytes], bytes]] = {
        ".gz": gzip.compress,
        ".tgz": gzip.compress,
        ".bz2": bz2.compress,
        ".xz": lzma.compress,
    }
    path.write_bytes(pack.get(path.suffix, bytes)(packed.getvalue()))
    return path


def test_single_files_and_folders(tmp_path: Path) -> None:
    eml(tmp_path, "b.eml", b"Subject: b\n\n")
    eml(tmp_path, "sub/a.eml", b"Subject: a\n\n")
    eml(tmp_path, ".hidden", b"Subject: hidden\n\n")
    eml(tmp_path, "empty.eml", b" \n")
    found = list(mailsources.read(tmp_path))
    assert [(Path(s.name).name, s.raw, s.problem) for s in found] == [
        ("b.eml", b"Subject: b\n\n", ""), ("empty.eml", b"", "empty"), ("a.eml", b"Subject: a\n\n", ""),
    ]  # fmt: skip
    assert [s.raw for s in mailsources.read(tmp_path / "b.eml")] == [b"Subject: b\n\n"]


def test_nothing_there_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(MailSourceError, match="no such file"):
        list(mailsources.read(tmp_path / "nowhere.mbox"))


def test_mbox_files_message_by_message(tmp_path: Path) -> None:
    box = mailbox.mbox(tmp_path / "some.mbox")
    for number in range(3):
        message = EmailMessage()
        message["Subject"] = f"number {number}"
        message.set_content("From the start of a line.\nÜ\n")
        box.add(message)
    box.close()
    found = list(mailsources.read(tmp_path / "some.mbox"))
    assert [refer(source.raw).subject for source in found] == ["number 0", "number 1", "number 2"]
    assert all(not source.problem for source in found)


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"])
def test_archives_of_every_kind(tmp_path: Path, suffix: str) -> None:
    path = archive(tmp_path / f"mails{suffix}", **{"x/a.eml": b"Subject: a\n\n", "b.eml": b"Subject: b\n\n", "c": b""})
    found = list(mailsources.read(path))
    assert [(s.name.partition(":")[2], s.raw, s.problem) for s in found] == [
        ("x/a.eml", b"Subject: a\n\n", ""), ("b.eml", b"Subject: b\n\n", ""), ("c", b"", "empty"),
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.bz2", ".tar.xz"])
@pytest.mark.parametrize("damage", ["cut", "scribbled", "rubbish", "empty"])
def test_a_damaged_archive_is_reported_and_what_came_before_is_kept(tmp_path: Path, suffix: str, damage: str) -> None:
    chance = random.Random(1)
    members = {f"{n:02}.eml": b"Subject: %d\n\n" % n + base64.b64encode(chance.randbytes(30_000)) for n in range(20)}
    path = archive(tmp_path / f"mails{suffix}", **members)
    whole = path.read_bytes()
    half = len(whole) // 2
    path.write_bytes(
        {
            "cut": whole[:half],
            "scribbled": whole[:half] + bytes(256) + chance.randbytes(5000) + whole[half + 5256 :],
            "rubbish": chance.randbytes(5000),
            "empty": b"",
        }[damage]
    )
    found = list(mailsources.read(path))
    good = [source for source in found if not source.problem]
    if (suffix, damage) != (".tar", "scribbled"):  # a bare tar has no checksum over its contents
        assert found[-1].problem.startswith("the archive is damaged") or (damage == "empty" and not good)
    if damage == "cut" and suffix in {".tar", ".tar.gz"}:
        assert len(good) >= 5
        assert all(source.raw == members[source.name.partition(":")[2]] for source in good)


def test_links_and_folders_in_an_archive_are_no_messages(tmp_path: Path) -> None:
    path = tmp_path / "odd.tar"
    with tarfile.open(path, "w") as tar:
        for kind, name in ((tarfile.DIRTYPE, "folder"), (tarfile.SYMTYPE, "link"), (tarfile.FIFOTYPE, "pipe")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    assert list(mailsources.read(path)) == []


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.bz2", ".tar.xz"])
def test_what_would_not_pass_a_tier_is_reported_unread(tmp_path: Path, suffix: str) -> None:
    huge = mailsources.MESSAGE_LIMIT + 1
    path = archive(tmp_path / f"huge{suffix}", **{"a.eml": b"x" * huge, "b.eml": b"Subject: b\n\n"})
    assert [bool(source.problem) for source in mailsources.read(path)] == [True, False]
    alone = eml(tmp_path, "huge.eml", b"x" * huge)
    assert [source.problem for source in mailsources.read(alone)] == [f"larger than {huge - 1} bytes"]
