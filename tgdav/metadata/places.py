"""The place of entries: create, link, rename, delete and undelete are one operation.

The move rule is that of Kleppmann et al., "A highly-available move operation for replicated trees" (2021): a move that would
put a folder below itself is skipped, and of two places of one entry the one with the larger stamp counts.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import bindparam, delete, insert, select, update

from tgdav.crdt.ops import ROOT, TRASH, Make, Place
from tgdav.db import compiled
from tgdav.db.connection import Row
from tgdav.db.schema import ROOT_INODE, TRASH_INODE, entries, nodes
from tgdav.ids import EntryId, Inode, NodeId
from tgdav.metadata import history, queries
from tgdav.metadata.names import nfc
from tgdav.metadata.types import Kind

if TYPE_CHECKING:
    from tgdav.metadata.apply import Application

LOST_FOUND = NodeId(bytes(15) + b"\x03")
"""The folder for folders whose own making is missing from the log; made when first needed, on each machine alike."""

_n, _e = nodes.c, entries.c
_OLD = compiled(
    select(_e.parent, _e.name, _e.ino, _e.since, _e.stamp, _e.origin, _e.local).where(_e.id == bindparam("id"))
)
_INSERT = compiled(insert(entries))
_MOVE = compiled(
    update(entries).where(_e.id == bindparam("entry")),
    ("parent", "name", "ino", "since", "stamp", "nfc", "origin", "local"),
)
_DROP = compiled(delete(entries).where(_e.id == bindparam("id")))
_TOUCH = compiled(
    update(nodes)
    .where(_n.ino == bindparam("inode"))
    .values(
        nlink=_n.nlink + bindparam("links"),
        mtime=bindparam("time"),
        ctime=bindparam("time"),
        since=bindparam("position"),
    )
)
_RELINK = compiled(
    update(nodes)
    .where(_n.ino == bindparam("inode"))
    .values(nlink=_n.nlink + bindparam("links"), ctime=bindparam("time"), since=bindparam("position"))
)
_RELINK_BELOW = """WITH RECURSIVE below(ino) AS (
 SELECT :top UNION SELECT e.ino FROM entries e JOIN below b ON e.parent = b.ino JOIN nodes n ON n.ino = e.ino AND n.kind = 2),
links(ino, count) AS (
 SELECT e.ino, count(*) FROM entries e JOIN below b ON e.parent = b.ino JOIN nodes n ON n.ino = e.ino AND n.kind != 2
 GROUP BY e.ino)
