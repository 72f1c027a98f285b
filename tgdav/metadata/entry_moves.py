"""The place of entries: create, link, rename, delete and undelete are one operation.

The move rule is that of Kleppmann et al., "A highly-available move operation for replicated trees" (2021): a move that would
put a folder below itself is skipped, and of two places of one entry the one with the larger stamp counts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import bindparam, delete, select, update

from tgdav.crdt.ops import ROOT, TRASH, Make, Place
from tgdav.db import Connection, Inserts, compiled
from tgdav.db.connection import Row
from tgdav.db.deferred import register_kind
from tgdav.db.schema import ROOT_INODE, TRASH_INODE, entries, nodes
from tgdav.ids import EntryId, Inode, NodeId
from tgdav.metadata import history, queries
from tgdav.metadata.conflict_names import nfc
from tgdav.metadata.types import DIRECTORY

if TYPE_CHECKING:
    from tgdav.metadata.apply import OperationApplier

LOST_FOUND = NodeId(bytes(15) + b"\x03")
"""The folder for folders whose own making is missing from the log; made when first needed, on each machine alike."""

_n, _e = nodes.c, entries.c
_OLD = compiled(
    select(_e.parent, _e.name, _e.ino, _e.since, _e.stamp, _e.origin, _e.local).where(_e.id == bindparam("id"))
)
_OTHERS = compiled(select(_e.id, _e.parent, _e.stamp).where(_e.ino == bindparam("ino"), _e.id != bindparam("entry")))
_NEW_ENTRIES = Inserts(entries, number=2)
_MOVE = compiled(
    update(entries).where(_e.id == bindparam("entry")),
    ("parent", "name", "ino", "since", "stamp", "nfc", "origin", "local"),
)
_DROP = compiled(delete(entries).where(_e.id == bindparam("id")))
_RELINK_BELOW = """WITH RECURSIVE below(ino) AS (
 SELECT :top UNION SELECT e.ino FROM entries e JOIN below b ON e.parent = b.ino JOIN nodes n ON n.ino = e.ino AND n.kind = 2),
links(ino, count) AS (
 SELECT e.ino, count(*) FROM entries e JOIN below b ON e.parent = b.ino JOIN nodes n ON n.ino = e.ino AND n.kind != 2
 GROUP BY e.ino)
