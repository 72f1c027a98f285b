"""Rows of ``nodes`` while one group is applied: finding nodes, adding new ones, updating known ones.

New rows and updates are deferred. A new node's row is written last, by ``flush``, so that a new file with its content is one
insert. Queries see new nodes only after ``flush``. Updates of one node are merged into one statement.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any

from sqlalchemy import bindparam, select, update

from tgdav.crdt.ops import Make
from tgdav.db import Connection, Inserts, Transaction, compiled
from tgdav.db.deferred import register_kind
from tgdav.db.schema import nodes
from tgdav.db.statements import Statement
from tgdav.ids import Inode, NodeId
from tgdav.metadata import history, queries, settings
from tgdav.metadata.context import GroupContext
from tgdav.metadata.history import HistoryPolicy
from tgdav.metadata.types import DIRECTORY, FILE, SYMLINK, Attributes, Kind

_KINDS = {int(kind): kind for kind in Kind}
_in_column_order: Callable[[dict[str, Any]], tuple[Any, ...]] = itemgetter(*nodes.c.keys())

_n = nodes.c
_LARGEST_INODE = """SELECT coalesce(max(ino), 0) FROM nodes UNION ALL SELECT coalesce(max(ino), 0) FROM nodes_past
UNION ALL SELECT coalesce(max(ino), 0) FROM entries_past"""
_RESERVED_AT_ONCE = 1000
_IDENTITY = compiled(select(_n.ino, _n.kind, _n.local).where(_n.id == bindparam("id")))
# The number is part of the redo log's format, as is that of NODE_UPDATES.
NEW_NODES = Inserts(nodes, number=6)
_COLUMNS_1 = [name for name in nodes.c.keys() if name not in ("burst", "author", "seq", "version")]  # noqa: SIM118
Inserts(nodes, _COLUMNS_1, number=1)  # registered for redo logs of programs that knew the first version of the schema


class InodeCounter:
    """Allocates inode numbers. No number is ever allocated twice, even if its node was deleted.

    A setting holds a number that is at least the largest allocated one. It is raised for many numbers at a time.
    """

    def __init__(self, transaction: Transaction) -> None:
        rows = transaction.all(_LARGEST_INODE)
        self._last = max(settings.get(transaction, settings.LAST_INODE, 0), *(row[0] for row in rows))
        self._reserved = self._last

    def next(self, transaction: Transaction) -> Inode:
        """Return a number that no node ever had."""
        self._last += 1
        if self._last > self._reserved:
            self._reserved = self._last + _RESERVED_AT_ONCE
            settings.put(transaction, settings.LAST_INODE, self._reserved)
        return Inode(self._last)

    def on_rollback(self) -> None:
        """A transaction that may have raised the setting was rolled back: raise it again before the next number."""
        self._reserved = self._last


@dataclass(slots=True)
class NewNode:
    """A node whose row is not written yet. ``row`` maps the columns of ``nodes`` to values."""

    ino: Inode
    row: dict[str, Any]

    @classmethod
    def of(cls, op: Make, ino: Inode, context: GroupContext, *, local: bool) -> "NewNode":
        """Return the node that ``op`` creates: without a name and, if it is a file, without content."""
        is_file = op.kind == FILE
        target = op.target if op.kind == SYMLINK else b""
        times = dict.fromkeys(("mtime", "ctime", "btime", "atime"), op.time)
        row = {
            "ino": ino,
            "id": op.node,
            "since": context.position,
            "kind": op.kind,
            "mode": op.mode,
            "uid": op.uid,
            "gid": op.gid,
            "rdev": op.rdev,
            "size": len(target),
            **times,
            "tag": context.empty_tag if is_file else None,
            "content": target or None,
            "manifest": None,
            "writer": context.machine if is_file else None,
            "written": context.time,
            # A directory is named by its parent and by its own ".".
            "nlink": 2 if op.kind == DIRECTORY else 0,
            "dirty": 0,
            "local": int(local),
            "burst": context.time,
            "author": context.author,
            "seq": context.sequence,
            "version": 1,
        }
        return cls(ino, row)

    @property
    def values(self) -> tuple[Any, ...]:
        """The row's values in the order of the table's columns."""
        return _in_column_order(self.row)

    @property
    def attributes(self) -> Attributes:
        """The attributes that the node has once its row is written."""
        row = self.row
        return Attributes(
            inode=self.ino,
            node=row["id"],
            kind=_KINDS[row["kind"]],
            mode=row["mode"],
            uid=row["uid"],
            gid=row["gid"],
            rdev=row["rdev"],
            nlink=row["nlink"],
            size=row["size"],
            atime=row["atime"],
            mtime=row["mtime"],
            ctime=row["ctime"],
            btime=row["btime"],
            tag=row["tag"],
            dirty=row["dirty"],
            local=bool(row["local"]),
        )


NodeUpdate = tuple[Inode, Mapping[str, Any], int]
"""A node, new values of its columns, and the change of its link count."""


class _NodeUpdates:
    """Deferred updates. Later values override earlier ones; link counts add up. Rank 1: written after the rows of new nodes."""

    rank = 1

    def __init__(self) -> None:
        self.number = register_kind(4, self)

    def values(self, row: NodeUpdate) -> Iterable[Any]:
        """Return the new values."""
        return row[1].values()

    def write(self, connection: Connection, rows: Sequence[NodeUpdate]) -> None:
        """Update each node once; nodes with the same set of columns share one statement."""
        merged: dict[Inode, dict[str, Any]] = {}
        # Creating a hundred files in one directory updates the directory's row once.
        for inode, values, links in rows:
            known = merged.setdefault(inode, {"inode": inode, "links": 0})
            known.update(values)
            known["links"] += links
        by_columns: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for row in merged.values():
            by_columns.setdefault(tuple(row), []).append(row)
        for columns, same in by_columns.items():
            statement = _update(columns)
            connection.executemany(statement.text, map(statement.in_order, same))


@lru_cache(maxsize=256)
def _update(columns: tuple[str, ...]) -> Statement:
    changed = [name for name in columns if name not in ("inode", "links")]
    return compiled(
        update(nodes).where(_n.ino == bindparam("inode")).values(nlink=_n.nlink + bindparam("links")), changed
    )


NODE_UPDATES = _NodeUpdates()


class NodeRows:
    """The nodes of one group inside a transaction. ``new`` holds the nodes whose rows are not written yet."""

    def __init__(
        self, transaction: Transaction, context: GroupContext, policy: HistoryPolicy, inodes: InodeCounter
    ) -> None:
        # Plain attributes: every operation of every change reads them, and a property costs a call.
        self.transaction = transaction
        self.context = context
        self.policy = policy
        self.new: dict[NodeId, NewNode] = {}
        self._inodes = inodes

    def find(self, node: NodeId) -> tuple[Inode, int, bool] | None:
        """Return (inode, kind, local) of a known node."""
        new = self.new.get(node)
        if new is not None:
            return new.ino, new.row["kind"], bool(new.row["local"])
        # A change usually looks up what its operations refer to.
        found = self.context.found_nodes.get(node)
        if found is not None:
            return found
        row = self.transaction.one(_IDENTITY, {"id": node})
        return (row[0], row[1], bool(row[2])) if row else None

    def add(self, op: Make, *, local: bool) -> NewNode:
        """Add the node that ``op`` creates; its row is written at the next flush."""
        new = NewNode.of(op, self._inodes.next(self.transaction), self.context, local=local)
        self.new[op.node] = new
        if not local:
            made = self.context.made
            if made is None:
                self.context.made = [new.ino]
            else:
                made.append(new.ino)
        # A new node has no earlier state that a snapshot could show.
        self.context.touched.add(new.ino)
        self.context.written.add(new.ino)
        self.context.fields.add_new(new.ino)
        return new

    def update(self, ino: Inode, values: dict[str, Any], links: int = 0) -> None:
        """Set columns of a node's row and change its link count by ``links``."""
        # ``since`` is the position of the node's last change; snapshots and the upload state depend on it.
        self.context.changes.amend(ino, values, links)
        self.transaction.defer(NODE_UPDATES, (ino, {"since": self.context.position, **values}, links))

    def keep_pinned(self, ino: Inode) -> None:
        """Copy a node's row to the past if a snapshot pins it. Call this before the row changes."""
        pinned = self.policy.last_pinned
        if pinned and ino not in self.context.touched:
            history.close_node(self.transaction, ino, self.context.position, pinned)
            self.context.touched.add(ino)

    def keep_whole(self, ino: Inode) -> None:
        """Copy a node's row, its entries and fields to the past if a snapshot pins them. Call this before they change."""
        self.keep_pinned(ino)
        pinned, position = self.policy.last_pinned, self.context.position
        if pinned:
            for entry, *_ in queries.entries_of(self.transaction, ino):
                history.close_entry(self.transaction, entry, position, pinned)
            history.close_fields(self.transaction, ino, position, pinned)

    def flush(self) -> None:
        """Write the rows of new nodes."""
        for node in self.new.values():
            self.transaction.defer(NEW_NODES, node.values)
        self.new.clear()
