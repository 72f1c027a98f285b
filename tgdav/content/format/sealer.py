"""From plaintext to a sealed chunk that is proven to open, and back."""

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
    """Under which keys and in whose name content is sealed and labelled."""

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
        """Return the id of a chunk."""
        return self._keys.chunk_id(plaintext)

    def seal(self, chunk: ChunkId, plaintext: Data, room: ScratchBuffer | None = None) -> SealedChunk:
        """Return ``plaintext`` sealed, opened again and found to have the id ``chunk``.

        With a ``room`` the result is good until that is used again. Raises ``DamageError`` if it has another id: a bit
        flipped in memory since the id was taken, and must not become a permanent loss.
        """
        number, packed = codec.compress(plaintext) if self._compresses else (CODEC_RAW, plaintext)
        epoch, length = self._keys.current_epoch, len(plaintext)
        binding = ChunkBinding(chunk, epoch, number, length)
        data = seal_chunk(self._keys, self._vault, binding, packed, self._entropy, room)
        self.prove(chunk, epoch, number, length, data, _FRESH, room)
        return SealedChunk(chunk, length, number, epoch, data)

    def open(self, chunk: ChunkId, epoch: int, number: int, length: int, sealed: Data, what: str) -> bytes:
        """Return a chunk's plaintext; raises ``DamageError`` with ``blob=what`` unless all of it checks out."""
        packed = open_chunk(self._keys, self._vault, ChunkBinding(chunk, epoch, number, length), sealed, what)
        plaintext = codec.decompress(number, packed, length, what)
        self._compare(chunk, plaintext, what)
        return plaintext

    def prove(
        self, chunk: ChunkId, epoch: int, number: int, length: int, sealed: Data, what: str, room: ScratchBuffer | None
    ) -> None:
        """Check all that ``open`` checks, in a ``room`` if one is given; raises as it does."""
        if room is None:
            self.open(chunk, epoch, number, length, sealed, what)
            return
        binding = ChunkBinding(chunk, epoch, number, length)
        packed = open_chunk_into(room, self._keys, self._vault, binding, sealed, what)
        self._compare(chunk, codec.decompress(number, packed, length, what), what)

    def _compare(self, chunk: ChunkId, plaintext: Data, what: str) -> None:
        if self._keys.chunk_id(plaintext) != chunk:
            raise DamageError(f"{what}: a chunk's content is not what its id says", blob=what)
