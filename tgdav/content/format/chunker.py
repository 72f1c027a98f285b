"""Content-defined chunking: FastCDC 2020, seeded per namespace. Pure.

Xia et al., "The Design of Fast Content-Defined Chunking for Data Deduplication Based Storage Systems", IEEE TPDS 2020,
as pyfastcdc implements it, with normalised chunking level 3. The end of a chunk depends only on the bytes of that chunk, at
most ``max_size``. So content that arrives piece by piece is cut exactly as if it were cut as a whole.
"""

from collections.abc import Iterator

import msgspec
from pyfastcdc.cy import FastCDC  # the compiled build: the Python one is a hundred times slower

Data = bytes | bytearray | memoryview

_NORMALIZED_CHUNKING = 3
_HEADROOM = 64 * 1024
_SEED_BITS = (1 << 63) - 1  # pyfastcdc rejects larger seeds


class ChunkSizes(msgspec.Struct, frozen=True):
    """The sizes of chunks, bytes. Only the last chunk of a content can be shorter than ``minimum``."""

    average: int
    minimum: int
    maximum: int


def chunk_sizes(average: int) -> ChunkSizes:
    """Return the sizes for an average of ``average`` bytes (64 KiB to 4 MiB).

    The largest chunk is 64 KiB below a power of two, so that, sealed, it still fits the ranges in which stores read.
    """
    return ChunkSizes(average, average // 4, 2 * average - _HEADROOM)


class Chunker:
    """Cuts one content. Not thread-safe.

    Chunks are views of one block that is reused: each is valid until the next is requested.
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
        # Up to ``maximum`` bytes remain after a cut, and as many new ones follow before the next.
        self._block_bytes = 2 * sizes.maximum
        self._block = bytearray()
        self._filled = 0

    def feed(self, data: Data) -> Iterator[memoryview]:
        """Add content; yield the chunks whose ends are certain now. Exhaust the iterator before the next call."""
        with memoryview(data).cast("B") as view:
            taken = 0
            while taken < len(view):
                taken += self._fill(view[taken : taken + self._block_bytes - self._filled])
                if self._filled >= self._block_bytes:
                    yield from self._cut(self._maximum)

    def finish(self) -> Iterator[memoryview]:
        """Yield the remaining chunks and reset the chunker."""
        yield from self._cut(1)
        self._block = bytearray()

    def _fill(self, data: memoryview) -> int:
        """Append data to the block and return how much fitted; the block grows until it was full once, then it is reused."""
        if self._filled == len(self._block):
            self._block += data
        else:
            # The view is released at once: a bytearray with views cannot grow.
            with memoryview(self._block) as block:
                block[self._filled : self._filled + len(data)] = data
        self._filled += len(data)
        return len(data)

    def _cut(self, least: int) -> Iterator[memoryview]:
        """Cut while at least ``least`` bytes remain; then move the rest to the start of the block."""
        block, end = memoryview(self._block), self._filled
        cuts = iter(self._cutter.cut_buf(block[:end]))
        start = 0
        while end - start >= least:
            length = next(cuts).length
            yield block[start : start + length]
            start += length
        block[: end - start] = block[start:end]
        self._filled = end - start