UPDATE nodes SET nlink = nlink + :sign * links.count FROM links WHERE nodes.ino = links.ino"""


@dataclass(slots=True)
class _Target:
    """The node that an entry is to name."""

    ino: Inode
    is_directory: bool
    known_as: NodeId


class Places:
    """Applies ``Place`` for one group."""

    def __init__(self, application: "Application") -> None:
        self._application = application
        self._transaction = application.transaction
        self._context = application.context

    def place(self, op: Place, local: bool) -> bool:
        """Put an entry at (parent, name). Return False where the rule skips it or the node is not known."""
        found = self._application.find(op.node)
        parent = self._folder(op.parent) if found is not None else None
        if found is None or parent is None:
            return False
        target = _Target(found[0], found[1] == Kind.DIRECTORY, op.node)
        old = None if op.entry in self._context.fresh else self._transaction.one(_OLD, {"id": op.entry})
        if old is not None and old[4] > self._context.stamp:
            return False
        if self._makes_a_cycle(target, parent):
            return False
        if old is not None and old[2] != target.ino:
            self._unlink_other(old)
        self._move(op, target, parent, old, local)
        if target.is_directory and old is not None:
            self._relink_below(target.ino, (parent != TRASH_INODE) - (old[0] != TRASH_INODE))
        return True

    def _relink_below(self, folder: Inode, sign: int) -> None:
        """A folder that goes to the trash (-1) or comes back (1) takes along the names of all files below it."""
        if sign:
            self._application.flush()
            self._transaction.execute(_RELINK_BELOW, {"top": folder, "sign": sign})

    def _move(self, op: Place, target: _Target, parent: Inode, old: Row | None, local: bool) -> None:
        before = old[0] if old is not None and old[2] == target.ino else None
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
        if old is None:
            self._transaction.execute(_INSERT, {"id": op.entry, **row})
        else:
            self._transaction.execute(_MOVE, {"entry": op.entry, **row})
        self._count(target, before, parent)

    def _drop(self, entry: EntryId, target: _Target, before: Inode | None) -> None:
        """Delete an entry that was never logged: it does not go to the trash."""
        if before is not None:
            self._transaction.execute(_DROP, {"id": entry})
            self._count(target, before, Inode(TRASH_INODE))

    def _count(self, target: _Target, before: Inode | None, after: Inode) -> None:
        """Move link counts and times: of the folders left and entered, and of the node itself."""
        left = before if before not in (None, TRASH_INODE) else None
        entered = after if after != TRASH_INODE else None
        if left == entered:
            self._touch(entered, 0)
        else:
            self._touch(left, -1 if target.is_directory else 0)
            self._touch(entered, 1 if target.is_directory else 0)
        links = 0 if target.is_directory else (entered is not None) - (left is not None)
        new = self._application.new_node(target.known_as)
        if new is not None:
            new.row["nlink"] += links
            return
        self._application.keep_pinned(target.ino)
        values = {"inode": target.ino, "links": links}
        self._transaction.execute(_RELINK, {**values, "time": self._context.time, "position": self._context.position})

    def _touch(self, folder: Inode | None, links: int) -> None:
        if folder is None:
            return
        self._application.keep_pinned(folder)
        values = {"inode": folder, "links": links}
        self._transaction.execute(_TOUCH, {**values, "time": self._context.time, "position": self._context.position})

    def _unlink_other(self, old: Row) -> None:
        """The entry named another node until now: that one loses it."""
        attributes = queries.attributes(self._transaction, old[2])
        if attributes is not None and old[0] != TRASH_INODE:
            if attributes.is_directory:
                self._touch(old[0], -1)
            else:
                self._touch(old[0], 0)
                values = {"inode": old[2], "links": -1}
                self._transaction.execute(
                    _RELINK, {**values, "time": self._context.time, "position": self._context.position}
                )

    def _makes_a_cycle(self, target: _Target, parent: Inode) -> bool:
        if not target.is_directory or target.known_as in self._context.fresh:
            return False
        self._application.flush()
        return queries.is_ancestor(self._transaction, target.ino, parent)

    def _folder(self, node: NodeId) -> Inode | None:
        """Return the folder's inode; one that is not known is put into ``lost+found``. None for what is no folder."""
        if node == ROOT:
            return Inode(ROOT_INODE)
        if node == TRASH:
            return Inode(TRASH_INODE)
        found = self._application.find(node)
        if found is None:
            return None if self._context.own else self._placeholder(node)
        if found[1] != Kind.DIRECTORY:
            return None
        if self._application.new_node(node) is not None:
            # Its link count is about to move, which is done in its row.
            self._application.flush()
        return found[0]

    def _placeholder(self, node: NodeId) -> Inode:
        """Make a folder that stands for an unknown one; its entry has the node's own id until the node is made."""
        parent, name = (ROOT, b"lost+found") if node == LOST_FOUND else (LOST_FOUND, node.hex().encode())
        make = Make(node, Kind.DIRECTORY, 0o700, 0, 0, 0, self._context.time)
        ino = self._application.add_node(make, local=False).ino
        self._application.flush()
        self.place(Place(EntryId(node), node, parent, name), local=False)
        return ino

    def _origin(self, old: Row | None) -> bytes:
        """Say where a deleted entry was, and when it went; one that is in the trash already keeps what it says."""
        if old is not None and old[5] is not None:
            return bytes(old[5])
        parent = queries.node_id_of(self._transaction, old[0]) if old is not None else None
        return msgspec.msgpack.encode((parent or b"", self._context.time))
