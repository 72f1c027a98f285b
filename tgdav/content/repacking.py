"""Move the live chunks of a stored pack to new packs, sealed as they are: a chunk's seal is not bound to its pack."""

from collections.abc import Container, Iterator, Sequence

from tgdav.blobs.interface import BlobStore
from tgdav.content import chunk_table, pack_table
from tgdav.content.format.chunk import IndexEntry, SealedChunk
from tgdav.content.pack_table import PackRow
from tgdav.content.read.reader import ContentReader
from tgdav.content.staging.context import ContentContext
from tgdav.content.upload.uploader import Uploader
from tgdav.errors import BlobMissing, DamageError
from tgdav.failpoints import failpoint
from tgdav.ids import BlobId, BlobName

_MAX_REQUEST = 8 * 1024 * 1024
"""Bytes requested at once."""
_MAX_GAP = 64 * 1024
"""Bytes between two chunks that are cheaper to fetch than another request."""


def runs(entries: Sequence[IndexEntry]) -> Iterator[list[IndexEntry]]:
    """Join entries, given by offset, that are near each other. Pure."""
    run: list[IndexEntry] = []
    for entry in entries:
        if run:
            end = run[-1].offset + run[-1].stored
            if entry.offset - end > _MAX_GAP or entry.offset + entry.stored - run[0].offset > _MAX_REQUEST:
                yield run
                run = []
        run.append(entry)
    if run:
        yield run


class PackRewriter:
    """Used by one thread at a time."""

    def __init__(self, context: ContentContext, store: BlobStore, reader: ContentReader, uploader: Uploader) -> None:
        self._context, self._store, self._reader, self._uploader = context, store, reader, uploader

    def move(self, number: int, live: Container[bytes]) -> bool:
        """Stage the live chunks of a pack anew; return whether nothing live is left in it.

        Each chunk is checked before it moves; those that no copy of can be read stay, and are recorded as damage. Raises
        StoreUnavailable, NoSpace, LocalFailure; what was moved before stays moved.
        """
        with self._context.database.reading() as connection:
            pack = pack_table.pack(connection, number)
            blob = connection.one("SELECT blob FROM packs WHERE no = ?", (number,))
            entries = [entry for entry in chunk_table.entries(connection, number) if entry.id in live]
        if pack is None or blob is None:
            return False
        whole = True
        for run in runs(entries):
            chunks = [chunk for entry, data in self._read(pack, blob[0], run) if (chunk := self._checked(entry, data))]
            whole = whole and len(chunks) == len(run)
            self._uploader.rescue(chunks, number)
            failpoint("content.moved")
        return whole

    def _read(
        self, pack: PackRow, blob: int | None, run: list[IndexEntry]
    ) -> Iterator[tuple[IndexEntry, bytes | None]]:
        """Yield each entry with its sealed bytes, from the disk cache or the store; None if neither has them."""
        cached = [self._cached(pack.name, entry) for entry in run]
        start, end = run[0].offset, run[-1].offset + run[-1].stored
        data = self._fetch(blob, start, end - start) if None in cached else None
        for entry, found in zip(run, cached, strict=True):
            if found is None and data is not None:
                found = data[entry.offset - start : entry.offset - start + entry.stored]
            yield entry, found

    def _cached(self, name: BlobName, entry: IndexEntry) -> bytes | None:
        return self._reader.cache.get(name, entry.offset, entry.stored, counted=False)

    def _fetch(self, blob: int | None, start: int, length: int) -> bytes | None:
        if blob is None:
            return None
        try:
            return self._store.read(BlobId(blob), start, length)
        except (DamageError, BlobMissing):
            return None

    def _checked(self, entry: IndexEntry, data: bytes | None) -> SealedChunk | None:
        """Return a chunk if it opens; else read it as any reader does, which tries every copy, and seal it again."""
        sealer = self._context.sealer
        if data is not None:
            try:
                sealer.open(entry.binding, data, "pack")
            except DamageError:
                pass
            else:
                return SealedChunk(entry.id, entry.length, entry.codec, entry.epoch, data)
        try:
            return sealer.seal(entry.id, self._reader.chunk(entry.id))
        except DamageError:
            return None
