"""Sealing of chunks: each under a key of its own, bound to what it is and not to the pack it lies in."""

import struct

from tgdav.crypto.keys import NamespaceKeys
from tgdav.crypto.sealing import Data, Kind, Sealer, associated_data
from tgdav.entropy import Entropy
from tgdav.ids import ChunkId, VaultId

CHUNK_VERSION = 1
CODEC_RAW = 0
CODEC_LZ4_BLOCK = 1
"""An LZ4 block without a size in front; the raw length is in the pack index and bound by the seal."""

_ID_BYTES = 32
_NAME = struct.Struct(">32sIBI")


def seal_chunk(
    keys: NamespaceKeys,
    vault: VaultId,
    chunk_id: ChunkId,
    epoch: int,
    codec: int,
    raw_length: int,
    data: Data,
    entropy: Entropy,
) -> bytearray:
    """Return ``data`` (what the codec made of ``raw_length`` bytes of plaintext) sealed; ``OVERHEAD`` bytes longer.

    Encrypts straight into the result. Raises ``DamageError`` for an unknown epoch.
    """
    associated = _binding(keys, vault, chunk_id, epoch, codec, raw_length)
    return Sealer(keys.chunk_key(chunk_id, epoch)).seal_large(data, associated, entropy)


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


def _binding(keys: NamespaceKeys, vault: VaultId, chunk_id: ChunkId, epoch: int, codec: int, raw_length: int) -> bytes:
    if len(chunk_id) != _ID_BYTES:
        raise ValueError("a chunk id has 32 bytes")
    name = _NAME.pack(chunk_id, epoch, codec, raw_length)
    return associated_data(vault, keys.namespace, Kind.CHUNK, name, CHUNK_VERSION)
