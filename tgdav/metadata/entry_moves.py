"""Applies ``Place``: create, link, rename, delete and undelete are this one operation.

The move rule follows Kleppmann et al., "A highly-available move operation for replicated trees" (2021): a move that would put a
directory below itself is skipped, and of two places of one entry the one with the larger stamp wins.
"""

from collections.abc import Iterable, Sequence
from enum import Enum, auto
from operator import itemgetter
from typing import Any

import msgspec
from sqlalchemy import bindparam, delete, select

from tgdav.crdt.ops import ROOT, TRASH, Make, Place
from tgdav.db import Connection, Inserts, compiled
from tgdav.db.connection import Row
from tgdav.db.deferred import register_kind
from tgdav.db.schema import PURGED_INODE, ROOT_INODE, TRASH_INODE, entries, nodes
from tgdav.ids import EntryId, Inode, NodeId
from tgdav.metadata import history, predecessors, queries
from tgdav.metadata.conflict_names import nfc
from tgdav.metadata.node_rows import NodeRows
from tgdav.metadata.predecessors import Outcome
from tgdav.metadata.types import DIRECTORY

LOST_FOUND = NodeId(bytes(15) + b"\x03")
"""The directory for placeholders; created when first needed, with the same id on every machine."""

_n, _e = nodes.c, entries.c
_OLD = compiled(
    select(_e.parent, _e.name, _e.ino, _e.since, _e.stamp, _e.origin, _e.local).where(_e.id == bindparam("id"))
)
_OTHERS = compiled(select(_e.id, _e.parent, _e.stamp).where(_e.ino == bindparam("ino"), _e.id != bindparam("entry")))
_NEW_ENTRIES = Inserts(entries, number=7)
# The rows of both kinds have the id as ``entry``.
_in_column_order = itemgetter(*("entry" if name == "id" else name for name in _NEW_ENTRIES.columns))
# The id is unique, so the new row replaces the old one. An update moves the key of a row at twice the price.
_REPLACED_ENTRIES = Inserts(entries, verb="INSERT OR REPLACE")
_COLUMNS_1 = [name for name in entries.c.keys() if name not in ("deleted", "by")]  # noqa: SIM118
# Registered for redo logs of programs that knew the first version of the schema.
Inserts(entries, _COLUMNS_1, number=2)
_DROP = compiled(delete(entries).where(_e.id == bindparam("id")))
# A file in a directory that is in the trash has no name. The link counts of all files below change by the number of their
# entries there; those of directories do not depend on the trash.
_RELINK_BELOW = """WITH RECURSIVE below(ino) AS (
 SELECT :top UNION SELECT e.ino FROM entries e JOIN below b ON e.parent = b.ino JOIN nodes n ON n.ino = e.ino AND n.kind = 2),
links(ino, count) AS (
 SELECT e.ino, count(*) FROM entries e JOIN below b ON e.parent = b.ino JOIN nodes n ON n.ino = e.ino AND n.kind != 2
 GROUP BY e.ino)
UPDATE nodes SET nlink = nlink + :sign * links.count FROM links WHERE nodes.ino = links.ino"""

_encode = msgspec.msgpack.Encoder().encode
_DELETED = (TRASH_INODE, PURGED_INODE)


