"""Content-defined cutting: FastCDC 2020, seeded per namespace. Pure.

Xia et al., "The Design of Fast Content-Defined Chunking for Data Deduplication Based Storage Systems", IEEE TPDS 2020,
as pyfastcdc implements it, with normalised chunking 3. Where a chunk ends depends on at most its first ``max_size``
bytes, so content fed piece by piece is cut exactly as if it were cut whole.
"""

from collections.abc import Iterator

import msgspec
from pyfastcdc.cy import FastCDC  # the compiled build: the Python one is a hundred times slower

Data = bytes | bytearray | memoryview

_NORMALIZED_CHUNKING = 3
_HEADROOM = 64 * 1024
_SEED_BITS = (1 << 63) - 1  # pyfastcdc refuses a larger seed


class ChunkSizes(msgspec.Struct, frozen=True):
    """The bounds of chunks, bytes. Only a content's last chunk is shorter than ``minimum``."""

    average: int
    minimum: int
    maximum: int


def chunk_sizes(average: int) -> ChunkSizes:
    """Return the bounds that go with an aim of ``average`` bytes (64 KiB to 4 MiB).

    The largest chunk stays 64 KiB below a power of two, so that, sealed, it still fits the ranges that stores read in.
    """
    return ChunkSizes(average, average // 4, 2 * average - _HEADROOM)


class Chunker:
    """Cuts one content. Not thread-safe.

    Chunks come as views of one block that is used again: each is valid until the next is asked for.
    """

    def __init__(self, sizes: ChunkSizes, seed: int) -> None:
        self._cutter = FastCDC(
            sizes.average,
            min_size=sizes.minimum,
            max_size=sizes.maximum,
            normalized_chunking=_NORMALIZED_CHUNKING,
            seed=seed & _SEED_BITS,
        )
        self._maximum = sizes.maximum
        self._block_bytes = 2 * sizes.maximum
        self._block = bytearray()
        self._filled = 0

    def feed(self, data: Data) -> Iterator[memoryview]:
        """Take more content; go through the chunks whose ends are certain now. Exhaust it before the next call."""
        with memoryview(data).cast("B") as rest:
            taken = 0
            while taken < len(rest):
                taken += self._fill(rest[taken : taken + self._block_bytes - self._filled])
                if self._filled >= self._block_bytes:
                    yield from self._cut(self._maximum)

    def finish(self) -> Iterator[memoryview]:
        """Go through the chunks of what is left; the chunker starts afresh."""
        yield from self._cut(1)
        self._block = bytearray()

    def _fill(self, data: memoryview) -> int:
        """Put data behind what is in the block, which grows until it was full once; return how much."""
        if self._filled == len(self._block):
            self._block += data
        else:
            with memoryview(self._block) as block:
                block[self._filled : self._filled + len(data)] = data
        self._filled += len(data)
        return len(data)

    def _cut(self, least: int) -> Iterator[memoryview]:
        """Cut while at least ``least`` bytes lie ahead; the rest moves to the block's beginning."""
        block, end = memoryview(self._block), self._filled
        cuts = iter(self._cutter.cut_buf(block[:end]))
        start = 0
        while end - start >= least:
            length = next(cuts).length
            yield block[start : start + length]
            start += length
        block[: end - start] = block[start:end]
        self._filled = end - start
