"""Proof that a whole pack is what it should be: every byte, every chunk. Used before the first send, and by checks."""

from collections.abc import Callable

import msgspec
from blake3 import blake3

from tgdav.content.pack import TRAILER_BYTES, PackSeal, PackSizes, open_index, read_trailer
from tgdav.content.sealer import ChunkSealer
from tgdav.content.staging import steps
from tgdav.content.types import IndexEntry

Read = Callable[[int, int], bytes]
"""(offset, length) -> exactly these bytes of the pack, fewer only past its end."""


class CheckedPack(msgspec.Struct, frozen=True):
    """A pack found whole. ``digest`` is BLAKE3-256 of all its bytes."""

    entries: list[IndexEntry]
    digest: bytes


def check_pack(read: Read, size: int, seal: PackSeal, sealer: ChunkSealer) -> CheckedPack:
    """Read a pack of ``size`` bytes whole and check all that can be checked; raises ``DamageError`` that names it."""
    if size < TRAILER_BYTES:
        raise seal.damage("is cut off")
    tail = read(size - TRAILER_BYTES, TRAILER_BYTES)
    trailer = read_trailer(seal, tail, size)
    before, whole = hash_range(read, 0, size - TRAILER_BYTES)
    if before != trailer.digest:
        raise seal.damage("has changed bytes")
    whole.update(tail)
    entries = read_index(read, seal, trailer.sizes)
    for entry in entries:
        sealed = read(entry.offset, entry.stored)
        sealer.open(entry.id, entry.epoch, entry.codec, entry.length, sealed, seal.name.hex())
    return CheckedPack(entries, whole.digest())


def read_index(read: Read, seal: PackSeal, sizes: PackSizes) -> list[IndexEntry]:
    """Return the entries of a pack whose trailer was read; raises ``DamageError``."""
    return open_index(seal, read(sizes.data_end, sizes.index_length), sizes)


def hash_range(read: Read, start: int, end: int) -> tuple[bytes, blake3]:
    """Return BLAKE3-256 of a range, and the hasher to go on with."""
    hasher = blake3()
    for offset, length in steps(start, end):
        hasher.update(read(offset, length))
    return hasher.digest(), hasher
