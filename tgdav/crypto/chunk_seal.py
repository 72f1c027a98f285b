"""Sealing of chunks: each under a key of its own, bound to its identity and not to the pack that holds it.

So a chunk can be moved to another pack as it is.
"""

import struct

import msgspec

from tgdav.crypto.keys import NamespaceKeys
from tgdav.crypto.sealing import OVERHEAD, Data, Kind, Sealer, associated_data
from tgdav.entropy import Entropy
from tgdav.ids import ChunkId, VaultId

CHUNK_VERSION = 1
CODEC_RAW = 0
CODEC_LZ4_BLOCK = 1
"""An LZ4 block without a size prefix; the raw length is in the pack index, and the seal is bound to it."""

_ID_BYTES = 32
_NAME = struct.Struct(">32sIBI")


class ChunkBinding(msgspec.Struct, frozen=True):
    """What a chunk's seal is bound to, beside vault and namespace. ``raw_length``: bytes of plaintext before the codec."""

    chunk_id: ChunkId
    epoch: int
    codec: int
    raw_length: int


class ScratchBuffer:
    """Reusable memory for sealing and opening one chunk of at most ``size`` bytes at a time.

    A fresh buffer of a MiB for each chunk costs more than the cipher: the kernel zeroes its pages.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.sealed, self.opened = bytearray(size + OVERHEAD), bytearray(size)


def seal_chunk(
    keys: NamespaceKeys,
    vault: VaultId,
    binding: ChunkBinding,
    data: Data,
    entropy: Entropy,
    scratch: ScratchBuffer | None = None,
) -> Data:
    """Return ``data``, the codec's output, sealed: ``OVERHEAD`` bytes longer.

    Where it fits into ``scratch``, the result is a view of that, valid until its next use. Raises ``DamageError`` for an
    unknown epoch.
    """
    associated = _associated(keys, vault, binding)
    sealer = Sealer(keys.chunk_key(binding.chunk_id, binding.epoch))
    if scratch is not None and len(data) <= scratch.size:
        return sealer.seal_into(scratch.sealed, data, associated, entropy)
    return sealer.seal(data, associated, entropy)


def open_chunk(keys: NamespaceKeys, vault: VaultId, binding: ChunkBinding, sealed: Data, what: str) -> bytes:
    """Return the codec's output; the caller decompresses it and compares the plaintext with the chunk's id.

    Raises ``DamageError`` with ``blob=what`` unless ``sealed`` and every argument are as they were at sealing.
    """
    associated = _associated(keys, vault, binding)
    return Sealer(keys.chunk_key(binding.chunk_id, binding.epoch)).open(sealed, associated, what)


def open_chunk_into(
    scratch: ScratchBuffer, keys: NamespaceKeys, vault: VaultId, binding: ChunkBinding, sealed: Data, what: str
) -> Data:
    """As ``open_chunk``. Where the result fits into ``scratch``, it is a view of that, valid until its next use."""
    if len(sealed) > scratch.size + OVERHEAD:
        return open_chunk(keys, vault, binding, sealed, what)
    associated = _associated(keys, vault, binding)
    sealer = Sealer(keys.chunk_key(binding.chunk_id, binding.epoch))
    return sealer.open_into(scratch.opened, sealed, associated, what)


def _associated(keys: NamespaceKeys, vault: VaultId, binding: ChunkBinding) -> bytes:
    if len(binding.chunk_id) != _ID_BYTES:
        raise ValueError("a chunk id has 32 bytes")
    name = _NAME.pack(binding.chunk_id, binding.epoch, binding.codec, binding.raw_length)
    return associated_data(vault, keys.namespace, Kind.CHUNK, name, CHUNK_VERSION)
