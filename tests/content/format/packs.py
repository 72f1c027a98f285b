"""A small pack made of known chunks, in memory."""

from blake3 import blake3

from tests.content.identities import make_identity
from tests.crypto.seeded import SeededEntropy
from tgdav.content.format.chunk import IndexEntry
from tgdav.content.format.codec import compress
from tgdav.content.format.pack import PackSeal, plan, seal_index, seal_trailer
from tgdav.crypto.chunk_seal import ChunkBinding, seal_chunk
from tgdav.ids import BlobName

NAME = BlobName(bytes(range(16)))
TEXTS = [b"one" * 100, bytes(range(256)) * 4, b"x"]
DEAD = b"dead bytes of a stream that failed"


def make_seal(seed: int = 7, name: BlobName = NAME, epoch: int = 1) -> PackSeal:
    identity = make_identity(seed)
    return PackSeal(identity.keys, identity.vault_keys.vault, name, epoch)


def make_pack() -> tuple[PackSeal, bytes, list[IndexEntry]]:
    """Return a pack with three chunks, and unreferenced bytes after the first."""
    seal, entropy = make_seal(), SeededEntropy(99)
    data, entries = bytearray(), []
    for text in TEXTS:
        chunk = seal.keys.chunk_id(text)
        codec, packed = compress(text)
        sealed = seal_chunk(seal.keys, seal.vault, ChunkBinding(chunk, 1, codec, len(text)), packed, entropy)
        entries.append(IndexEntry(chunk, len(data), len(sealed), len(text), codec, 1))
        data += sealed
        if len(entries) == 1:
            data += DEAD
    sizes = plan(len(data), len(entries))
    data += seal_index(seal, entries, sizes, entropy)
    data += seal_trailer(seal, sizes, blake3(data).digest(), entropy)
    return seal, bytes(data), entries
