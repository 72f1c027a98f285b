"""The statements on chunks, compiled once, and thin functions over them: where each known chunk is.

All take a ``Connection`` (to look) or a ``Transaction`` (to change). Those on packs are in ``pack_rows``.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
from sqlalchemy import and_, bindparam, case, func, null, or_, select, update
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

_UNSOUND = or_(packs.c.damaged == 1, packs.c.state == int(PackState.RETIRED))
_BAD_PACKS = select(packs.c.no).where(_UNSOUND)
_JOINED = chunks.outerjoin(packs, packs.c.no == chunks.c.pack)
_STAGED = and_(chunks.c.data.is_not(None), chunks.c.local == 0)


class ChunkLocation(msgspec.Struct, frozen=True, gc=False):
    """A row of ``chunks`` joined with its pack: ``data`` while staged as a row, else a place in a pack.

    ``state``, ``damaged``, ``file`` (in the staging folder) and ``blob`` (id in the store) are the pack's.
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


_KNOWN = compiled(
    select(chunks.c.local)
    .select_from(_JOINED)
    .where(chunks.c.id == bindparam("id"), or_(chunks.c.pack.is_(None), packs.c.no.is_not(None) & ~_UNSOUND))
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
    # A row is never replaced: it is on its way already.
    stored_before = and_(bindparam("replace") == 1, chunks.c.pack.is_not(None))
    replaceable = or_(stored_before, chunks.c.pack.in_(_BAD_PACKS))
    return compiled(statement.on_conflict_do_update(index_elements=["id"], set_=fields, where=replaceable))


_PUT_CHUNK = _put_chunk()
# Of parameters it has ``replace`` alone.
_CONFLICT = _PUT_CHUNK[_PUT_CHUNK.index(" ON CONFLICT") :]
_IS_THIS = compiled(select(chunks.c.no).where(chunks.c.id == bindparam("id"), chunks.c.data == bindparam("data")))
_PUBLISH = compiled(
    update(chunks)
    .where(chunks.c.id == bindparam("chunk"), chunks.c.local == 1)
    .values(local=0)
    .returning(chunks.c.stored)
)
_MOVE = compiled(
    update(chunks)
    .where(chunks.c.id == bindparam("chunk"), chunks.c.pack.is_not_distinct_from(bindparam("old")))
    .values(
        pack=bindparam("new"),
        offset=bindparam("place"),
        stored=bindparam("sealed"),
        codec=bindparam("coding"),
        epoch=bindparam("era"),
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

_UNSTAGE = """UPDATE chunks SET pack = ?, offset = ?, stored = ?, codec = ?, epoch = ?, data = NULL
WHERE id = ? AND data IS NOT NULL AND local = 0"""


def known(connection: Connection, chunk: ChunkId) -> bool | None:
    """Return None if new content cannot name the chunk as it is, else whether it is local (named by junk alone)."""
    row = connection.one(_KNOWN, {"id": chunk})
    return None if row is None else bool(row[0])


def find(connection: Connection, chunk: ChunkId) -> ChunkLocation | None:
    """Return where a chunk is."""
    row = connection.one(_FIND, {"id": chunk})
    return None if row is None else ChunkLocation(*row)


class NewRow(msgspec.Struct, gc=False):
    """A chunk being staged as a row. ``lost``: it turned out that it is there already."""

    chunk: SealedChunk
    local: bool
    lost: bool = False
    published: Sequence[int] = ()
    """Sealed bytes of the one that was there, where only junk named it until now."""

    @property
    def added(self) -> Sequence[int]:
        """Sealed bytes that are meant for the store only now."""
        return self.published if self.lost else (len(self.chunk.data),)


class _NewRows:
    """Rows of chunks, put beside each other; of what is there already the older one is kept, unless ``replace``."""

    rank = 0
    number: int | None = None

    def __init__(self, *, replace: bool) -> None:
        self._inserts = Inserts(chunks, _CHUNK_COLUMNS, re.sub(r"\?\d+", str(int(replace)), _CONFLICT))

    def values(self, row: NewRow) -> tuple[Any, ...]:
        """Return the values of the row's columns."""
        return _columns(row)

    def write(self, connection: Connection, rows: Sequence[NewRow]) -> None:
        """Insert them; tell apart which were lost."""
        for start in range(0, len(rows), MOST_ROWS):
            part = rows[start : start + MOST_ROWS]
            if self._inserts.insert(connection, [_columns(each) for each in part]) < len(part):
                _tell_apart(connection, part)


def _columns(row: NewRow) -> tuple[Any, ...]:
    chunk = row.chunk
    return (chunk.id, chunk.length, len(chunk.data), chunk.codec, chunk.epoch, None, 0, chunk.data, int(row.local))


def _tell_apart(connection: Connection, rows: Sequence[NewRow]) -> None:
    """Each sealing has bytes of its own, so the bytes tell whose row is there."""
    for row in rows:
        row.lost = connection.one(_IS_THIS, {"id": row.chunk.id, "data": row.chunk.data}) is None
        if row.lost and not row.local:
            row.published = publish(connection, [row.chunk.id])


_NEW_ROWS = {replace: _NewRows(replace=replace) for replace in (False, True)}


def put_row(transaction: Transaction, chunk: SealedChunk, *, local: bool, replace: bool) -> NewRow:
    """Stage a chunk as a row, together with its like of other jobs; after the commit the result tells how it went.

    It is lost where another was faster, or where ``replace`` is False and it was known.
    """
    row = NewRow(chunk, local)
    transaction.defer(_NEW_ROWS[replace], row)
    return row


def put_in_pack(transaction: Transaction, entry: IndexEntry, pack: int, *, replace: bool) -> bool:
    """Note a chunk that was appended to an open pack; False where ``put_row`` would lose it."""
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
    """Chunks that only junk named so far are named by content of the log now: they go to the store.

    Return the sealed bytes of each that was not on its way already.
    """
    rows = (connection.one(_PUBLISH, {"chunk": chunk}) for chunk in ids)
    return [row[0] for row in rows if row is not None]


def move(transaction: Transaction, entries: Sequence[IndexEntry], old: int | None, new: int) -> None:
    """Chunks staged as rows (``old`` None) or in pack ``old`` lie in pack ``new`` now; what went elsewhere meanwhile stays."""
    rows = [
        {
            "chunk": entry.id,
            "old": old,
            "new": new,
            "place": entry.offset,
            "sealed": entry.stored,
            "coding": entry.codec,
            "era": entry.epoch,
        }
        for entry in entries
    ]
    transaction.executemany(_MOVE, rows)


def staged_rows(connection: Connection, after: int, count: int) -> list[StagedRow]:
    """Return up to ``count`` chunks staged as rows and meant for the store, in order of arrival, from number ``after`` on."""
    return [StagedRow(*row) for row in connection.all(_STAGED_ROWS, {"after": after, "count": count})]


def staged_sizes(connection: Connection, after: int, count: int) -> list[tuple[int, int]]:
    """Return (number, sealed bytes) of what ``staged_rows`` would return."""
    return [(row[0], row[1]) for row in connection.all(_STAGED_SIZES, {"after": after, "count": count})]


def staged_total(connection: Connection) -> tuple[int, int]:
    """Return (how many, sealed bytes) of the chunks staged as rows and meant for the store."""
    row = connection.one(_STAGED_TOTAL)
    return (row[0], row[1]) if row else (0, 0)


def entries(connection: Connection, pack: int) -> list[IndexEntry]:
    """Return what a pack's index is to hold, by offset."""
    return [IndexEntry(*row) for row in connection.all(_ENTRIES, {"pack": pack})]


def states(connection: Connection, ids: Iterable[ChunkId]) -> Iterator[PackState | None]:
    """Go through the states of the packs that hold the chunks; OPEN for rows, None for chunks nowhere known."""
    for chunk in ids:
        row = connection.one(_STATE, {"id": chunk})
        yield None if row is None else PackState(row[0])


def record_stored_pack(
    transaction: Transaction,
    *,
    name: BlobName,
    epoch: int,
    size: int,
    digest: bytes,
    label: str,
    blob: BlobId | None,
    segment: int,
    entries: Iterable[IndexEntry],
    takes_rows: bool = False,
) -> None:
    """Note a pack and its chunks. ``blob`` None: the store does not have it, so its chunks are not known for sound.

    A later index wins over an earlier one, unless its pack is lost: what was stored anew is read from there. ``takes_rows``:
    chunks that are staged as rows need not be sent any more; only while the content store is not open, which counts them.
    """
    row = transaction.one(
        _PUT_STORED_PACK, (name, int(PackState.STORED), epoch, size, digest, label, blob, segment, int(blob is None))
    )
    assert row is not None, "RETURNING gives a row"
    for entry in entries:
        if takes_rows and blob is not None:
            transaction.execute(_UNSTAGE, (int(row[0]), entry.offset, entry.stored, entry.codec, entry.epoch, entry.id))
        put_in_pack(transaction, entry, int(row[0]), replace=blob is not None)
