"""What a chunk is: its size limits, its sealed form, and its entry in a pack's index."""

import msgspec

from tgdav.crypto.chunk_seal import ChunkBinding
from tgdav.ids import ChunkId

SMALL_CHUNK = 32 * 1024
"""Bytes of plaintext up to which a chunk is staged as a row of the database instead of in a pack file."""
MAX_CHUNK = 16 * 1024 * 1024
"""Bytes of plaintext up to which readers accept a chunk, whatever the configuration."""


class SealedChunk(msgspec.Struct, frozen=True, gc=False):
    """A chunk ready to be staged: ``length`` bytes of plaintext, sealed by ``chunk_seal`` into ``data``.

    A ``memoryview`` is valid until its scratch buffer is used again.
    """

    id: ChunkId
    length: int
    codec: int
    epoch: int
    data: bytes | bytearray | memoryview


class IndexEntry(msgspec.Struct, frozen=True, gc=False):
    """Where a chunk is in a pack: ``stored`` sealed bytes from ``offset``, which open to ``length`` bytes of plaintext."""

    id: ChunkId
    offset: int
    stored: int
    length: int
    codec: int
    epoch: int

    @property
    def binding(self) -> ChunkBinding:
        """What the chunk's seal is bound to."""
        return ChunkBinding(self.id, self.epoch, self.codec, self.length)
