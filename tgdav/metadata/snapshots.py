"""Applies the operations that create and delete snapshots."""

from sqlalchemy import bindparam, delete, func, insert, select

from tgdav.crdt.ops import Snapshot, Unsnapshot
from tgdav.db import Connection, Transaction, compiled
from tgdav.db.schema import pins
from tgdav.ids import Position
from tgdav.metadata.context import GroupContext
from tgdav.metadata.history import HistoryPolicy

_IS_KNOWN = compiled(select(pins.c.id).where(pins.c.id == bindparam("id")))
_ADD = compiled(insert(pins), ("id", "position", "name", "time", "settled", "author"))
_REMOVE = compiled(delete(pins).where(pins.c.id == bindparam("id")))
_LAST = compiled(select(func.coalesce(func.max(pins.c.position), 0), func.coalesce(func.max(pins.c.time), 0)))


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
    is_known = int(transaction.execute(_REMOVE, {"id": op.id}).rowcount) > 0
    read_policy(transaction, policy)
    return is_known


def read_policy(connection: Connection, policy: HistoryPolicy) -> None:
    """Set which states snapshots show, from the rows."""
    position, time = connection.one(_LAST) or (0, 0)
    policy.last_pinned, policy.last_snapshot = Position(position), time
