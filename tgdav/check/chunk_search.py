"""Searches the indexes of packs in the store for chunks: an index says what is in a pack, whatever the local database says."""

from collections.abc import Iterator

import msgspec

from tgdav.blobs.interface import BlobInfo
from tgdav.check.context import CheckContext
from tgdav.content.format.chunk import IndexEntry, SealedChunk
from tgdav.content.format.pack import TRAILER_BYTES, PackSeal, open_index, read_trailer
from tgdav.crypto.label import BlobKind
from tgdav.errors import BlobMissing, DamageError, NewerFormat
from tgdav.ids import BlobName, ChunkId
from tgdav.replication.blob_listing import BlobListing, LabelledBlob

_RETIRED = "SELECT name FROM packs WHERE state > 3"


class IndexedPack(msgspec.Struct, frozen=True):
    """A pack in the store with its index, and the key epoch of that."""

    found: LabelledBlob
    epoch: int
    entries: list[IndexEntry]


class ChunkSearch:
    """Searches the store's packs, the newest first."""

    def __init__(self, context: CheckContext) -> None:
        self._store, self._content = context.store, context.content
        self._keys, self._vault_keys = context.content.identity.keys, context.replicator.log.vault_keys
        self._database = context.database

    def packs(self, wanted: set[ChunkId], *, without: BlobName | None = None) -> Iterator[IndexedPack]:
        """Yield the packs whose index has one of ``wanted``, while it is not empty; the caller removes what it has found.

        Retired packs are left out, for they are about to be deleted. Raises StoreUnavailable.
        """
        if not wanted:
            return
        with self._database.reading() as connection:
            retired = {row[0] for row in connection.all(_RETIRED)}
        listing = BlobListing(self._store.list(), self._vault_keys)
        for found in reversed(listing.of(self._keys.namespace, BlobKind.PACK)):
            if not wanted:
                return
            if found.info.name == without or found.info.name in retired:
                continue
            pack = self._open(found)
            if pack is not None and not wanted.isdisjoint(entry.id for entry in pack.entries):
                yield pack

    def sealed(self, pack: IndexedPack, entry: IndexEntry) -> SealedChunk | None:
        """Return a chunk of a pack as it is sealed, if it is intact. Raises StoreUnavailable."""
        info = pack.found.info
        try:
            data = self._store.read(info.id, entry.offset, entry.stored)
            self._content.sealer.open(entry.binding, data, info.name.hex())
        except (DamageError, BlobMissing):
            return None
        return SealedChunk(entry.id, entry.length, entry.codec, entry.epoch, data)

    def _open(self, found: LabelledBlob) -> IndexedPack | None:
        for info in (found.info, *found.spares):
            for epoch in range(self._keys.current_epoch, 0, -1):
                try:
                    return IndexedPack(msgspec.structs.replace(found, info=info), epoch, self._index(info, epoch))
                except (DamageError, BlobMissing, NewerFormat):
                    continue  # that pack has findings of its own
        return None

    def _index(self, info: BlobInfo, epoch: int) -> list[IndexEntry]:
        seal = PackSeal(self._keys, self._vault_keys.vault, info.name, epoch)
        tail = self._store.read(info.id, max(info.size - TRAILER_BYTES, 0), TRAILER_BYTES)
        sizes = read_trailer(seal, tail, info.size).sizes
        return open_index(seal, self._store.read(info.id, sizes.data_end, sizes.index_length), sizes)
