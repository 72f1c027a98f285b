"""The table ``chunks``, where each known chunk is: its statements, compiled once, and functions over them.

Functions that read take a ``Connection``, those that write a ``Transaction``. The table ``packs`` is in ``pack_table``.
"""

import re
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import msgspec
from sqlalchemy import and_, bindparam, case, delete, func, null, or_, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from tgdav.content.format.chunk import IndexEntry, SealedChunk
from tgdav.content.pack_table import PackState
from tgdav.crypto.chunk_seal import ChunkBinding
from tgdav.db.connection import Connection
from tgdav.db.deferred import MOST_ROWS, Inserts
from tgdav.db.schema import chunks, packs
from tgdav.db.statements import compiled
from tgdav.db.transaction import Transaction
from tgdav.ids import BlobId, BlobName, ChunkId

_DAMAGED = or_(packs.c.damaged == 1, packs.c.state == int(PackState.RETIRED))
_DAMAGED_PACKS = select(packs.c.no).where(_DAMAGED)
_JOINED = chunks.outerjoin(packs, packs.c.no == chunks.c.pack)
_STAGED = and_(chunks.c.data.is_not(None), chunks.c.local == 0)


class ChunkLocation(msgspec.Struct, frozen=True, gc=False):
    """A row of ``chunks`` joined with its pack: ``data`` while staged as a row, otherwise an offset in a pack.

    ``state``, ``damaged``, ``file`` (in the staging directory) and ``blob`` (id in the store) are the pack's.
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

    @property
    def binding(self) -> ChunkBinding:
        """What the chunk's seal is bound to."""
        return ChunkBinding(self.id, self.epoch, self.codec, self.length)


class StagedRow(msgspec.Struct, frozen=True, gc=False):
    """A chunk that is staged as a row."""

    no: int
    id: ChunkId
    length: int
    codec: int
    epoch: int
    data: bytes


# Chunks of a damaged or retired pack are unknown, so that new content stores them again.
_KNOWN = compiled(
    select(chunks.c.local)
    .select_from(_JOINED)
    .where(chunks.c.id == bindparam("id"), or_(chunks.c.pack.is_(None), packs.c.no.is_not(None) & ~_DAMAGED))
)
_FIND = compiled(
    select(
        chunks.c.id,
        chunks.c.length,
        chunks.c.stored,
        chunks.c.codec,
        chunks.c.epoch,
        chunks.c.data,
        chunks.c.offset,
        chunks.c.pack,
        packs.c.name,
        packs.c.state,
        packs.c.file,
        packs.c.blob,
        packs.c.damaged,
        chunks.c.local,
    )
    .select_from(_JOINED)
    .where(chunks.c.id == bindparam("id"))
)
_CHUNK_COLUMNS = ("id", "length", "stored", "codec", "epoch", "pack", "offset", "data", "local")


def _put_chunk() -> str:
    statement = upsert(chunks).values({name: bindparam(name, type_=chunks.c[name].type) for name in _CHUNK_COLUMNS})
    new = statement.excluded
    fields: dict[str, Any] = {name: new[name] for name in _CHUNK_COLUMNS if name not in ("id", "local")}
    fields["local"] = func.min(chunks.c.local, new.local)
    # Staged rows are not replaced, even without deduplication: they will be sent anyway.
    stored_before = and_(bindparam("replace") == 1, chunks.c.pack.is_not(None))
    replaceable = or_(stored_before, chunks.c.pack.in_(_DAMAGED_PACKS))
    return compiled(statement.on_conflict_do_update(index_elements=["id"], set_=fields, where=replaceable))


_PUT_CHUNK = _put_chunk()
# The tail of the statement; its only parameter is ``replace``.
_CONFLICT = _PUT_CHUNK[_PUT_CHUNK.index(" ON CONFLICT") :]
_IS_THIS = compiled(select(chunks.c.no).where(chunks.c.id == bindparam("id"), chunks.c.data == bindparam("data")))
_PUBLISH = compiled(
    update(chunks)
    .where(chunks.c.id == bindparam("chunk"), chunks.c.local == 1)
    .values(local=0)
    .returning(chunks.c.stored)
)
# In an UPDATE, SQLAlchemy reserves the names of the columns: the parameters need other names.
_MOVE = compiled(
    update(chunks)
    .where(chunks.c.id == bindparam("chunk"), chunks.c.pack.is_not_distinct_from(bindparam("old_pack")))
    .values(
        pack=bindparam("new_pack"),
        offset=bindparam("new_offset"),
        stored=bindparam("new_stored"),
        codec=bindparam("new_codec"),
        epoch=bindparam("new_epoch"),
        data=null(),
    )
)
_STAGED_ROWS = compiled(
    select(chunks.c.no, chunks.c.id, chunks.c.length, chunks.c.codec, chunks.c.epoch, chunks.c.data)
    .where(_STAGED, chunks.c.no > bindparam("after"))
    .order_by(chunks.c.no)
    .limit(bindparam("count"))
)
_STAGED_SIZES = compiled(
    select(chunks.c.no, chunks.c.stored)
    .where(_STAGED, chunks.c.no > bindparam("after"))
    .order_by(chunks.c.no)
    .limit(bindparam("count"))
)
_ALL_STAGED = compiled(
    select(chunks.c.no, chunks.c.id, chunks.c.stored, chunks.c.local).where(chunks.c.data.is_not(None))
)
_DROP_STAGED = compiled(
    delete(chunks).where(
        chunks.c.no == bindparam("number"), chunks.c.data.is_not(None), chunks.c.local == bindparam("is_local")
    )
)
_STAGED_TOTAL = compiled(select(func.count(), func.coalesce(func.sum(chunks.c.stored), 0)).where(_STAGED))
_ENTRIES = compiled(
    select(chunks.c.id, chunks.c.offset, chunks.c.stored, chunks.c.length, chunks.c.codec, chunks.c.epoch)
    .where(chunks.c.pack == bindparam("pack"))
    .order_by(chunks.c.offset)
)
_STATE = compiled(
    select(
        case((chunks.c.pack.is_(None), int(PackState.OPEN)), else_=func.coalesce(packs.c.state, int(PackState.OPEN)))
    )
    .select_from(_JOINED)
    .where(chunks.c.id == bindparam("id"))
)


