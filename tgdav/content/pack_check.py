"""Proof that what lies on disk of a pack is what it should be, before the pack gets its trailer and is sent."""

from collections.abc import Callable

import msgspec
from blake3 import blake3

from tgdav.content.pack import PackSeal, PackSizes, open_index
from tgdav.content.sealer import ChunkSealer
from tgdav.content.staging import steps
from tgdav.content.types import IndexEntry
from tgdav.crypto.chunk_seal import Room

ReadInto = Callable[[int, memoryview], int]
"""(offset, view) -> how many bytes of the pack were read into the view: fewer than fit only past its end."""


class CheckedData(msgspec.Struct, frozen=True):
    """Chunks and index of a pack, found whole. ``hasher`` has taken in every byte of them, for BLAKE3-256."""

    entries: list[IndexEntry]
    hasher: blake3


def check_data(read: ReadInto, sizes: PackSizes, seal: PackSeal, sealer: ChunkSealer, room: Room) -> CheckedData:
    """Go once through the chunks, which are opened and compared with their ids, and the index.

    Of dead bytes nothing can be said but what they are. Raises ``DamageError`` that names the pack.
    """
    index = _exactly(read, seal, sizes.data_end, memoryview(bytearray(sizes.index_length)))
    entries = open_index(seal, index, sizes)
    hasher, done = blake3(), 0
    for entry in entries:
        _hash(read, seal, hasher, done, entry.offset)
        place = room.sealed if entry.stored <= len(room.sealed) else bytearray(entry.stored)
        sealed = _exactly(read, seal, entry.offset, memoryview(place)[: entry.stored])
        hasher.update(sealed)
        sealer.prove(entry.id, entry.epoch, entry.codec, entry.length, sealed, seal.name.hex(), room)
        done = entry.offset + entry.stored
    _hash(read, seal, hasher, done, sizes.data_end)
    hasher.update(index)
    return CheckedData(entries, hasher)


def _hash(read: ReadInto, seal: PackSeal, hasher: blake3, start: int, end: int) -> None:
    for offset, length in steps(start, end):
        hasher.update(_exactly(read, seal, offset, memoryview(bytearray(length))))


def _exactly(read: ReadInto, seal: PackSeal, offset: int, view: memoryview) -> memoryview:
    if read(offset, view) != len(view):
        raise seal.damage("is cut off")
    return view
