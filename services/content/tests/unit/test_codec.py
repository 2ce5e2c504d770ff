"""Compression and the canonical form: what goes in comes out, and equal bodies are equal bytes."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penguin_content.domain.codec import NONE, PIECE, ZSTD, Packed, joined, pack, pieces, unpack
from penguin_content.domain.composed import Composed, from_canonical, to_canonical

texts = st.text(st.characters(codec="utf-8"))
bodies = st.builds(Composed, texts, texts, st.lists(st.tuples(texts, texts)).map(tuple))


@given(st.binary(max_size=5_000))
def test_bytes_come_back(data: bytes) -> None:
    packed = pack(data)
    assert unpack(packed) == data
    assert len(packed.data) <= len(data)


def test_what_does_not_shrink_is_kept_as_it_is() -> None:
    noise = os.urandom(1_000)
    assert pack(noise) == Packed(NONE, noise)
    assert pack(b"") == Packed(NONE, b"")
    assert pack(b"a" * 1_000).codec == ZSTD


def test_an_unknown_codec_is_an_error() -> None:
    with pytest.raises(ValueError, match="codec"):
        unpack(Packed("brotli", b""))


@pytest.mark.parametrize("size", [0, 1, PIECE, PIECE + 1, 3 * PIECE])
def test_large_bytes_are_cut_and_joined(size: int) -> None:
    data = b"ab" * (size // 2) + b"c" * (size % 2)
    cut = list(pieces(data))
    assert [len(piece) for piece in cut[:-1]] == [PIECE] * (len(cut) - 1)
    assert joined(map(pack, cut)) == data


@given(bodies)
def test_composed_bodies_come_back(body: Composed) -> None:
    assert from_canonical(to_canonical(body)) == body


@given(bodies, bodies)
def test_different_bodies_are_different_bytes(one: Composed, other: Composed) -> None:
    assert (to_canonical(one) == to_canonical(other)) == (one == other)


def test_the_canonical_form_does_not_drift() -> None:
    # Content hashes that are stored already stand on these very bytes.
    assert to_canonical(Composed("a", "é", (("X", "y"),))).hex() == (
        "01000000040000000100000002000000010000000161c3a95879"
    )


def test_an_unknown_version_is_an_error() -> None:
    with pytest.raises(ValueError, match="version"):
        from_canonical(b"\x02" + bytes(12))
