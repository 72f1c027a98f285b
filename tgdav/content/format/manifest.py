"""A file's manifest: the chunks and holes that make up its content, in order. Pure.

It is encoded as records of 40 bytes, ``<Q32s``: length, chunk id (all zeros = hole). Only the canonical form decodes, so
that equal content has equal bytes and therefore an equal tag (``docs/formats/manifest.md``).
"""

import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import accumulate, chain

import msgspec

from tgdav.content.format.chunk import MAX_CHUNK
from tgdav.errors import DamageError
from tgdav.ids import ChunkId

RECORD = struct.Struct("<Q32s")
_PREFIX = struct.Struct(">8xQ24x")
"""A record, but only the first 8 bytes of the chunk's id."""
MAX_SIZE = 2**63 - 1
"""Largest content in bytes: the maximum of ``off_t``."""

_HOLE = bytes(32)


class Extent(msgspec.Struct, frozen=True, gc=False):
    """``length`` bytes of content: one whole chunk, or a hole (``chunk`` None), which reads as zeros."""

    length: int
    chunk: ChunkId | None


class Manifest:
    """The extents of a content. Immutable. Made by ``decode`` or ``from_extents``."""

    def __init__(self, extents: tuple[Extent, ...]) -> None:
        self.extents = extents

    @classmethod
    def from_extents(cls, extents: Iterable[Extent]) -> "Manifest":
        """Return the canonical manifest: without empty extents, and with adjacent holes joined."""
        joined: list[Extent] = []
        for extent in extents:
            if extent.chunk is None and joined and joined[-1].chunk is None:
                joined[-1] = Extent(joined[-1].length + extent.length, None)
            elif extent.length:
                joined.append(extent)
        return cls(tuple(joined))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Manifest) and self.extents == other.extents

    def __hash__(self) -> int:
        return hash(self.extents)

    def __repr__(self) -> str:
        return f"Manifest({len(self.extents)} extents, {self.size} bytes)"

    @cached_property
    def ends(self) -> list[int]:
        """Offset of each extent's end."""
        return list(accumulate(extent.length for extent in self.extents))

    @property
    def size(self) -> int:
        """Bytes of content, including holes."""
        return self.ends[-1] if self.extents else 0

    def start(self, index: int) -> int:
        """Return the offset at which extent ``index`` begins."""
        return self.ends[index - 1] if index else 0

    def find(self, offset: int) -> int:
        """Return the index of the extent that contains byte ``offset``, or the number of extents after the end."""
        return bisect_right(self.ends, offset)

    def slice(self, offset: int, length: int) -> list[tuple[int, int, int]]:
        """Return the pieces of a range, clipped at the end, as (extent index, offset in that extent, length)."""
        pieces = []
        end = min(offset + length, self.size)
        index = self.find(offset)
        while offset < end:
            stop = min(self.ends[index], end)
            pieces.append((index, offset - self.start(index), stop - offset))
            offset, index = stop, index + 1
        return pieces

    def chunk_ids(self) -> list[ChunkId]:
        """Return the ids of the chunks in order, with repetitions."""
        return [extent.chunk for extent in self.extents if extent.chunk is not None]


EMPTY = Manifest(())
"""The manifest of no bytes; it encodes to no bytes."""


def encode(manifest: Manifest) -> bytes:
    """Return the manifest's records."""
    # One call of pack for all extents: a large file has a million of them.
    fields = chain.from_iterable((extent.length, extent.chunk or _HOLE) for extent in manifest.extents)
    return struct.pack("<" + "Q32s" * len(manifest.extents), *fields)


def decode(data: bytes) -> Manifest:
    """Return the manifest; raises ``DamageError`` unless ``data`` is the encoding of a canonical one."""
    if len(data) % RECORD.size:
        raise _damage("has a broken record")
    extents = tuple(Extent(length, None if chunk == _HOLE else chunk) for length, chunk in RECORD.iter_unpack(data))
    manifest = Manifest(extents)
    _check(manifest)
    return manifest


def chunk_prefixes(data: bytes) -> Iterator[int]:
    """Yield the first 8 bytes of each chunk's id in an encoded manifest, as a big-endian number; 0 for a hole.

    Much faster than decoding: a garbage collection reads every manifest. Raises DamageError for a broken record.
    """
    if len(data) % RECORD.size:
        raise _damage("has a broken record")
    return (prefix for (prefix,) in _PREFIX.iter_unpack(data))


def _check(manifest: Manifest) -> None:
    after_hole = False
    for extent in manifest.extents:
        is_hole = extent.chunk is None
        if not extent.length or (not is_hole and extent.length > MAX_CHUNK):
            raise _damage("has an extent of impossible length")
        if is_hole and after_hole:
            raise _damage("has two holes in a row")
        after_hole = is_hole
    if manifest.size > MAX_SIZE:
        raise _damage("is longer than a file can be")


def _damage(reason: str) -> DamageError:
    return DamageError(f"a manifest {reason}", blob="manifest")
