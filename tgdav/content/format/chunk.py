"""Values that the modules of the content store share."""

import msgspec

from tgdav.ids import ChunkId

SMALL_CHUNK = 32 * 1024
"""Bytes of plaintext up to which a chunk is staged as a row of the database, not in a pack file."""
MAX_CHUNK = 16 * 1024 * 1024
"""Bytes of plaintext that no chunk exceeds, whatever the configuration: what a reader accepts."""


class SealedChunk(msgspec.Struct, frozen=True, gc=False):
    """A chunk ready to be staged: ``data`` is what ``chunk_seal`` made of ``length`` bytes of plaintext.

    A ``memoryview`` is good only until the room that it lies in is used again.
    """

    id: ChunkId
    length: int
    codec: int
    epoch: int
    data: bytes | bytearray | memoryview


class IndexEntry(msgspec.Struct, frozen=True, gc=False):
    """Where a chunk lies in a pack: ``stored`` sealed bytes from ``offset``, which open to ``length`` of plaintext."""

    id: ChunkId
    offset: int
    stored: int
    length: int
    codec: int
    epoch: int
