"""Moves sealed chunks, as they are, to open packs: from rows of the database, or from a pack that is damaged or lost."""

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from tgdav.content import chunk_table, pack_table
from tgdav.content.chunk_table import DeadRow
from tgdav.content.format.chunk import IndexEntry, SealedChunk
from tgdav.content.pack_table import PackRow
from tgdav.content.staging.context import ContentContext
from tgdav.content.staging.pack_file import PackFile
from tgdav.db.transaction import Transaction
from tgdav.errors import DamageError
from tgdav.failpoints import failpoint

_BATCH_BYTES = 8 * 1024 * 1024
_BATCH_ROWS = 512


class Repacker:
    """Used by one thread at a time: the uploader's."""

    def __init__(self, context: ContentContext) -> None:
        self._context = context

    def pack_rows(self) -> None:
        """Move the chunks staged as rows to packs, in batches; packs that become full then wait to be closed.

        Raises NoSpace and LocalFailure; what was moved before stays moved.
        """
        after = 0
        # Batches bound the memory; rows that are staged meanwhile have larger numbers and are found by a later batch.
        while batch := self._next_rows(after):
            after = batch[-1].no
            chunks = [SealedChunk(row.id, row.length, row.codec, row.epoch, row.data) for row in batch]
            self._move(chunks, None)
            size = sum(len(row.data) for row in batch)
            self._context.quota.charge(-size)
            self._context.backlog.remove(len(batch), size)

    def _next_rows(self, after: int) -> list[chunk_table.StagedRow]:
        with self._context.database.reading() as connection:
            count = _fitting(chunk_table.staged_sizes(connection, after, _BATCH_ROWS))
            return chunk_table.staged_rows(connection, after, count) if count else []

    def drop_rows(self, rows: Sequence[DeadRow]) -> None:
        """Delete chunks that are staged as rows and that nothing refers to, save those that a stream has pinned meanwhile."""
        context = self._context
        free = context.pins.start_removal(row.id for row in rows)
        try:
            wanted = [row for row in rows if row.id in free]
            dropped = context.database.writer.run(
                lambda transaction: [row for row in wanted if chunk_table.drop_row(transaction, row)]
            )
        finally:
            context.pins.end_removal(free)
        sizes = [row.size for row in dropped if not row.local]
        context.quota.charge(-sum(sizes))
        context.backlog.remove(len(sizes), sum(sizes))

    def move_chunks(self, chunks: Sequence[SealedChunk], old: int) -> None:
        """Stage chunks of pack ``old``, sealed again, in other packs; chunks that left it meanwhile are not moved.

        Raises NoSpace and LocalFailure; what was moved before stays moved.
        """
        self._move(list(chunks), old)

    def salvage(self, pack: PackFile, row: PackRow, entries: Iterable[IndexEntry]) -> int:
        """Move the chunks of ``pack`` that pass every check to another pack; return how many do not."""
        tally = _Tally()
        batch: list[SealedChunk] = []
        for chunk in self._good_chunks(pack, row, entries, tally):
            batch.append(chunk)
            if sum(len(chunk.data) for chunk in batch) >= _BATCH_BYTES:
                self._move(batch, row.no)
                batch = []
        self._move(batch, row.no)
        return tally.bad

    def _good_chunks(
        self, pack: PackFile, row: PackRow, entries: Iterable[IndexEntry], tally: "_Tally"
    ) -> Iterator[SealedChunk]:
        for entry in entries:
            sealed = pack.read(entry.offset, entry.stored)
            try:
                self._context.sealer.open(entry.binding, sealed, row.name.hex())
            except DamageError:
                tally.bad += 1
                continue
            yield SealedChunk(entry.id, entry.length, entry.codec, entry.epoch, sealed)

    def _move(self, chunks: list[SealedChunk], old: int | None) -> None:
        packs = self._context.open_packs
        while chunks:
            pack = packs.acquire(len(chunks[0].data), self._context.keys.current_epoch)
            try:
                chunks = self._fill(pack, chunks, old)
            finally:
                packs.release(pack, full=bool(chunks))

    def _fill(self, pack: PackFile, chunks: list[SealedChunk], old: int | None) -> list[SealedChunk]:
        """Append and record the chunks that fit; return the others."""
        entries: list[IndexEntry] = []
        end = pack.length
        for chunk in chunks:
            stored = len(chunk.data)
            if not self._context.open_packs.fits(end + stored, pack.count + len(entries) + 1):
                break
            entries.append(IndexEntry(chunk.id, end, stored, chunk.length, chunk.codec, chunk.epoch))
            end += stored
        pack.append(b"".join(chunk.data for chunk in chunks[: len(entries)]))
        pack.count += len(entries)
        # Before the writer's turn, so that other commits do not wait for this sync.
        pack.sync()
        self._record(pack, entries, old)
        return chunks[len(entries) :]

    def _record(self, pack: PackFile, entries: list[IndexEntry], old: int | None) -> None:
        def record(transaction: Transaction) -> None:
            number = pack_table.put_pack(
                transaction, name=pack.name, epoch=pack.epoch, file=pack.file, end=pack.length, created=pack.created
            )
            chunk_table.move(transaction, entries, old, number)

        failpoint("content.before-move")
        # Set even if the commit fails, because it may have been committed all the same.
        pack.end = pack.length
        self._context.database.writer.run(record, sync=[pack])
        failpoint("content.after-move")


class _Tally(msgspec.Struct):
    bad: int = 0


def _fitting(sizes: list[tuple[int, int]]) -> int:
    """Return how many of the first (number, bytes) make a batch: at least one, if there are any."""
    total = 0
    for count, (_, size) in enumerate(sizes):
        total += size
        if total > _BATCH_BYTES:
            return max(count, 1)
    return len(sizes)
