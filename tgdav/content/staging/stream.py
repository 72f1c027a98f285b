"""Content on its way in: cut, named, sealed, checked and staged, each byte once.

A stream is used by one thread at a time. What it stages is durable when its files are synced (``StagedContent.sync``) and
it exists when ``StagedContent.record`` ran in a transaction that was committed; the stream keeps the chunks that it counts
on pinned until ``release``.
"""

from collections.abc import Sequence
from contextlib import suppress

from tgdav.content import chunk_table, pack_table
from tgdav.content.format.chunk import SMALL_CHUNK, IndexEntry, SealedChunk
from tgdav.content.format.chunker import Chunker
from tgdav.content.format.manifest import Extent, Manifest, encode
from tgdav.content.staging.context import ContentCore
from tgdav.content.staging.pack_file import PackFile
from tgdav.db.transaction import Transaction
from tgdav.db.writer import Syncable
from tgdav.errors import BadHandle, LocalFailure
from tgdav.failpoints import failpoint
from tgdav.ids import ChunkId

Data = bytes | bytearray | memoryview

_ROWS_BYTES = 4 * 1024 * 1024
"""Sealed bytes of rows that a stream holds in memory before it records them on its own."""
_ROWS_COUNT = 16
"""Small chunks that a stream stages as rows; more of them go into its pack."""


class Batch:
    """New chunks that are staged and not recorded yet, and the chunks that their stream counts on.

    Recording is idempotent: a transaction that is rolled back may be followed by another.
    """

    def __init__(self, core: ContentCore, *, local: bool) -> None:
        self._core = core
        self._local = local
        self._replace = not core.settings.dedup_enabled
        self._pinned: list[ChunkId] = []
        self._publish: list[ChunkId] = []
        self._tried = False
        self._committed = False
        self.ids: set[ChunkId] = set()
        self.rows: list[SealedChunk] = []
        self.row_bytes = 0
        self.entries: list[IndexEntry] = []
        self.pack: PackFile | None = None
        self.plaintext = b""
        """Of the one chunk, where content is as small as that: it is likely to be read soon."""

    def knows(self, chunk: ChunkId) -> bool:
        """Whether the chunk is staged already, here or elsewhere; then it stays pinned until ``let_go``."""
        if chunk in self.ids:
            return True
        if self._replace:
            return False
        only_local = self._core.pin_known(chunk)
        if only_local is None:
            return False
        self._pinned.append(chunk)
        if only_local and not self._local:
            self._publish.append(chunk)
        self.ids.add(chunk)
        return True

    def add_row(self, chunk: SealedChunk) -> None:
        """Stage a chunk as a row. Raises NoSpace."""
        self._core.space.admit(len(chunk.data))
        self.rows.append(chunk)
        self.row_bytes += len(chunk.data)
        self._hold(chunk.id)

    def add_to_pack(self, chunk: SealedChunk) -> None:
        """Append a chunk to the batch's pack, which has room. Raises NoSpace, LocalFailure."""
        assert self.pack is not None
        offset = self.pack.append(chunk.data)
        self.pack.count += 1
        self.entries.append(IndexEntry(chunk.id, offset, len(chunk.data), chunk.length, chunk.codec, chunk.epoch))
        self._hold(chunk.id)

    def _hold(self, chunk: ChunkId) -> None:
        self._core.pins.hold(chunk)
        self._pinned.append(chunk)
        self.ids.add(chunk)

    def record(self, transaction: Transaction) -> None:
        """Put the rows of all new chunks, and how far the pack is named, into ``transaction``."""
        self._tried = True
        staged = [chunk_table.put_row(transaction, row, local=self._local, replace=self._replace) for row in self.rows]
        lost = self._record_entries(transaction)
        published = [] if self._local else chunk_table.publish(transaction, [*self._publish, *lost])
        if self.rows or self.entries or published or self.plaintext:
            transaction.after_commit(lambda: self._after_commit(staged, published))
        failpoint("content.recorded")

    def _record_entries(self, transaction: Transaction) -> list[ChunkId]:
        pack = self.pack
        if not self.entries or pack is None:
            return []
        number = pack_table.put_pack(
            transaction, name=pack.name, epoch=pack.epoch, file=pack.file, end=pack.length, created=pack.created
        )
        replace = self._replace
        return [
            entry.id
            for entry in self.entries
            if not chunk_table.put_in_pack(transaction, entry, number, replace=replace)
        ]

    def _after_commit(self, staged: Sequence[chunk_table.NewRow], published: Sequence[int]) -> None:
        """Charge the rows that are there now and meant for the store (junk's are no staging)."""
        self._committed = True
        added = [size for row in staged for size in row.added] + [*published]
        if self.plaintext and self.rows:
            self._core.on_small(self.rows[0].id, self.plaintext)
        if self.pack is not None and self.entries:
            self.pack.end = max(self.pack.end, self.pack.length)
        if added and not self._local:
            self._core.space.charge(sum(added))
            self._core.backlog.add(len(added), sum(added))

    def commit(self) -> None:
        """Record in a transaction of its own, before anything names the chunks; they stay pinned."""
        files = [self.pack] if self.pack is not None and self.entries else []
        for file in files:
            file.sync()
        failpoint("content.before-roll")
        self._core.database.writer.run(self.record, sync=files)
        failpoint("content.after-roll")

    def settle_pack(self, start: int, *, full: bool = False) -> None:
        """Let go of the pack, whose bytes from ``start`` on are this batch's.

        Bytes that no transaction can have named are cut off. After a transaction that failed nobody can be sure: its
        bytes stay, as dead ones.
        """
        pack, self.pack = self.pack, None
        if pack is None:
            return
        if not self._tried:
            _cut_back(pack, max(start, pack.end))
        elif not self._committed:
            pack.end = pack.length
        self._core.pool.give_back(pack, full=full)

    def next(self) -> None:
        """Begin anew after ``commit`` and ``settle_pack``; what is pinned stays so."""
        self._tried = self._committed = False
        self.rows, self.entries, self.row_bytes, self._publish = [], [], 0, []
        if self._replace:
            self.ids.clear()

    def let_go(self) -> None:
        """Unpin."""
        pinned, self._pinned = self._pinned, []
        self._core.pins.unpin(pinned)