UPDATE nodes SET nlink = nlink + :sign * links.count FROM links WHERE nodes.ino = links.ino"""


class _Moves:
    """Entries that have another place now. They come after the rows of new entries."""

    rank = 1

    def __init__(self) -> None:
        self.number = register_kind(5, self)

    def values(self, row: dict[str, Any]) -> Iterable[Any]:
        """Return the new values."""
        return row.values()

    def write(self, connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
        """Update them in the order in which they moved."""
        connection.executemany(_MOVE, rows)


_MOVES = _Moves()


@dataclass(slots=True)
class _Target:
    """The node that an entry is to name."""

    ino: Inode
    is_directory: bool
    known_as: NodeId


class EntryMover:
    """Applies ``Place`` for one group."""

    def __init__(self, application: "OperationApplier") -> None:
        self._application = application
        self._transaction = application.transaction
        self._context = application.context

    def place(self, op: Place, local: bool) -> bool:
        """Put an entry at (parent, name). Return False where the rule skips it or the node is not known."""
        found = self._application.find(op.node)
        parent = self._folder(op.parent) if found is not None else None
        if found is None or parent is None:
            return False
        target = _Target(found[0], found[1] == DIRECTORY, op.node)
        fresh = self._context.fresh
        old = None if op.entry in fresh else self._old(op.entry)
        if old is not None and old[4] > self._context.stamp:
            return False
        is_known_folder = target.is_directory and op.node not in fresh
        fresh.difference_update((op.entry, op.node))
        if is_known_folder:
            return self._place_known_folder(op, target, parent, old, local)
        self._move(op, target, parent, self._own_place(op, target, old), local)
        return True

    def _old(self, entry: EntryId) -> Row | None:
        """Return the place of an entry that is known; one that this change found needs no second look."""
        found = self._context.found_entries.pop(entry, None)
        if found is None:
            return self._transaction.one(_OLD, {"id": entry})
        parent, name, ino = found
        return parent, name, ino, 0, 0, None, 0

    def _own_place(self, op: Place, target: _Target, old: Row | None) -> Row | None:
        """Return the entry's row if it named this node before; if it named another, that one loses it."""
        if old is None or old[2] == target.ino:
            return old
        self._remove(op.entry, old[2], old[0])
        return None

    def _place_known_folder(self, op: Place, target: _Target, parent: Inode, old: Row | None, local: bool) -> bool:
        """Move a folder. It has one place only: the latest; and takes along the names of all files below it."""
        self._context.folders.clear()
        self._context.live.clear()
        self._application.flush()
        others = self._transaction.all(_OTHERS, {"ino": target.ino, "entry": op.entry})
        if queries.is_ancestor(self._transaction, target.ino, parent):
            return False
        if any(stamp > self._context.stamp for _, _, stamp in others):
            return False
        old = self._own_place(op, target, old)
        for entry, folder, _ in others:
            self._remove(entry, target.ino, folder)
        was_in_trash = self._in_trash(target.ino)
        self._move(op, target, parent, old, local)
        self._relink_below(target.ino, was_in_trash)
        return True

    def _remove(self, entry: EntryId, ino: Inode, folder: Inode) -> None:
        """Take an entry away from the node that it named, as it now names another, or another names the node."""
        self._application.flush()
        found = queries.attributes(self._transaction, ino)
        if found is None:
            return
        target = _Target(ino, found.is_directory, found.node)
        was_in_trash = found.is_directory and self._in_trash(ino)
        if self._application.pinned:
            history.close_entry(self._transaction, entry, self._context.position, self._application.pinned)
        self._transaction.execute(_DROP, {"id": entry})
        self._context.found_entries.pop(entry, None)
        self._context.changes.everything = True
        self._count(target, folder, None)
        if found.is_directory:
            self._relink_below(ino, was_in_trash)

    def _relink_below(self, folder: Inode, was_in_trash: bool) -> None:
        """Where a folder went to the trash, or came back: the names of all files below it count no more, or again."""
        sign = was_in_trash - self._in_trash(folder)
        if sign:
            self._context.changes.everything = True
            self._transaction.execute(_RELINK_BELOW, {"top": folder, "sign": sign})

    def _in_trash(self, folder: Inode) -> bool:
        if folder in (ROOT_INODE, TRASH_INODE):
            return folder == TRASH_INODE
        return not self._is_live(folder) and queries.is_ancestor(self._transaction, Inode(TRASH_INODE), folder)

    def _is_live(self, folder: Inode) -> bool:
        """Whether a folder is known to be reachable from the root."""
        context = self._context
        return folder == ROOT_INODE or folder in context.live or context.folders.get(folder) is not None

    def _move(self, op: Place, target: _Target, parent: Inode, old: Row | None, local: bool) -> None:
        before = old[0] if old is not None else None
        changes = self._context.changes
        changes.names.add((parent, op.name))
        if old is not None:
            changes.leave(op.entry, (old[0], old[1]))
        if local and parent == TRASH_INODE:
            self._drop(op.entry, target, before)
            return
        if old is not None and self._application.pinned:
            history.close_entry(self._transaction, op.entry, self._context.position, self._application.pinned)
        row = {
            "parent": parent,
            "name": op.name,
            "ino": target.ino,
            "since": self._context.position,
            "stamp": self._context.stamp,
            "nfc": nfc(op.name),
            "origin": self._origin(old) if parent == TRASH_INODE else None,
            "local": int(local),
        }
        if self._context.own and parent != TRASH_INODE:
            # Whoever places here has seen that the name is free.
            changes.place(op.entry, (parent, op.name), target.ino)
        if old is None:
            self._transaction.defer(_NEW_ENTRIES, tuple(map({"id": op.entry, **row}.get, _NEW_ENTRIES.columns)))
        else:
            self._transaction.defer(_MOVES, {"entry": op.entry, **row})
        self._count(target, before, parent)

    def _drop(self, entry: EntryId, target: _Target, before: Inode | None) -> None:
        """Delete an entry that was never logged: it does not go to the trash."""
        if before is not None:
            self._transaction.execute(_DROP, {"id": entry})
            self._count(target, before, Inode(TRASH_INODE))

    def _count(self, target: _Target, before: Inode | None, after: Inode | None) -> None:
        """Move link counts and times: of the folders left and entered, and of the node itself."""
        left = before if before != TRASH_INODE else None
        entered = after if after != TRASH_INODE else None
        if left == entered:
            self._touch(entered, 0)
        else:
            self._touch(left, -1 if target.is_directory else 0)
            self._touch(entered, 1 if target.is_directory else 0)
        if target.is_directory and before is None and entered is not None and self._is_live(entered):
            self._context.live.add(target.ino)
        links = 0 if target.is_directory else self._links(left, entered)
        new = self._application.new_node(target.known_as)
        if new is not None:
            new.row["nlink"] += links
            return
        self._application.keep_pinned(target.ino)
        self._application.update(target.ino, {"ctime": self._context.time}, links)

    def _links(self, left: Inode | None, entered: Inode | None) -> int:
        """Return how many names a file gains: one below a folder in the trash is none."""
        if left == entered:
            return 0
        gained = entered is not None and not self._in_trash(entered)
        lost = left is not None and not self._in_trash(left)
        return gained - lost

    def _touch(self, folder: Inode | None, links: int) -> None:
        if folder is None:
            return
        self._application.keep_pinned(folder)
        self._application.update(folder, {"mtime": self._context.time, "ctime": self._context.time}, links)

    def _folder(self, node: NodeId) -> Inode | None:
        """Return the folder's inode; one that is not known is put into ``lost+found``. None for what is no folder."""
        if node == ROOT:
            return Inode(ROOT_INODE)
        if node == TRASH:
            return Inode(TRASH_INODE)
        live = self._context.folders.inode_of(node)
        if live is not None:
            return live
        found = self._application.find(node)
        if found is None:
            return None if self._context.own else self._placeholder(node)
        if found[1] != DIRECTORY:
            return None
        if self._application.new_node(node) is not None:
            # Its link count is about to move, which is done in its row.
            self._application.flush()
        return found[0]

    def _placeholder(self, node: NodeId) -> Inode:
        """Make a folder that stands for an unknown one; its entry has the node's own id until the node is made."""
        parent, name = (ROOT, b"lost+found") if node == LOST_FOUND else (LOST_FOUND, node.hex().encode())
        make = Make(node, DIRECTORY, 0o700, 0, 0, 0, self._context.time)
        ino = self._application.add_node(make, local=False).ino
        self._application.flush()
        self.place(Place(EntryId(node), node, parent, name), local=False)
        return ino

    def _origin(self, old: Row | None) -> bytes:
        """Say where a deleted entry was, and when it went; one that is in the trash already keeps what it says."""
        if old is not None and old[5] is not None:
            return bytes(old[5])
        parent = self._node_id_of(old[0]) if old is not None else None
        return msgspec.msgpack.encode((parent or b"", self._context.time))

    def _node_id_of(self, folder: Inode) -> NodeId | None:
        live = self._context.folders.get(folder)
        return queries.node_id_of(self._transaction, folder) if live is None else live.node
