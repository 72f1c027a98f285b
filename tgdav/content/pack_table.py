"""The tables ``packs``, ``blobs`` and ``damage``: their statements, compiled once, and functions over them."""

from enum import IntEnum
from typing import Any

import msgspec
from sqlalchemy import and_, bindparam, case, delete, func, insert, null, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from tgdav.crypto.label import BlobKind
from tgdav.db.connection import Connection
from tgdav.db.schema import blobs, damage, packs
from tgdav.db.statements import compiled
from tgdav.db.transaction import Transaction
from tgdav.ids import BlobName


class PackState(IntEnum):
    """The life cycle of a pack; the values of ``packs.state``. Only an open pack is written to."""

    OPEN = 0
    CLOSED = 1
    SENT = 2
    STORED = 3
    RETIRED = 4


_WAITING = packs.c.state < int(PackState.STORED)


class PackRow(msgspec.Struct, frozen=True, gc=False):
    """The columns of ``packs`` that uploading needs. Sizes in bytes."""

    no: int
    name: BlobName
    state: int
    epoch: int
    file: str | None
    end: int
    size: int
    digest: bytes | None
    label: str | None
    damaged: int
    created: int


_PACK_FIELDS = [packs.c[name] for name in ("no", "name", "state", "epoch", "file", "end", "size", "hash", "label")]
_PACK_FIELDS += [packs.c.damaged, packs.c.created]


def _put_pack() -> str:
    names = ("name", "epoch", "file", "end", "created")
    values: dict[str, Any] = {name: bindparam(name, type_=packs.c[name].type) for name in names}
    statement = upsert(packs).values(**values, state=int(PackState.OPEN), size=0, damaged=0)
    # ``end`` never decreases, in whichever order transactions are committed.
    end = func.max(packs.c.end, statement.excluded.end)
    return compiled(statement.on_conflict_do_update(index_elements=["name"], set_={"end": end}).returning(packs.c.no))


_PUT_PACK = _put_pack()
_WAITING_PACKS = compiled(select(*_PACK_FIELDS).where(_WAITING).order_by(packs.c.no))
_PACK = compiled(select(*_PACK_FIELDS).where(packs.c.no == bindparam("pack")))
_PACK_NAMED = compiled(select(*_PACK_FIELDS).where(packs.c.name == bindparam("name")))
_CLOSE = compiled(
    update(packs)
    .where(packs.c.no == bindparam("pack"), packs.c.state == int(PackState.OPEN))
    .values(state=int(PackState.CLOSED), size=bindparam("bytes"), hash=bindparam("digest"), label=bindparam("caption"))
)
_SENT = compiled(
    update(packs)
    .where(packs.c.no == bindparam("pack"), packs.c.state == int(PackState.CLOSED))
    .values(state=int(PackState.SENT))
)
_STORED = compiled(
    update(packs)
    .where(packs.c.no == bindparam("pack"))
    .values(state=int(PackState.STORED), blob=bindparam("blob_id"), file=null(), damaged=0)
)
_DELETE = compiled(delete(packs).where(packs.c.no == bindparam("pack")))
# A listing of the store may have recorded the blob before.
_BLOB = compiled(
    upsert(blobs)
    .values(id=bindparam("id"), name=bindparam("name"), kind=int(BlobKind.PACK), size=bindparam("size"), gone=0)
    .on_conflict_do_nothing()
)
_BLOB_HASH = compiled(update(blobs).where(blobs.c.id == bindparam("blob_id")).values(hash=bindparam("digest")))
_MARK_DAMAGED = compiled(update(packs).where(packs.c.no == bindparam("pack")).values(damaged=1))
_WAITING_BYTES = compiled(
    select(
        func.coalesce(func.sum(case((packs.c.state == int(PackState.OPEN), packs.c.end), else_=packs.c.size)), 0)
    ).where(and_(_WAITING, packs.c.damaged == 0))
)


def _put_damage() -> str:
    names = ("blob", "kind", "reason", "found")
    statement = insert(damage).prefix_with("OR REPLACE")
    return compiled(statement.values({name: bindparam(name, type_=damage.c[name].type) for name in names}))


_PUT_DAMAGE = _put_damage()


def put_pack(transaction: Transaction, *, name: BlobName, epoch: int, file: str, end: int, created: int) -> int:
    """Record that the first ``end`` bytes of an open pack are referenced; return the number of its row, perhaps a new one."""
    values = {"name": name, "epoch": epoch, "file": file, "end": end, "created": created}
    row = transaction.one(_PUT_PACK, values)
    assert row is not None, "RETURNING gives a row"
    return int(row[0])


def waiting_packs(connection: Connection) -> list[PackRow]:
    """Return the packs that are not stored yet, oldest first."""
    return [PackRow(*row) for row in connection.all(_WAITING_PACKS)]


def pack(connection: Connection, number: int) -> PackRow | None:
    """Return the pack of this number."""
    row = connection.one(_PACK, {"pack": number})
    return None if row is None else PackRow(*row)


def pack_named(connection: Connection, name: BlobName) -> PackRow | None:
    """Return the pack of this name."""
    row = connection.one(_PACK_NAMED, {"name": name})
    return None if row is None else PackRow(*row)


def waiting_bytes(connection: Connection) -> int:
    """Return the bytes of packs that are not stored yet and not damaged."""
    row = connection.one(_WAITING_BYTES)
    return int(row[0]) if row else 0


def close_pack(transaction: Transaction, number: int, size: int, digest: bytes, label: str) -> None:
    """Open → closed: the file is complete and will not change; ``digest`` is BLAKE3-256 of the whole file."""
    transaction.execute(_CLOSE, {"pack": number, "bytes": size, "digest": digest, "caption": label})


def mark_sent(transaction: Transaction, number: int) -> None:
    """Closed → sent: from now on the store may have the pack."""
    transaction.execute(_SENT, {"pack": number})


def mark_stored(transaction: Transaction, row: PackRow, blob: int) -> None:
    """Sent → stored, as ``blob``; the staging file is no longer needed."""
    transaction.execute(_STORED, {"pack": row.no, "blob_id": blob})
    transaction.execute(_BLOB, {"id": blob, "name": row.name, "size": row.size})
    transaction.execute(_BLOB_HASH, {"blob_id": blob, "digest": row.digest})


def delete_pack(transaction: Transaction, number: int) -> None:
    """Delete the row of a pack without chunks that was never sent."""
    transaction.execute(_DELETE, {"pack": number})


def record_damage(transaction: Transaction, blob: str, kind: str, reason: str, now_ns: int) -> None:
    """Write a row of ``damage``; ``kind``: pack, staging, database …"""
    transaction.execute(_PUT_DAMAGE, {"blob": blob, "kind": kind, "reason": reason, "found": now_ns})


def record_pack_damage(transaction: Transaction, row: PackRow, kind: str, reason: str, now_ns: int) -> None:
    """Record that a pack is missing or damaged: new content then stores its chunks again, and nothing sends it."""
    transaction.execute(_MARK_DAMAGED, {"pack": row.no})
    record_damage(transaction, row.name.hex(), kind, reason, now_ns)