def _cut_back(pack: PackFile, length: int) -> None:
    """A pack that cannot be cut any more is poisoned by that; what is named in it is saved when it is closed."""
    if not pack.is_poisoned:
        with suppress(LocalFailure):
            pack.cut(length)


class StagedContent:
    """Content that waits for the transaction that names it."""

    def __init__(self, core: ContentCore, batch: Batch, manifest: Manifest, start: int) -> None:
        self._core = core
        self._batch = batch
        self._start = start
        self._released = False
        self.manifest = manifest
        self.encoded = encode(manifest)
        self.tag = core.keys.content_tag(self.encoded)

    @property
    def size(self) -> int:
        """Bytes of content."""
        return self.manifest.size

    @property
    def sync(self) -> Sequence[Syncable]:
        """The files to sync before the transaction is committed: ``writer.run(…, sync=staged.sync)``."""
        return [self._batch.pack] if self._batch.pack is not None else []

    def record(self, transaction: Transaction) -> None:
        """Put chunk rows and pack ends into the transaction that names the content."""
        self._batch.record(transaction)

    def release(self) -> None:
        """Unpin; to be called once after the commit or the failure. Calling it again does nothing."""
        if self._released:
            return
        self._released = True
        self._batch.settle_pack(self._start)
        self._batch.let_go()
        self._core.on_work()


class ContentStream:
    """Takes one content in order. ``local``: it never leaves this machine."""

    def __init__(self, core: ContentCore, *, local: bool = False) -> None:
        self._core = core
        self._local = local
        self._batch = Batch(core, local=local)
        self._head = bytearray()
        self._chunker: Chunker | None = None
        self._extents: list[Extent] = []
        self._start = 0
        self._closed = False
        self.size = 0

    def write(self, data: Data) -> None:
        """Take more. Raises NoSpace, LocalFailure; the stream is then to be aborted."""
        self._require_open()
        self.size += len(data)
        if self._chunker is None:
            if len(self._head) + len(data) <= self._core.uncut:
                self._head += data
                return
            self._chunker = Chunker(self._core.sizes, self._core.keys.chunker_seed)
            self._cut(self._head)
            self._head = bytearray()
        self._cut(data)

    def finish(self) -> StagedContent:
        """Return what is to be recorded; its pack is synced. Raises NoSpace, LocalFailure: then abort."""
        self._require_open()
        if self._chunker is not None:
            for chunk in self._chunker.finish():
                self._take(chunk)
            self._chunker = None
        elif self._head:
            self._take(self._head)
            self._batch.plaintext = bytes(self._head)
        if self._batch.pack is not None:
            self._batch.pack.sync()
        self._closed = True
        return StagedContent(self._core, self._batch, Manifest(tuple(self._extents)), self._start)

    def abort(self) -> None:
        """Drop everything; the open pack is cut back to what commits name. After ``finish`` or ``abort``: nothing."""
        if self._closed:
            return
        self._closed = True
        self._chunker = None
        self._batch.settle_pack(self._start)
        self._batch.let_go()

    def _require_open(self) -> None:
        if self._closed:
            raise BadHandle("the stream is finished")

    def _cut(self, data: Data) -> None:
        assert self._chunker is not None
        for chunk in self._chunker.feed(data):
            self._take(chunk)

    def _take(self, plaintext: Data) -> None:
        chunk = self._core.sealer.chunk_id(plaintext)
        # A small chunk costs less to seal than to look for; recording it finds out whether it is known.
        small = self._chunker is None and chunk not in self._batch.ids
        if small or not self._batch.knows(chunk):
            self._stage(chunk, plaintext)
        self._extents.append(Extent(len(plaintext), chunk))

    def _stage(self, chunk: ChunkId, plaintext: Data) -> None:
        if self._local or (len(plaintext) <= SMALL_CHUNK and len(self._batch.rows) < _ROWS_COUNT):
            self._batch.add_row(self._core.sealer.seal(chunk, plaintext))
            if self._batch.row_bytes > _ROWS_BYTES:
                self._roll()
            return
        with self._core.rooms.one() as room:
            sealed = self._core.sealer.seal(chunk, plaintext, room)
            self._provide_pack(len(sealed.data))
            self._batch.add_to_pack(sealed)
        self._core.last_chunk = self._core.clock.monotonic()

    def _provide_pack(self, stored: int) -> None:
        """See to a pack with room. A writer that must wait for space gives up its own pack first, so that it is sent."""
        pack = self._batch.pack
        if pack is not None and not self._core.pool.has_room(pack, stored):
            self._roll()
        if not self._core.space.fits(stored):
            self._roll()
            self._core.space.admit(stored)
        if self._batch.pack is None:
            self._batch.pack = self._core.pool.take(stored, self._core.keys.current_epoch)
            self._start = self._batch.pack.length

    def _roll(self) -> None:
        """Record what is staged so far, so that its pack can be closed and sent while the stream goes on."""
        if not self._batch.rows and not self._batch.entries:
            return
        self._batch.commit()
        self._batch.settle_pack(self._start, full=True)
        self._batch.next()
        self._core.on_work()
