"""What a stream has staged and no transaction names yet, and what it counts on."""

from collections.abc import Sequence
from contextlib import suppress

from tgdav.content import index, pack_rows
from tgdav.content.core import ContentCore
from tgdav.content.staging import PackFile
from tgdav.content.types import IndexEntry, SealedChunk
from tgdav.db.transaction import Transaction
from tgdav.errors import LocalFailure
from tgdav.failpoints import failpoint
from tgdav.ids import ChunkId


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
        staged = [index.put_row(transaction, row, local=self._local, replace=self._replace) for row in self.rows]
        lost = self._record_entries(transaction)
        published = [] if self._local else index.publish(transaction, [*self._publish, *lost])
        if self.rows or self.entries or published or self.plaintext:
            transaction.after_commit(lambda: self._after_commit(staged, published))
        failpoint("content.recorded")

    def _record_entries(self, transaction: Transaction) -> list[ChunkId]:
        pack = self.pack
        if not self.entries or pack is None:
            return []
        number = pack_rows.put_pack(
            transaction, name=pack.name, epoch=pack.epoch, file=pack.file, end=pack.length, created=pack.created
        )
        replace = self._replace
        return [
            entry.id for entry in self.entries if not index.put_in_pack(transaction, entry, number, replace=replace)
        ]

    def _after_commit(self, staged: Sequence[index.NewRow], published: Sequence[int]) -> None:
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