_PUT_STORED_PACK = """INSERT INTO packs
(name, state, epoch, file, end, size, hash, label, blob, announced, damaged, created)
VALUES (?, ?, ?, NULL, 0, ?, ?, ?, ?, ?, ?, 0)
ON CONFLICT (name) DO UPDATE SET announced = excluded.announced RETURNING no"""

_DISCARD = """DELETE FROM chunks WHERE id = ? AND local = 0
AND (data IS NOT NULL OR pack IN (SELECT no FROM packs WHERE state = 0 AND damaged = 0))
RETURNING stored, data IS NOT NULL"""
_UNSTAGE = """UPDATE chunks SET pack = ?, offset = ?, stored = ?, codec = ?, epoch = ?, data = NULL
WHERE id = ? AND data IS NOT NULL AND local = 0"""


def known(connection: Connection, chunk: ChunkId) -> bool | None:
    """Return None if new content must store the chunk, otherwise whether only local content references it."""
    row = connection.one(_KNOWN, {"id": chunk})
    return None if row is None else bool(row[0])


def find(connection: Connection, chunk: ChunkId) -> ChunkLocation | None:
    """Return where a chunk is, None if it is unknown."""
    row = connection.one(_FIND, {"id": chunk})
    return None if row is None else ChunkLocation(*row)


class NewRow(msgspec.Struct, gc=False):
    """A chunk that is being staged as a row. ``existed``: the table had it already, and this copy was dropped."""

    chunk: SealedChunk
    local: bool
    existed: bool = False
    published: Sequence[int] = ()
    """Sealed bytes of the existing row, if only local content referenced it until now."""

    @property
    def added(self) -> Sequence[int]:
        """Sealed bytes that are from now on meant for the store."""
        return self.published if self.existed else (len(self.chunk.data),)


class _NewRows:
    """Inserts rows of several jobs at once. An existing row is kept, unless ``replace``."""

    rank = 0
    number: int | None = None

    def __init__(self, *, replace: bool) -> None:
        self._inserts = Inserts(chunks, _CHUNK_COLUMNS, re.sub(r"\?\d+", str(int(replace)), _CONFLICT))

    def values(self, row: NewRow) -> tuple[Any, ...]:
        """Return the values of the row's columns."""
        return _columns(row)

    def write(self, connection: Connection, rows: Sequence[NewRow]) -> None:
        """Insert the rows and find out which existed."""
        # SQLite limits the parameters of one statement.
        for start in range(0, len(rows), MOST_ROWS):
            part = rows[start : start + MOST_ROWS]
            if self._inserts.insert(connection, [_columns(each) for each in part]) < len(part):
                _mark_existing(connection, part)


def _columns(row: NewRow) -> tuple[Any, ...]:
    chunk = row.chunk
    return (chunk.id, chunk.length, len(chunk.data), chunk.codec, chunk.epoch, None, 0, chunk.data, int(row.local))


def _mark_existing(connection: Connection, rows: Sequence[NewRow]) -> None:
    """Set ``existed``: sealing is randomised, so other bytes in the table are another job's."""
    for row in rows:
        row.existed = connection.one(_IS_THIS, {"id": row.chunk.id, "data": row.chunk.data}) is None
        if row.existed and not row.local:
            row.published = publish(connection, [row.chunk.id])


_NEW_ROWS = {replace: _NewRows(replace=replace) for replace in (False, True)}


def put_row(transaction: Transaction, chunk: SealedChunk, *, local: bool, replace: bool) -> NewRow:
    """Stage a chunk as a row, in one statement with the rows of other jobs.

    After the commit, ``existed`` of the result tells whether the chunk was known already and not replaced.
    """
    row = NewRow(chunk, local)
    transaction.defer(_NEW_ROWS[replace], row)
    return row


