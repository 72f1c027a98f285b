"""Snapshots: applies the operations that create and delete them, and finds them by name."""

import msgspec
from sqlalchemy import bindparam, delete, func, insert, select

from tgdav.crdt.ops import Snapshot, Unsnapshot
from tgdav.db import Connection, Transaction, compiled
from tgdav.db.connection import Row
from tgdav.db.schema import authors, machines, pins
from tgdav.ids import Position, SnapshotId
from tgdav.metadata import settings
from tgdav.metadata.context import GroupContext
from tgdav.metadata.history import HistoryPolicy

_p = pins.c
_IS_KNOWN = compiled(select(_p.id).where(_p.id == bindparam("id")))
_ADD = compiled(insert(pins), ("id", "position", "name", "time", "settled", "author"))
_REMOVE = compiled(delete(pins).where(_p.id == bindparam("id")).returning(_p.position))
_LAST = compiled(select(func.coalesce(func.max(_p.position), 0), func.coalesce(func.max(_p.time), 0)))
# The snapshot after a deleted one is compared with another one now. The first one is compared with nothing.
_COMPARE_NEXT = """UPDATE pins SET new_bytes = CASE WHEN EXISTS (SELECT 1 FROM pins e WHERE e.position < pins.position)
THEN NULL ELSE bytes END WHERE position = (SELECT min(position) FROM pins WHERE position > ?)"""
_COLUMNS = (_p.id, _p.position, _p.name, _p.time, _p.files, _p.bytes, _p.new_bytes, _p.settled, machines.c.name)
_LISTED = (
    select(*_COLUMNS)
    .select_from(pins)
    .join(authors, authors.c.no == _p.author, isouter=True)
    .join(machines, machines.c.machine == authors.c.machine, isouter=True)
    .where(_p.position.is_not(None))
)
_ALL = compiled(_LISTED.order_by(_p.position))
_BY_NAME = compiled(_LISTED.where(_p.name == bindparam("name")).order_by(_p.position.desc()).limit(1))


class SnapshotRow(msgspec.Struct, frozen=True):
    """A snapshot. It shows the state as of ``position``. The counts are None until they are known.

    ``new_bytes`` are those of contents that the snapshot before does not have. ``settled``: no file was being written.
    ``machine`` is the name of the machine that made it.
    """

    id: SnapshotId
    position: Position
    name: str
    time: int
    files: int | None
    bytes: int | None
    new_bytes: int | None
    settled: bool
    machine: str


def listed(connection: Connection) -> list[SnapshotRow]:
    """Return all snapshots, the oldest first."""
    return [_snapshot(row) for row in connection.all(_ALL)]


def find(connection: Connection, name: str) -> SnapshotRow | None:
    """Return the snapshot of this name; the newest one if several machines made one."""
    row = connection.one(_BY_NAME, {"name": name})
    return _snapshot(row) if row else None


def _snapshot(row: Row) -> SnapshotRow:
    identity, position, name, time, files, size, new, settled, machine = row
    return SnapshotRow(identity, position, name, time, files, size, new, settled == 1, machine or "")


def add(transaction: Transaction, context: GroupContext, op: Snapshot, policy: HistoryPolicy) -> bool:
    """Record a snapshot of the state after this group; return False if it is known."""
    if transaction.one(_IS_KNOWN, {"id": op.id}) is not None:
        return False
    row = {"id": op.id, "position": context.position, "name": op.name, "time": op.time}
    transaction.execute(_ADD, {**row, "settled": int(op.settled), "author": context.author})
    # Rows that change from now on must be kept.
    read_policy(transaction, policy)
    return True


def remove(transaction: Transaction, op: Unsnapshot, policy: HistoryPolicy) -> bool:
    """Delete a snapshot; return False if it is unknown. Rows that only it needs stay until they are swept."""
    row = transaction.one(_REMOVE, {"id": op.id})
    if row is not None:
        transaction.execute(_COMPARE_NEXT, (row[0],))
        settings.begin_sweep(transaction)
    read_policy(transaction, policy)
    return row is not None


def read_policy(connection: Connection, policy: HistoryPolicy) -> None:
    """Set which states snapshots show, and how long the trash keeps entries, from the rows."""
    position, time = connection.one(_LAST) or (0, 0)
    policy.retention_days = settings.get(connection, settings.TRASH_POLICY, policy.retention_days)
    policy.last_pinned, policy.last_snapshot = Position(position), time
