"""Content on its way in: cut, named, sealed, checked and staged, each byte once.

A stream is used by one thread at a time. What it stages is durable when its files are synced (``StagedContent.sync``) and
it exists when ``StagedContent.record`` ran in a transaction that was committed; the stream keeps the chunks that it counts
on pinned until ``release``.
"""

from collections.abc import Sequence

from tgdav.content.batch import Batch
from tgdav.content.chunker import Chunker
from tgdav.content.core import ContentCore
from tgdav.content.manifest import Extent, Manifest, encode
from tgdav.content.types import SMALL_CHUNK
from tgdav.db.transaction import Transaction
from tgdav.db.writer import Syncable
from tgdav.errors import BadHandle
from tgdav.ids import ChunkId

Data = bytes | bytearray | memoryview

_ROWS_BYTES = 4 * 1024 * 1024
"""Sealed bytes of rows that a stream holds in memory before it records them on its own."""
_ROWS_COUNT = 16
"""Small chunks that a stream stages as rows; more of them go into its pack."""


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
