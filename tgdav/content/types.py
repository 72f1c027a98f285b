"""Values that the modules of the content store share."""

from enum import IntEnum, StrEnum

import msgspec

from tgdav.crypto.keys import NamespaceKeys, VaultKeys
from tgdav.ids import BlobName, ChunkId, Incarnation, MachineId

SMALL_CHUNK = 32 * 1024
"""Bytes of plaintext up to which a chunk is staged as a row of the database, not in a pack file."""
MAX_CHUNK = 16 * 1024 * 1024
"""Bytes of plaintext that no chunk exceeds, whatever the configuration: what a reader accepts."""


class PackState(IntEnum):
    """Life of a pack; the numbers stand in ``packs.state``. Only an open pack is ever written to."""

    OPEN = 0
    CLOSED = 1
    SENT = 2
    STORED = 3
    RETIRED = 4


class ContentState(StrEnum):
    """How far content is on its way to the store."""

    LOCAL = "local"
    UPLOADING = "uploading"
    STORED = "stored"


class ContentSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the configuration says about content. Sizes in bytes."""

    chunk_size: int = 50 * 1024 * 1024
    """Upper bound of a pack."""
    average_size: int = 1024 * 1024
    """Aim of the chunker, at least 64 KiB; chunks have a quarter of it to twice it less 64 KiB."""
    compression_enabled: bool = True
    dedup_enabled: bool = True
    """False: content is staged and sent anew even where its chunks are known; they are then read from the new place."""
    max_concurrent_uploads: int = 3
    staging_bytes: int | None = None
    """Bound of staging; None: 10 GiB, at most half of what the disk has free."""


class ContentIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """Under which keys and in whose name content is sealed and labelled."""

    vault_keys: VaultKeys
    keys: NamespaceKeys
    machine: MachineId
    incarnation: Incarnation


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


class ChunkPlace(msgspec.Struct, frozen=True, gc=False):
    """A row of ``chunks`` joined with its pack: ``data`` while staged as a row, else a place in a pack.

    ``state``, ``damaged``, ``file`` (in the staging folder) and ``blob`` (id in the store) are the pack's.
    """

    id: ChunkId
    length: int
    stored: int
    codec: int
    epoch: int
    data: bytes | None
    offset: int
    pack: int | None
    pack_name: BlobName | None
    state: int | None
    file: str | None
    blob: int | None
    damaged: int | None
    local: int
