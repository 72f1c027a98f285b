"""Moves sealed chunks as they are into open packs: from rows of the database, or from a pack file that is to be left."""

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from tgdav.content import chunk_table, pack_table
from tgdav.content.format.chunk import IndexEntry, SealedChunk
from tgdav.content.pack_table import PackRow
from tgdav.content.staging.context import ContentCore
from tgdav.content.staging.pack_file import PackFile
from tgdav.db.transaction import Transaction
from tgdav.errors import DamageError
from tgdav.failpoints import failpoint

_BATCH_BYTES = 8 * 1024 * 1024
_BATCH_ROWS = 512


class ChunkMover:
    """Used by one thread at a time: the uploader's."""

    def __init__(self, core: ContentCore) -> None:
        self._core = core

    def move_rows(self) -> None:
        """Move the chunks staged as rows into packs, in batches; packs that become full wait in the pool to be closed.

        Raises NoSpace and LocalFailure; what was moved so far stays moved.
        """
        after = 0
        while batch := self._next_rows(after):
            after = batch[-1].no
            chunks = [SealedChunk(row.id, row.length, row.codec, row.epoch, row.data) for row in batch]
            self._move(chunks, None)
            size = sum(len(row.data) for row in batch)
            self._core.space.charge(-size)
            self._core.backlog.remove(len(batch), size)

    def _next_rows(self, after: int) -> list[chunk_table.StagedRow]:
        with self._core.database.reading() as connection:
            count = _fitting(chunk_table.staged_sizes(connection, after, _BATCH_ROWS))
            return chunk_table.staged_rows(connection, after, count) if count else []

    def move_sealed(self, chunks: Sequence[SealedChunk], old: int) -> None:
        """Move chunks of pack ``old``, given sealed anew, to packs that are to be sent; those that left it meanwhile stay.

        Raises NoSpace and LocalFailure; what was moved so far stays moved.
        """
        self._move(list(chunks), old)

    def move_from(self, pack: PackFile, row: PackRow, entries: Iterable[IndexEntry]) -> int:
        """Move the chunks of ``pack`` that open to another pack; return how many do not, and stay."""
        tally = _Tally()
        batch: list[SealedChunk] = []
        for chunk in self._good(pack, row, entries, tally):
            batch.append(chunk)
            if sum(len(chunk.data) for chunk in batch) >= _BATCH_BYTES:
                self._move(batch, row.no)
                batch = []
        self._move(batch, row.no)
        return tally.bad

    def _good(
        self, pack: PackFile, row: PackRow, entries: Iterable[IndexEntry], tally: "_Tally"
    ) -> Iterator[SealedChunk]:
        for entry in entries:
            sealed = pack.read(entry.offset, entry.stored)
            try:
                self._core.sealer.open(entry.id, entry.epoch, entry.codec, entry.length, sealed, row.name.hex())
            except DamageError:
                tally.bad += 1
                continue
            yield SealedChunk(entry.id, entry.length, entry.codec, entry.epoch, sealed)

    def _move(self, chunks: list[SealedChunk], old: int | None) -> None:
        pool = self._core.pool
        while chunks:
            pack = pool.take(len(chunks[0].data), self._core.keys.current_epoch)
            try:
                chunks = self._fill(pack, chunks, old)
            finally:
                pool.give_back(pack, full=bool(chunks))

    def _fill(self, pack: PackFile, chunks: list[SealedChunk], old: int | None) -> list[SealedChunk]:
        """Append what fits, record it; return the rest."""
        entries: list[IndexEntry] = []
        end = pack.length
        for chunk in chunks:
            stored = len(chunk.data)
            if not self._core.pool.fits(end + stored, pack.count + len(entries) + 1):
                break
            entries.append(IndexEntry(chunk.id, end, stored, chunk.length, chunk.codec, chunk.epoch))
            end += stored
        pack.append(b"".join(chunk.data for chunk in chunks[: len(entries)]))
        pack.count += len(entries)
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
        # Named even if the commit fails: nobody can be sure that it did not happen.
        pack.end = pack.length
        self._core.database.writer.run(record, sync=[pack])
        failpoint("content.after-move")


class _Tally(msgspec.Struct):
    bad: int = 0


def _fitting(sizes: list[tuple[int, int]]) -> int:
    """Return how many of the first (number, bytes) make a batch: at least one, if there is one."""
    total = 0
    for count, (_, size) in enumerate(sizes):
        total += size
        if total > _BATCH_BYTES:
            return max(count, 1)
    return len(sizes)
