import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgdav.content.format.chunk import MAX_CHUNK
from tgdav.content.format.manifest import EMPTY, MAX_SIZE, RECORD, Extent, Manifest, decode, encode
from tgdav.errors import DamageError
from tgdav.ids import ChunkId

A, B = ChunkId(b"a" * 32), ChunkId(b"b" * 32)
SAMPLE = Manifest((Extent(10, A), Extent(100, None), Extent(5, B)))

extents = st.lists(
    st.builds(
        Extent,
        st.integers(1, MAX_CHUNK),
        st.none() | st.binary(min_size=32, max_size=32).filter(any).map(ChunkId),
    )
)


def test_bytes_of_the_format_are_fixed() -> None:
    assert encode(SAMPLE).hex() == (
        "0a00000000000000" + "61" * 32 + "6400000000000000" + "00" * 32 + "0500000000000000" + "62" * 32
    )


def test_empty_content_has_an_empty_manifest() -> None:
    assert encode(EMPTY) == b""
    assert decode(b"") == EMPTY
    assert EMPTY.size == 0
    assert EMPTY.slice(0, 100) == []


def test_slices_name_extent_offset_and_length() -> None:
    assert SAMPLE.size == 115
    assert SAMPLE.slice(0, 115) == [(0, 0, 10), (1, 0, 100), (2, 0, 5)]
    assert SAMPLE.slice(9, 2) == [(0, 9, 1), (1, 0, 1)]
    assert SAMPLE.slice(10, 100) == [(1, 0, 100)]
    assert SAMPLE.slice(112, 100) == [(2, 2, 3)]
    assert SAMPLE.slice(115, 1) == []
    assert SAMPLE.slice(5, 0) == []


@given(extents)
def test_an_encoded_manifest_decodes(parts: list[Extent]) -> None:
    manifest = Manifest.from_extents(parts)
    assert decode(encode(manifest)) == manifest
    assert manifest.size == sum(extent.length for extent in parts)


@given(extents, st.integers(0, 2**25), st.integers(0, 2**25))
def test_slices_cover_the_range_without_gaps(parts: list[Extent], offset: int, length: int) -> None:
    manifest = Manifest.from_extents(parts)
    at = offset
    for index, inside, count in manifest.slice(offset, length):
        assert manifest.start(index) + inside == at
        assert 0 < count <= manifest.extents[index].length - inside
        at += count
    assert at == max(offset, min(offset + length, manifest.size))


@pytest.mark.parametrize(
    "data",
    [
        b"x" * 39,
        RECORD.pack(0, A),
        RECORD.pack(MAX_CHUNK + 1, A),
        RECORD.pack(1, bytes(32)) * 2,
        RECORD.pack(MAX_SIZE, bytes(32)) + RECORD.pack(1, A),
    ],
)
def test_anything_but_the_canonical_form_is_damage(data: bytes) -> None:
    with pytest.raises(DamageError):
        decode(data)


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_a_manifest_or_damage(data: bytes) -> None:
    with contextlib.suppress(DamageError):
        assert encode(decode(data)) == data