def put_in_pack(transaction: Transaction, entry: IndexEntry, pack: int, *, replace: bool) -> bool:
    """Record a chunk that was appended to a pack; False if it was known already and not replaced."""
    values = {
        "id": entry.id,
        "length": entry.length,
        "stored": entry.stored,
        "codec": entry.codec,
        "epoch": entry.epoch,
        "pack": pack,
        "offset": entry.offset,
        "data": None,
        "local": 0,
        "replace": int(replace),
    }
    return bool(transaction.execute(_PUT_CHUNK, values).rowcount)


def publish(connection: Connection, ids: Iterable[ChunkId]) -> list[int]:
    """Make local chunks of these ids meant for the store; return the sealed bytes of each chunk that was local."""
    rows = (connection.one(_PUBLISH, {"chunk": chunk}) for chunk in ids)
    return [row[0] for row in rows if row is not None]


def move(transaction: Transaction, entries: Sequence[IndexEntry], old: int | None, new: int) -> None:
    """Record that chunks moved to pack ``new`` from rows (``old`` None) or pack ``old``; others moved meanwhile and stay."""
    rows = [
        {
            "chunk": entry.id,
            "old_pack": old,
            "new_pack": new,
            "new_offset": entry.offset,
            "new_stored": entry.stored,
            "new_codec": entry.codec,
            "new_epoch": entry.epoch,
        }
        for entry in entries
    ]
    transaction.executemany(_MOVE, rows)


def staged_rows(connection: Connection, after: int, count: int) -> list[StagedRow]:
    """Return up to ``count`` chunks staged as rows for the store, in order, with numbers larger than ``after``."""
    return [StagedRow(*row) for row in connection.all(_STAGED_ROWS, {"after": after, "count": count})]


def staged_sizes(connection: Connection, after: int, count: int) -> list[tuple[int, int]]:
    """Return (number, sealed bytes) of the rows that ``staged_rows`` returns."""
    return [(row[0], row[1]) for row in connection.all(_STAGED_SIZES, {"after": after, "count": count})]


class DeadRow(msgspec.Struct, frozen=True, gc=False):
    """A chunk that is staged as a row and that nothing refers to."""

    no: int
    id: ChunkId
    size: int
    local: int


def dead_rows(connection: Connection, live: Container[bytes], most: int) -> list[DeadRow]:
    """Return up to ``most`` chunks that are staged as rows, or are of this machine alone, and are not live."""
    dead = (DeadRow(*row) for row in connection.each(_ALL_STAGED) if row[1] not in live)
    return list(islice(dead, most))


def drop_row(transaction: Transaction, row: DeadRow) -> bool:
    """Delete a staged chunk; return False if it is not there any more as it was."""
    params = {"number": row.no, "is_local": row.local}
    return int(transaction.execute(_DROP_STAGED, params).rowcount) > 0


def staged_total(connection: Connection) -> tuple[int, int]:
    """Return (count, sealed bytes) of the chunks staged as rows for the store."""
    row = connection.one(_STAGED_TOTAL)
    return (row[0], row[1]) if row else (0, 0)


def discard(transaction: Transaction, ids: Iterable[ChunkId]) -> list[int]:
    """Delete those of these chunks that are staged as rows or in open packs; return the sealed bytes of each row."""
    dropped = [transaction.one(_DISCARD, (chunk,)) for chunk in ids]
    return [row[0] for row in dropped if row is not None and row[1]]


def entries(connection: Connection, pack: int) -> list[IndexEntry]:
    """Return the entries of a pack's index, by offset."""
    return [IndexEntry(*row) for row in connection.all(_ENTRIES, {"pack": pack})]


def states(connection: Connection, ids: Iterable[ChunkId]) -> Iterator[PackState | None]:
    """Yield the state of each chunk's pack; OPEN for rows, None for unknown chunks."""
    for chunk in ids:
        row = connection.one(_STATE, {"id": chunk})
        yield None if row is None else PackState(row[0])


class StoredPack(msgspec.Struct, frozen=True, kw_only=True):
    """A pack that a segment announced. ``blob`` None: the store does not have it."""

    name: BlobName
    epoch: int
    size: int
    digest: bytes
    label: str
    blob: BlobId | None
    segment: int
    """Number of the segment."""


def record_stored_pack(
    transaction: Transaction, pack: StoredPack, entries: Iterable[IndexEntry], *, takes_rows: bool = False
) -> None:
    """Record a pack and its chunks. If the pack is missing, new content stores its chunks again.

    If two indexes have a chunk, the later pack counts, unless it is missing. ``takes_rows``: chunks that are staged as rows
    are not sent any more; only before the content store is opened, because that counts the rows.
    """
    is_missing = pack.blob is None
    row = transaction.one(
        _PUT_STORED_PACK,
        (
            pack.name,
            int(PackState.STORED),
            pack.epoch,
            pack.size,
            pack.digest,
            pack.label,
            pack.blob,
            pack.segment,
            int(is_missing),
        ),
    )
    assert row is not None, "RETURNING gives a row"
    number = int(row[0])
    for entry in entries:
        if takes_rows and not is_missing:
            transaction.execute(_UNSTAGE, (number, entry.offset, entry.stored, entry.codec, entry.epoch, entry.id))
        put_in_pack(transaction, entry, number, replace=not is_missing)
