"""New content on its way in: cut into chunks, identified, sealed, verified and staged, each byte once.

What a stream stages is durable after its files were synced (``StagedContent.sync``), and it exists after a transaction in
which ``StagedContent.record`` ran was committed. Until ``release`` the stream pins the chunks that the content consists of.
"""

from collections.abc import Sequence
from contextlib import suppress

from tgdav.content import chunk_table, pack_table
from tgdav.content.format.chunk import SMALL_CHUNK, IndexEntry, SealedChunk
from tgdav.content.format.chunker import Chunker
from tgdav.content.format.manifest import Extent, Manifest, encode
from tgdav.content.staging.context import ContentContext
from tgdav.content.staging.pack_file import PackFile
from tgdav.db.transaction import Transaction
from tgdav.db.writer import Syncable
from tgdav.errors import BadHandle, LocalFailure
from tgdav.failpoints import failpoint
from tgdav.ids import ChunkId

Data = bytes | bytearray | memoryview

_MAX_ROW_BYTES = 4 * 1024 * 1024
"""Sealed bytes of rows that a stream holds in memory before it commits them on its own."""
_MAX_SMALL_ROWS = 16
"""Small chunks that a stream stages as rows; more of them go into its pack."""


class ContentStream:
    """Stages one content, given in order. Used by one thread at a time. ``local``: it never leaves this machine.

    Chunks are staged in memory (rows) or appended to an open pack that only this stream writes to. A *batch* is what no
    transaction has recorded yet; long content takes several. Recording is idempotent: after a rollback it can run again.
    """

    def __init__(self, context: ContentContext, *, local: bool = False) -> None:
        self._context = context
        self._local = local
        self._replace = not context.settings.dedup_enabled
        self._is_closed = False
        self.size = 0
        # Content as it is cut:
        self._head = bytearray()
        """The first bytes, until there are too many for a single chunk."""
        self._chunker: Chunker | None = None
        self._extents: list[Extent] = []
        self._seen: set[ChunkId] = set()
        """Chunks that this content has already, here or in the database."""
        self._pinned: list[ChunkId] = []
        # The batch:
        self._rows: list[SealedChunk] = []
        self._row_bytes = 0
        self._pack: PackFile | None = None
        self._pack_start = 0
        """Length of the pack when this stream took it."""
        self._entries: list[IndexEntry] = []
        """Chunks appended to the pack."""
        self._to_publish: list[ChunkId] = []
        """Known chunks that only local content referenced so far."""
        self._small = b""
        """Plaintext of content that is a single small chunk: it will probably be read soon."""
        self._was_tried = False
        self._was_committed = False

    def write(self, data: Data) -> None:
        """Add bytes. Raises NoSpace, LocalFailure; then call ``abort``."""
        self._require_open()
        self.size += len(data)
        if self._chunker is None:
            if len(self._head) + len(data) <= self._context.uncut:
                self._head += data
                return
            self._chunker = Chunker(self._context.sizes, self._context.keys.chunker_seed)
            self._cut(self._head)
            self._head = bytearray()
        self._cut(data)

    def finish(self) -> "StagedContent":
        """Return the content, to be recorded; its pack is synced. Raises NoSpace, LocalFailure; then call ``abort``."""
        self._require_open()
        if self._chunker is not None:
            for chunk in self._chunker.finish():
                self._add(chunk)
            self._chunker = None
        elif self._head:
            self._add(self._head)
            self._small = bytes(self._head)
        if self._pack is not None:
            # Before the writer's turn, so that other commits do not wait for this sync.
            self._pack.sync()
        self._is_closed = True
        return StagedContent(self, Manifest(tuple(self._extents)), self._context)

    def abort(self) -> None:
        """Drop everything and cut the pack back to what commits reference. No effect after ``finish`` or ``abort``."""
        if self._is_closed:
            return
        self._is_closed = True
        self._chunker = None
        self.close()

    # ---- for the StagedContent -------------------------------------------------------------------------------------------

    @property
    def files(self) -> list[PackFile]:
        """The files to sync before the content is committed."""
        return [self._pack] if self._pack is not None else []

    def record(self, transaction: Transaction) -> None:
        """Put the rows of all new chunks, and how much of the pack is referenced, into ``transaction``."""
        self._was_tried = True
        staged = [chunk_table.put_row(transaction, row, local=self._local, replace=self._replace) for row in self._rows]
        known = self._record_entries(transaction)
        published = [] if self._local else chunk_table.publish(transaction, [*self._to_publish, *known])
        if self._rows or self._entries or published or self._small:
            packed = [] if self._local else [entry.id for entry in self._entries if entry.id not in known]
            transaction.after_commit(lambda: self._after_commit(staged, packed, published))
        failpoint("content.recorded")

    def close(self) -> None:
        """Return the pack and unpin all chunks."""
        self._return_pack()
        pinned, self._pinned = self._pinned, []
        self._context.pins.unpin(pinned)

    # ---- cutting and staging ---------------------------------------------------------------------------------------------

    def _require_open(self) -> None:
        if self._is_closed:
            raise BadHandle("the stream is finished")

    def _cut(self, data: Data) -> None:
        assert self._chunker is not None
        for chunk in self._chunker.feed(data):
            self._add(chunk)

    def _add(self, plaintext: Data) -> None:
        chunk = self._context.sealer.chunk_id(plaintext)
        # Sealing a small chunk costs less than looking it up; recording it finds out whether it is known.
        is_small = self._chunker is None and chunk not in self._seen
        if is_small or not self._is_stored(chunk):
            self._stage(chunk, plaintext)
        self._extents.append(Extent(len(plaintext), chunk))

    def _is_stored(self, chunk: ChunkId) -> bool:
        """Whether the chunk is staged or stored already; then it stays pinned until ``close``."""
        if chunk in self._seen:
            return True
        if self._replace:
            return False
        only_local = self._context.pin_known(chunk)
        if only_local is None:
            return False
        self._pinned.append(chunk)
        self._seen.add(chunk)
        if only_local and not self._local:
            self._to_publish.append(chunk)
        return True

    def _stage(self, chunk: ChunkId, plaintext: Data) -> None:
        if self._local or (len(plaintext) <= SMALL_CHUNK and len(self._rows) < _MAX_SMALL_ROWS):
            self._stage_row(self._context.sealer.seal(chunk, plaintext))
            return
        with self._context.buffers.borrow() as buffer:
            sealed = self._context.sealer.seal(chunk, plaintext, buffer)
            self._append(self._require_pack(len(sealed.data)), sealed)
        self._context.last_chunk = self._context.clock.monotonic()

    def _stage_row(self, chunk: SealedChunk) -> None:
        self._context.quota.admit(len(chunk.data))
        self._rows.append(chunk)
        self._row_bytes += len(chunk.data)
        self._hold(chunk.id)
        if self._row_bytes > _MAX_ROW_BYTES:
            self._commit_batch()

    def _append(self, pack: PackFile, chunk: SealedChunk) -> None:
        offset = pack.append(chunk.data)
        pack.count += 1
        self._entries.append(IndexEntry(chunk.id, offset, len(chunk.data), chunk.length, chunk.codec, chunk.epoch))
        self._hold(chunk.id)

    def _hold(self, chunk: ChunkId) -> None:
        self._context.pins.hold(chunk)
        self._pinned.append(chunk)
        self._seen.add(chunk)

    def _require_pack(self, stored: int) -> PackFile:
        """Return a pack with room for ``stored`` bytes. Raises NoSpace, LocalFailure."""
        packs = self._context.open_packs
        if self._pack is not None and not packs.has_room(self._pack, stored):
            self._commit_batch()
        if not self._context.quota.fits(stored):
            # The space may be taken by this stream's own pack: give it up, so that it can be sent, before waiting.
            self._commit_batch()
            self._context.quota.admit(stored)
        if self._pack is None:
            self._pack = packs.acquire(stored, self._context.keys.current_epoch)
            self._pack_start = self._pack.length
        return self._pack

    # ---- recording -------------------------------------------------------------------------------------------------------

    def _record_entries(self, transaction: Transaction) -> list[ChunkId]:
        """Return the chunks that were known already."""
        pack = self._pack
        if not self._entries or pack is None:
            return []
        number = pack_table.put_pack(
            transaction, name=pack.name, epoch=pack.epoch, file=pack.file, end=pack.length, created=pack.created
        )
        replace = self._replace
        return [
            entry.id
            for entry in self._entries
            if not chunk_table.put_in_pack(transaction, entry, number, replace=replace)
        ]

    def _after_commit(
        self, staged: Sequence[chunk_table.NewRow], packed: Sequence[ChunkId], published: Sequence[int]
    ) -> None:
        """Charge the rows that exist now and are meant for the store; local rows are not staging."""
        self._was_committed = True
        added = [size for row in staged for size in row.added] + [*published]
        if self._small and self._rows:
            self._context.on_small(self._rows[0].id, self._small)
        if self._pack is not None and self._entries:
            self._pack.end = max(self._pack.end, self._pack.length)
        if not self._local:
            self._context.fresh_chunks.add([*(row.chunk.id for row in staged if not row.existed), *packed])
        if added and not self._local:
            self._context.quota.charge(sum(added))
            self._context.backlog.add(len(added), sum(added))

    def _commit_batch(self) -> None:
        """Record what is staged so far, so that its pack can be closed and sent while the stream continues."""
        if not self._rows and not self._entries:
            return
        files = self.files if self._entries else []
        for file in files:
            file.sync()
        failpoint("content.before-roll")
        self._context.database.writer.run(self.record, sync=files)
        failpoint("content.after-roll")
        self._return_pack(full=True)
        self._reset_batch()
        self._context.on_staged()

    def _return_pack(self, *, full: bool = False) -> None:
        """Give up the pack and cut off the bytes of this batch that no transaction can have referenced.

        After a failed transaction it is unknown whether it was committed. So its bytes stay, perhaps unreferenced.
        """
        pack, self._pack = self._pack, None
        if pack is None:
            return
        if not self._was_tried:
            _cut(pack, max(self._pack_start, pack.end))
        elif not self._was_committed:
            pack.end = pack.length
        self._context.open_packs.release(pack, full=full)

    def _reset_batch(self) -> None:
        """Begin another batch; pinned chunks stay pinned."""
        self._was_tried = self._was_committed = False
        self._rows, self._row_bytes, self._entries, self._to_publish = [], 0, [], []
        if self._replace:
            # Without deduplication a chunk is stored again in each batch; only within a batch it must be unique.
            self._seen.clear()


class StagedContent:
    """Staged content, until the transaction that references it is over."""

    def __init__(self, stream: ContentStream, manifest: Manifest, context: ContentContext) -> None:
        self._stream = stream
        self._on_staged = context.on_staged
        self._is_released = False
        self.manifest = manifest
        self.encoded = encode(manifest)
        self.tag = context.keys.content_tag(self.encoded)

    @property
    def size(self) -> int:
        """Bytes of content."""
        return self.manifest.size

    @property
    def sync(self) -> Sequence[Syncable]:
        """The files to sync before the transaction is committed: ``writer.run(…, sync=staged.sync)``."""
        return self._stream.files

    def record(self, transaction: Transaction) -> None:
        """Put chunk rows and pack ends into the transaction that references the content."""
        self._stream.record(transaction)

    def release(self) -> None:
        """Unpin the chunks; call it once after the commit or the failure. Further calls have no effect."""
        if self._is_released:
            return
        self._is_released = True
        self._stream.close()
        self._on_staged()


def _cut(pack: PackFile, length: int) -> None:
    """Cut a pack, if that works; if not, it is poisoned, and finalizing saves what is referenced in it."""
    if not pack.is_poisoned:
        with suppress(LocalFailure):
            pack.cut(length)
