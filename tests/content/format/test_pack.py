import contextlib
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from tests.content.format.packs import TEXTS, make_pack, make_seal
from tgdav.content.format.chunk import IndexEntry
from tgdav.content.format.codec import decompress
from tgdav.content.format.pack import (
    MIN_PACK,
    TRAILER_BYTES,
    PackSizes,
    Trailer,
    encode_index,
    largest_padded,
    open_index,
    padme,
    parse_index,
    plan,
    read_trailer,
)
from tgdav.crypto.chunk_seal import ChunkBinding, open_chunk
from tgdav.errors import DamageError, NewerFormat
from tgdav.ids import BlobName, ChunkId

GOLDEN = Path(__file__).parents[2] / "golden" / "pack-v1.bin"
SEAL, PACK, ENTRIES = make_pack()


def check_whole(data: bytes) -> list[IndexEntry]:
    trailer = read_trailer(SEAL, data[-TRAILER_BYTES:], len(data))
    if blake3(data[:-TRAILER_BYTES]).digest() != trailer.digest:
        raise DamageError("hash")
    end = trailer.sizes.data_end
    return open_index(SEAL, data[end : end + trailer.sizes.index_length], trailer.sizes)


def test_the_golden_pack_still_reads() -> None:
    golden = GOLDEN.read_bytes()
    entries = check_whole(golden)
    texts = []
    for e in entries:
        sealed = golden[e.offset : e.offset + e.stored]
        packed = open_chunk(SEAL.keys, SEAL.vault, ChunkBinding(e.id, e.epoch, e.codec, e.length), sealed, "golden")
        texts.append(decompress(e.codec, packed, e.length, "golden"))
    assert texts == TEXTS
    assert [SEAL.keys.chunk_id(text) for text in texts] == [e.id for e in entries]


def test_packs_are_still_written_like_the_golden_pack() -> None:
    assert GOLDEN.read_bytes() == PACK


def test_every_region_is_authenticated() -> None:
    for at in [*range(0, len(PACK), 997), *range(0, 1500, 13), *range(len(PACK) - TRAILER_BYTES, len(PACK))]:
        damaged = bytearray(PACK)
        damaged[at] ^= 1
        with pytest.raises(DamageError):
            check_whole(bytes(damaged))


@pytest.mark.parametrize("length", [0, 1, TRAILER_BYTES - 1, TRAILER_BYTES, MIN_PACK - 1])
def test_a_truncated_pack_is_damage(length: int) -> None:
    with pytest.raises(DamageError):
        check_whole(PACK[:length])


def test_an_extended_pack_is_damage() -> None:
    with pytest.raises(DamageError):
        read_trailer(SEAL, PACK[-TRAILER_BYTES:], len(PACK) + 1)


def test_a_pack_under_another_name_is_damage() -> None:
    for other in (make_seal(seed=8), make_seal(name=BlobName(bytes(16)))):
        with pytest.raises(DamageError):
            read_trailer(other, PACK[-TRAILER_BYTES:], len(PACK))
    with pytest.raises(DamageError, match="namespace key number"):
        read_trailer(make_seal(epoch=2), PACK[-TRAILER_BYTES:], len(PACK))


def test_index_and_trailer_cannot_replace_each_other() -> None:
    sizes = plan(ENTRIES[-1].offset + ENTRIES[-1].stored, 3)
    with pytest.raises(DamageError):
        open_index(SEAL, PACK[-TRAILER_BYTES:], sizes)


@given(st.integers(0, 2**33))
def test_padme_sizes_are_large_enough_and_waste_little(length: int) -> None:
    padded = padme(length)
    assert padded >= max(length, MIN_PACK)
    assert padded <= max(length * 1.12, MIN_PACK)
    assert padme(padded) == padded
    assert largest_padded(padded) == padded


@given(st.integers(MIN_PACK, 2**33))
def test_the_largest_padded_size_is_one(limit: int) -> None:
    size = largest_padded(limit)
    assert size <= limit
    assert padme(size) == size
    assert padme(size + 1) > limit


def test_fifty_mebibytes_are_a_padded_size() -> None:
    assert largest_padded(50 * 1024 * 1024) == 50 * 1024 * 1024


@given(st.integers(0, 2**26), st.integers(0, 3000))
def test_a_plan_fills_a_padded_size(data_end: int, count: int) -> None:
    sizes = plan(data_end, count)
    assert sizes.data_end + sizes.index_length + TRAILER_BYTES == sizes.size == padme(sizes.size)
    entries = [IndexEntry(ChunkId(bytes(32)), 0, 0, 0, 0, 0)] * count
    assert len(encode_index(entries, sizes)) == sizes.padded_plaintext


def entry(**changes: int | bytes) -> IndexEntry:
    values = {"id": ChunkId(b"i" * 32), "offset": 0, "stored": 129, "length": 100, "codec": 0, "epoch": 1}
    return IndexEntry(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "entries",
    [
        [entry(), entry(id=b"j" * 32, offset=128)],
        [entry(offset=129), entry(id=b"j" * 32)],
        [entry(), entry(offset=129)],
        [entry(stored=128)],
        [entry(length=0, stored=29)],
        [entry(codec=2)],
        [entry(codec=1)],
        [entry(epoch=0)],
        [entry(offset=900)],
    ],
)
def test_an_inconsistent_index_is_damage(entries: list[IndexEntry]) -> None:
    sizes = plan(1000, len(entries))
    with pytest.raises(DamageError):
        parse_index(SEAL, encode_index(entries, sizes), sizes.data_end)


def test_bytes_after_the_index_are_damage() -> None:
    sizes = plan(1000, 1)
    plaintext = bytearray(encode_index([entry()], sizes))
    assert parse_index(SEAL, bytes(plaintext), 1000) == [entry()]
    plaintext[-1] = 1
    with pytest.raises(DamageError):
        parse_index(SEAL, bytes(plaintext), 1000)


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda tail: b"\0\1\0\0\0\1" + tail))
def test_arbitrary_bytes_are_an_index_or_damage(data: bytes) -> None:
    with contextlib.suppress(DamageError, NewerFormat):
        entries = parse_index(SEAL, data, 10_000)
        assert encode_index(entries, PackSizes(10_000, len(data) + 29, 0)) == data


@given(st.binary(max_size=300), st.integers(0, 2**70))
def test_arbitrary_bytes_are_not_a_trailer(data: bytes, size: int) -> None:
    with pytest.raises(DamageError):
        read_trailer(SEAL, data, size)


def test_a_trailer_has_the_offset_of_the_index() -> None:
    trailer = read_trailer(SEAL, PACK, len(PACK))
    assert trailer == Trailer(plan(trailer.sizes.data_end, 3), blake3(PACK[:-TRAILER_BYTES]).digest())
