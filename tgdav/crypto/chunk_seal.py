"""Sealing of chunks: each under a key of its own, bound to what it is and not to the pack it lies in."""

import struct

from tgdav.crypto.keys import NamespaceKeys
from tgdav.crypto.sealing import OVERHEAD, Data, Kind, Sealer, associated_data
from tgdav.entropy import Entropy
from tgdav.ids import ChunkId, VaultId

CHUNK_VERSION = 1
CODEC_RAW = 0
CODEC_LZ4_BLOCK = 1
"""An LZ4 block without a size in front; the raw length is in the pack index and bound by the seal."""

_ID_BYTES = 32
_NAME = struct.Struct(">32sIBI")


class Room:
    """Memory for one chunk of at most ``size`` bytes on its way through, sealed and opened; used again and again."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.sealed, self.opened = bytearray(size + OVERHEAD), bytearray(size)


def seal_chunk(
    keys: NamespaceKeys,
    vault: VaultId,
    chunk_id: ChunkId,
    epoch: int,
    codec: int,
    raw_length: int,
    data: Data,
    entropy: Entropy,
    room: Room | None = None,
) -> Data:
    """Return ``data`` (what the codec made of ``raw_length`` bytes of plaintext) sealed; ``OVERHEAD`` bytes longer.

    With a ``room`` that it fits into, the result is good until that is used again. Raises ``DamageError`` for an unknown
    epoch.
    """
    associated = _binding(keys, vault, chunk_id, epoch, codec, raw_length)
    sealer = Sealer(keys.chunk_key(chunk_id, epoch))
    if room is not None and len(data) <= room.size:
        return sealer.seal_into(room.sealed, data, associated, entropy)
    return sealer.seal(data, associated, entropy)


def open_chunk(
    keys: NamespaceKeys,
    vault: VaultId,
    chunk_id: ChunkId,
    epoch: int,
    codec: int,
    raw_length: int,
    sealed: Data,
    what: str,
) -> bytes:
    """Return what the codec made, to be decompressed and compared with ``chunk_id`` by the caller.

    Raises ``DamageError`` with ``blob=what`` unless the bytes and every argument are as they were at sealing.
    """
    associated = _binding(keys, vault, chunk_id, epoch, codec, raw_length)
    return Sealer(keys.chunk_key(chunk_id, epoch)).open(sealed, associated, what)


def open_chunk_into(
    room: Room,
    keys: NamespaceKeys,
    vault: VaultId,
    chunk_id: ChunkId,
    epoch: int,
    codec: int,
    raw_length: int,
    sealed: Data,
    what: str,
) -> Data:
    """As ``open_chunk``; where the result fits into ``room``, it is good until that is used again."""
    if len(sealed) > room.size + OVERHEAD:
        return open_chunk(keys, vault, chunk_id, epoch, codec, raw_length, sealed, what)
    associated = _binding(keys, vault, chunk_id, epoch, codec, raw_length)
    return Sealer(keys.chunk_key(chunk_id, epoch)).open_into(room.opened, sealed, associated, what)


def _binding(keys: NamespaceKeys, vault: VaultId, chunk_id: ChunkId, epoch: int, codec: int, raw_length: int) -> bytes:
    if len(chunk_id) != _ID_BYTES:
        raise ValueError("a chunk id has 32 bytes")
    name = _NAME.pack(chunk_id, epoch, codec, raw_length)
    return associated_data(vault, keys.namespace, Kind.CHUNK, name, CHUNK_VERSION)
