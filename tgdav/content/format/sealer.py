"""From plaintext to a sealed chunk that was verified, and back."""

import msgspec

from tgdav.content.format import codec
from tgdav.content.format.chunk import SealedChunk
from tgdav.crypto.chunk_seal import CODEC_RAW, ChunkBinding, ScratchBuffer, open_chunk, open_chunk_into, seal_chunk
from tgdav.crypto.keys import NamespaceKeys, VaultKeys
from tgdav.entropy import Entropy
from tgdav.errors import DamageError
from tgdav.ids import ChunkId, Incarnation, MachineId

Data = bytes | bytearray | memoryview

_FRESH = "memory"


class ContentIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """The keys that seal content, and the machine that its labels name."""

    vault_keys: VaultKeys
    keys: NamespaceKeys
    machine: MachineId
    incarnation: Incarnation


class ChunkSealer:
    """Seals and opens the chunks of one namespace. Thread-safe."""

    def __init__(self, identity: ContentIdentity, entropy: Entropy, *, compresses: bool) -> None:
        self._keys = identity.keys
        self._vault = identity.vault_keys.vault
        self._entropy = entropy
        self._compresses = compresses

    def chunk_id(self, plaintext: Data) -> ChunkId:
        """Return the id of a chunk: the keyed hash of its plaintext."""
        return self._keys.chunk_id(plaintext)

    def seal(self, chunk: ChunkId, plaintext: Data, buffer: ScratchBuffer | None = None) -> SealedChunk:
        """Return ``plaintext`` sealed, after opening it again and comparing it with ``chunk``, its id.

        With a ``buffer`` the result is valid until that is used again. Raises ``DamageError`` if the id is different: a bit
        flipped in memory since the id was computed, which must not become a permanent loss.
        """
        codec_id, packed = codec.compress(plaintext) if self._compresses else (CODEC_RAW, plaintext)
        epoch, length = self._keys.current_epoch, len(plaintext)
        binding = ChunkBinding(chunk, epoch, codec_id, length)
        data = seal_chunk(self._keys, self._vault, binding, packed, self._entropy, buffer)
        self.verify(binding, data, _FRESH, buffer)
        return SealedChunk(chunk, length, codec_id, epoch, data)

    def open(self, binding: ChunkBinding, sealed: Data, what: str) -> bytes:
        """Return a chunk's plaintext; raises ``DamageError`` with ``blob=what`` unless it passes every check."""
        packed = open_chunk(self._keys, self._vault, binding, sealed, what)
        plaintext = codec.decompress(binding.codec, packed, binding.raw_length, what)
        self._compare(binding.chunk_id, plaintext, what)
        return plaintext

    def verify(self, binding: ChunkBinding, sealed: Data, what: str, buffer: ScratchBuffer | None) -> None:
        """Check all that ``open`` checks, in ``buffer`` if one is given; raises as it does."""
        if buffer is None:
            self.open(binding, sealed, what)
            return
        packed = open_chunk_into(buffer, self._keys, self._vault, binding, sealed, what)
        self._compare(binding.chunk_id, codec.decompress(binding.codec, packed, binding.raw_length, what), what)

    def _compare(self, chunk: ChunkId, plaintext: Data, what: str) -> None:
        if self._keys.chunk_id(plaintext) != chunk:
            raise DamageError(f"{what}: a chunk's content does not match its id", blob=what)
