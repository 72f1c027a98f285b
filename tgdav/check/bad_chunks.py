"""Finds the chunks that damage hits: in staging, whose only copy is here, and in damaged packs of the store."""

from collections.abc import Iterator

import msgspec

from tgdav.blobs.interface import BlobInfo, BlobStore
from tgdav.content.pack_table import PackState
from tgdav.content.store import ContentStore
from tgdav.crypto.chunk_seal import ChunkBinding
from tgdav.db.connection import Row
from tgdav.errors import BlobMissing, DamageError, LocalFailure
from tgdav.ids import ChunkId


class BadChunk(msgspec.Struct, frozen=True):
    """A chunk that is bad or gone. ``blob`` is its pack's name in hex, or ``database`` for a chunk that is staged as a row."""

    chunk: ChunkId
    blob: str
    reason: str


# ---- staging -------------------------------------------------------------------------------------------------------


class _StagedPack(msgspec.Struct, frozen=True):
    """A row of ``packs`` that is not stored yet; ``size`` once it is closed."""

    no: int
    name: bytes
    state: int
    file: str | None
    end: int
    size: int
    damaged: int


_STAGED = """SELECT no, name, state, file, end, size, damaged FROM packs WHERE state < 3 AND no >= ?
AND EXISTS (SELECT 1 FROM chunks WHERE pack = packs.no) ORDER BY no"""
_CHUNKS = "SELECT id, epoch, codec, length, offset, stored FROM chunks WHERE pack = ? ORDER BY offset"
_ROWS = "SELECT id, epoch, codec, length, data FROM chunks WHERE data IS NOT NULL"
LOST = "content that never reached the store is damaged on this machine; store the files again"


def staged(content: ContentStore, *, read_data: bool) -> Iterator[BadChunk]:
    """Yield the staged chunks that are bad: all of packs that are gone or cut, with ``read_data`` those that do not open."""
    for pack in _staged_packs(content, 0):
        problem = LOST if pack.damaged else _problem(content, pack)
        # The pack may have been sent, and its file removed, since the row was read.
        if problem is not None and _staged_packs(content, pack.no)[:1] == [pack]:
            yield from (BadChunk(ChunkId(row[0]), pack.name.hex(), problem) for row in _chunks_of(content, pack.no))
        elif problem is None and read_data:
            yield from _unreadable(content, pack)
    if read_data:
        with content.database.reading() as connection:
            for row in connection.each(_ROWS):
                yield from _opened(content, row[:4], row[4], "database")


def _staged_packs(content: ContentStore, first: int) -> list[_StagedPack]:
    with content.database.reading() as connection:
        return [_StagedPack(*row) for row in connection.all(_STAGED, (first,))]


def _chunks_of(content: ContentStore, pack: int) -> list[Row]:
    with content.database.reading() as connection:
        return connection.all(_CHUNKS, (pack,))


def _problem(content: ContentStore, pack: _StagedPack) -> str | None:
    if pack.file is None:
        return "it has no file and is not stored"
    try:
        size = (content.staging.directory / pack.file).stat().st_size
    except OSError:
        return "its staged file is gone"
    if pack.state == PackState.OPEN:
        return f"its staged file has {size} bytes of {pack.end}" if size < pack.end else None
    return f"its staged file has {size} bytes, not {pack.size}" if size != pack.size else None


def _unreadable(content: ContentStore, pack: _StagedPack) -> Iterator[BadChunk]:
    name = pack.name.hex()
    for *known, offset, stored_bytes in _chunks_of(content, pack.no):
        try:
            data = content.staging.read(pack.file or "", offset, stored_bytes)
        except LocalFailure as error:
            yield BadChunk(ChunkId(known[0]), name, error.message)
            continue
        if data is not None:
            yield from _opened(content, tuple(known), data, name)
        elif _staged_packs(content, pack.no)[:1] == [pack]:
            yield BadChunk(ChunkId(known[0]), name, "a staged pack is gone")


def _opened(content: ContentStore, known: Row, data: bytes, blob: str) -> Iterator[BadChunk]:
    try:
        content.sealer.open(_binding(known), data, blob)
    except DamageError as error:
        yield BadChunk(ChunkId(known[0]), blob, error.message)


def _binding(known: Row) -> ChunkBinding:
    chunk, epoch, codec, length = known
    return ChunkBinding(ChunkId(chunk), epoch, codec, length)


# ---- packs in the store --------------------------------------------------------------------------------------------

_PACK = "SELECT no, size FROM packs WHERE name = ?"


def stored(content: ContentStore, store: BlobStore, name: bytes, there: BlobInfo | None) -> list[ChunkId]:
    """Return the chunks of a damaged pack that the store's copy does not have intact.

    All of them, if there is no copy of the right size, or if what is damaged is not in a chunk: who loses the local database
    finds none without the index. Raises StoreUnavailable.
    """
    with content.database.reading() as connection:
        pack = connection.one(_PACK, (name,))
    rows = [] if pack is None else _chunks_of(content, pack[0])
    bad = []
    if pack is not None and there is not None and there.size == pack[1]:
        bad = [ChunkId(row[0]) for row in rows if not _is_intact(content, store, there, row)]
    return bad or [ChunkId(row[0]) for row in rows]


def _is_intact(content: ContentStore, store: BlobStore, there: BlobInfo, row: Row) -> bool:
    *known, offset, stored_bytes = row
    try:
        content.sealer.open(_binding(tuple(known)), store.read(there.id, offset, stored_bytes), there.name.hex())
    except (DamageError, BlobMissing):
        return False
    return True