class _Moves:
    """Deferred updates of entries. Rank 1: written after the rows of new entries."""

    rank = 1

    def __init__(self, number: int) -> None:
        self.number = register_kind(number, self)

    def values(self, row: dict[str, Any]) -> Iterable[Any]:
        """Return the new values."""
        return row.values()

    def write(self, connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
        """Update the entries in the order of their moves."""
        _REPLACED_ENTRIES.write(connection, [_in_column_order(row) for row in rows])


class _Moves1(_Moves):
    """Those in redo logs of programs that knew the first version of the schema."""

    def write(self, connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
        """Add the columns of the second version."""
        super().write(connection, [{**row, "deleted": _time_of(row["origin"]), "by": 0} for row in rows])


def _time_of(origin: bytes | None) -> int | None:
    return None if origin is None else int(msgspec.msgpack.decode(origin)[1])


_MOVES = _Moves(8)
_Moves1(5)


class _Target(msgspec.Struct, frozen=True, gc=False):
    """The node that an entry will name."""

    ino: Inode
    is_directory: bool
    known_as: NodeId


class Removal(Enum):
    """How an entry is deleted without the trash. TRACELESS: it was never sent, so all that it did may be retracted."""

    LOGGED = auto()
    TRACELESS = auto()


class EntryMover:
    """Applies ``Place`` operations of one group."""

    def __init__(self, rows: NodeRows) -> None:
        self._rows = rows
        self._transaction = rows.transaction
        self._context = rows.context

    def place(self, op: Place, local: bool, *, removal: "Removal | None" = None) -> bool:
        """Put an entry at (parent, name). Return False if the move rule skips it or the node is unknown.

        With ``removal`` the group also purges the entry, so that it does not enter the trash.
        """
        found = self._rows.find(op.node)
        parent = self._directory(op.parent) if found is not None else None
        if removal is not None:
            parent = Inode(PURGED_INODE)
        if op.because is not None or op.after is not None:
            self._context.keep_versions_of(op.entry, op.because or op.entry, op.after or op.entry)
        if found is None or parent is None:
            return False
        target = _Target(found[0], found[1] == DIRECTORY, op.node)
        fresh = self._context.fresh
        old = None if op.entry in fresh else self._old(op.entry)
        # A later move of this entry was applied already, or it was purged.
        if old is not None and (old[4] > self._context.stamp or old[0] == PURGED_INODE):
            return False
        is_known_directory = target.is_directory and op.node not in fresh
        # From now on they are known: another Place of them in this group must query.
        fresh.difference_update((op.entry, op.node))
        if is_known_directory:
            return self._place_known_directory(op, target, parent, old, local, removal)
        self._move(op, target, parent, self._own_place(op, target, old), local, removal)
        return True

    def _old(self, entry: EntryId) -> Row | None:
        """Return the present row of a known entry, without a query if the change has just found it."""
        found = self._context.found_entries.pop(entry, None)
        if found is None:
            return self._transaction.one(_OLD, {"id": entry})
        parent, name, ino = found
        # The stamp 0 is right: an entry that this change found is older than the change.
        return parent, name, ino, 0, 0, None, 0

    def _own_place(self, op: Place, target: _Target, old: Row | None) -> Row | None:
        """Return the entry's row if it already names this node; if it names another node, remove it from that node."""
        if old is None or old[2] == target.ino:
            return old
        self._remove(op.entry, old[2], old[0])
        return None

    def _place_known_directory(
        self, op: Place, target: _Target, parent: Inode, old: Row | None, local: bool, removal: "Removal | None"
    ) -> bool:
        """Move a directory. It has one entry only, the latest. The link counts of all files below it may change."""
        # Everything below the directory may become unreachable, or reachable again.
        self._context.directories.clear()
        self._context.new_directories.clear()
        self._rows.flush()
        # A directory has one entry. Others, such as that of a placeholder, give way to this one if it is the latest.
        others = self._transaction.all(_OTHERS, {"ino": target.ino, "entry": op.entry})
        # The move rule: a directory is never below itself.
        if queries.is_ancestor(self._transaction, target.ino, parent):
            return False
        if any(stamp > self._context.stamp for _, _, stamp in others):
            return False
        old = self._own_place(op, target, old)
        for entry, directory, _ in others:
            self._remove(entry, target.ino, directory)
        was_in_trash = self._in_trash(target.ino)
        self._move(op, target, parent, old, local, removal)
        self._relink_below(target.ino, was_in_trash)
        return True

    def _remove(self, entry: EntryId, ino: Inode, directory: Inode) -> None:
        """Remove an entry from the node that it names: it names another node now, or the node has a newer entry."""
        self._rows.flush()
        found = queries.attributes(self._transaction, ino)
        if found is None:
            return
        target = _Target(ino, found.is_directory, found.node)
        was_in_trash = found.is_directory and self._in_trash(ino)
        pinned = self._rows.policy.last_pinned
        if pinned:
            history.close_entry(self._transaction, entry, self._context.position, pinned)
        self._transaction.execute(_DROP, {"id": entry})
        self._context.found_entries.pop(entry, None)
        self._context.changes.everything = True
        self._count(target, directory, None)
        if found.is_directory:
            self._relink_below(ino, was_in_trash)

    def _relink_below(self, directory: Inode, was_in_trash: bool) -> None:
        """If a directory moved into or out of the trash, update the link counts of all files below it."""
        sign = was_in_trash - self._in_trash(directory)
        if sign:
            self._context.changes.everything = True
            self._transaction.execute(_RELINK_BELOW, {"top": directory, "sign": sign})

    def _in_trash(self, directory: Inode) -> bool:
        if directory == ROOT_INODE or directory in _DELETED:
            return directory != ROOT_INODE
        return not self._is_live(directory) and queries.is_deleted(self._transaction, directory)

    def _is_live(self, directory: Inode) -> bool:
        """Return whether a directory is known to be reachable from the root."""
        context = self._context
        return (
            directory == ROOT_INODE
            or directory in context.new_directories
            or context.directories.get(directory) is not None
        )

    def _move(
        self, op: Place, target: _Target, parent: Inode, old: Row | None, local: bool, removal: "Removal | None"
    ) -> None:
        before = old[0] if old is not None else None
        outcome = Outcome.DELETED if local else self._keep_versions(op, parent, old)
        if outcome is Outcome.NOTHING:
            parent = Inode(PURGED_INODE)
        changes = self._context.changes
        changes.names.add((parent, op.name))
        if old is not None:
            changes.remove_entry(op.entry, (old[0], old[1]))
        if local and parent in _DELETED:
            self._drop(op.entry, target, before)
            return
        # A directory leaves its id: it may be derived from parent and name, and others may hear of it.
        keeps_origin = outcome is Outcome.DELETED and (removal is not Removal.TRACELESS or target.is_directory)
        if parent == TRASH_INODE and before is not None and keeps_origin:
            # The directory that it was in is kept too: a restore from the trash goes there.
            self._context.left = [*(self._context.left or ()), before]
        pinned = self._rows.policy.last_pinned
        if pinned and old is not None:
            history.close_entry(self._transaction, op.entry, self._context.position, pinned)
        row = {
            "entry": op.entry,
            "parent": parent,
            "name": op.name,
            "ino": target.ino,
            "since": self._context.position,
            "stamp": self._context.stamp,
            "nfc": nfc(op.name),
            "origin": self._origin(old, removal) if parent in _DELETED and keeps_origin else None,
            "local": int(local),
            "deleted": self._context.time if parent == TRASH_INODE and outcome is Outcome.DELETED else None,
            "by": self._context.author,
        }
        if self._context.is_own and parent not in _DELETED:
            # This machine's changes check that the name is free first. Another machine's entry may meet one of the same name.
            changes.set_entry(op.entry, (parent, op.name), target.ino)
        if old is None:
            self._transaction.defer(_NEW_ENTRIES, _in_column_order(row))
        else:
            self._transaction.defer(_MOVES, row)
        self._count(target, before, parent)

    def _keep_versions(self, op: Place, parent: Inode, old: Row | None) -> Outcome:
        """Make contents of another file versions if the operation says that one file takes the other's name."""
        if op.because is not None and parent == TRASH_INODE:
            return predecessors.replace(self._rows, op)
        # Applied a second time, it finds the entry that it made.
        if op.after is not None and parent != TRASH_INODE and (old is None or old[4] < self._context.stamp):
            predecessors.follow(self._rows, op)
        return Outcome.DELETED

    def _drop(self, entry: EntryId, target: _Target, before: Inode | None) -> None:
        """Delete an entry that was never logged, instead of moving it to the trash."""
        if before is not None:
            self._transaction.execute(_DROP, {"id": entry})
            self._count(target, before, Inode(TRASH_INODE))

    def _count(self, target: _Target, before: Inode | None, after: Inode | None) -> None:
        """Update link counts and times of both parent directories and of the node itself."""
        # The trash is not counted as a parent: a deleted node has no name.
        left = before if before not in _DELETED else None
        entered = after if after not in _DELETED else None
        if left == entered:
            self._touch(entered, 0)
        else:
            self._touch(left, -1 if target.is_directory else 0)
            self._touch(entered, 1 if target.is_directory else 0)
        # A new directory in a reachable one is reachable: later operations of the group need no query then.
        if target.is_directory and before is None and entered is not None and self._is_live(entered):
            self._context.new_directories.add(target.ino)
        links = 0 if target.is_directory else self._links(left, entered)
        new = self._rows.new.get(target.known_as)
        if new is not None:
            new.row["nlink"] += links
            return
        self._rows.keep_pinned(target.ino)
        self._rows.update(target.ino, {"ctime": self._context.time}, links)

    def _links(self, left: Inode | None, entered: Inode | None) -> int:
        """Return the change of a file's link count. An entry in a directory in the trash does not count."""
        if left == entered:
            return 0
        gained = entered is not None and not self._in_trash(entered)
        lost = left is not None and not self._in_trash(left)
        return gained - lost

    def _touch(self, directory: Inode | None, links: int) -> None:
        if directory is None:
            return
        self._rows.keep_pinned(directory)
        self._rows.update(directory, {"mtime": self._context.time, "ctime": self._context.time}, links)

    def _directory(self, node: NodeId) -> Inode | None:
        """Return the directory's inode; create a placeholder for an unknown node. Return None if the node is no directory."""
        if node == ROOT:
            return Inode(ROOT_INODE)
        if node == TRASH:
            return Inode(TRASH_INODE)
        # Most changes are made in a directory that an earlier change used: no query then.
        live = self._context.directories.inode_of(node)
        if live is not None:
            return live
        found = self._rows.find(node)
        if found is None:
            return None if self._context.is_own else self._make_placeholder(node)
        if found[1] != DIRECTORY:
            return None
        if node in self._rows.new:
            self._rows.flush()  # its link count is about to change by an update, which needs the row
        return found[0]

    def _make_placeholder(self, node: NodeId) -> Inode:
        """Create a directory whose ``Make`` is missing from the log. The entry has the node's id until the ``Make`` arrives."""
        parent, name = (ROOT, b"lost+found") if node == LOST_FOUND else (LOST_FOUND, node.hex().encode())
        make = Make(node, DIRECTORY, 0o700, 0, 0, 0, self._context.time)
        ino = self._rows.add(make, local=False).ino
        self._rows.flush()
        self.place(Place(EntryId(node), node, parent, name), local=False)
        return ino

    def _origin(self, old: Row | None, removal: "Removal | None") -> bytes:
        """Return the encoded parent and deletion time of a deleted entry; an entry that is in the trash keeps its origin."""
        # The origin is what a restore from the trash needs, so moves inside the trash must not change it.
        if old is not None and old[5] is not None:
            return bytes(old[5])
        parent = self._node_id_of(old[0]) if old is not None else None
        marks = (True,) if removal is Removal.TRACELESS else ()
        return _encode((parent or b"", self._context.time, *marks))

    def _node_id_of(self, directory: Inode) -> NodeId | None:
        live = self._context.directories.get(directory)
        return queries.node_id_of(self._transaction, directory) if live is None else live.node
