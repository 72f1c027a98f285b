import contextlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgdav.content.format.codec import compress, decompress
from tgdav.crypto.chunk_seal import CODEC_LZ4_BLOCK, CODEC_RAW
from tgdav.errors import DamageError

NOISE = random.Random(2).randbytes(300_000)


@pytest.mark.parametrize("text", [b"tell me again " * 10, b"words " * 5000, bytes(1_000_000)])
def test_compressible_data_is_compressed(text: bytes) -> None:
    codec, packed = compress(memoryview(text))
    assert codec == CODEC_LZ4_BLOCK
    assert len(packed) < len(text) // 2
    assert decompress(codec, bytes(packed), len(text), "x") == text


@pytest.mark.parametrize("length", [0, 1, 63, 5000, 40_000, 300_000])
def test_incompressible_data_is_returned_without_a_copy(length: int) -> None:
    noise = memoryview(NOISE)[:length]
    codec, packed = compress(noise)
    assert codec == CODEC_RAW
    assert packed is noise


def test_data_that_only_seems_compressible_stays_raw() -> None:
    mixed = bytearray(NOISE)
    mixed[75_000 : 75_000 + 8192] = bytes(8192)
    assert compress(mixed)[0] == CODEC_RAW


@given(st.binary(max_size=200), st.integers(0, 3), st.integers(-5, 2**40))
def test_arbitrary_bytes_decompress_or_are_damage(data: bytes, codec: int, length: int) -> None:
    with contextlib.suppress(DamageError):
        assert len(decompress(codec, data, length, "x")) == length
