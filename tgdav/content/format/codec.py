"""Compression of chunks: an LZ4 block if that saves enough, else the bytes as they are. Pure.

For content that does not compress (most large files) only two small samples are compressed.
"""

from typing import overload

import lz4.block

from tgdav.content.format.chunk import MAX_CHUNK
from tgdav.crypto.chunk_seal import CODEC_LZ4_BLOCK, CODEC_RAW
from tgdav.errors import DamageError

Data = bytes | bytearray | memoryview

_SAMPLE = 8 * 1024
_WORTH_PERCENT = 95
_MIN_BYTES = 64
"""LZ4 is not tried on less."""


def compress(data: Data) -> tuple[int, Data]:
    """Return (codec, encoded bytes); ``CODEC_RAW`` and ``data`` itself if LZ4 saves less than 5 %."""
    if len(data) < _MIN_BYTES or not _seems_compressible(memoryview(data)):
        return CODEC_RAW, data
    # Without a size prefix: the length is known from the chunk's index entry and bound by its seal.
    packed: bytes = lz4.block.compress(data, store_size=False)
    return (CODEC_LZ4_BLOCK, packed) if _saves_enough(len(packed), len(data)) else (CODEC_RAW, data)


@overload
def decompress(codec: int, data: bytes, length: int, what: str) -> bytes: ...
@overload
def decompress(codec: int, data: Data, length: int, what: str) -> Data: ...
def decompress(codec: int, data: Data, length: int, what: str) -> Data:
    """Return the ``length`` bytes of plaintext; raises ``DamageError`` with ``blob=what`` if it is not that long."""
    # The length is checked first: LZ4 allocates it, and it may come from a damaged row.
    if codec == CODEC_LZ4_BLOCK and 0 < length <= MAX_CHUNK:
        try:
            data = lz4.block.decompress(data, uncompressed_size=length)
        except lz4.block.LZ4BlockError as error:
            raise DamageError(f"{what}: a chunk does not decompress", blob=what) from error
    elif codec != CODEC_RAW:
        raise DamageError(f"{what}: a chunk has an unknown codec or an impossible length", blob=what)
    if len(data) != length:
        raise DamageError(f"{what}: a chunk has another length than recorded", blob=what)
    return data


def _seems_compressible(data: memoryview) -> bool:
    """Judge by two samples, after the first and before the last quarter; short data is its own sample."""
    if len(data) <= 4 * _SAMPLE:
        return True
    quarter = len(data) // 4
    samples = (data[start : start + _SAMPLE] for start in (quarter, 3 * quarter - _SAMPLE))
    return _saves_enough(sum(len(lz4.block.compress(sample, store_size=False)) for sample in samples), 2 * _SAMPLE)


def _saves_enough(packed: int, plain: int) -> bool:
    return packed * 100 <= plain * _WORTH_PERCENT
