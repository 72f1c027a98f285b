"""``Change``: what a caller of ``Journal.change`` uses to read and change the tree."""

from collections.abc import Sequence

from sqlalchemy import bindparam, delete, select, update

from tgdav.crdt.ops import TRASH, Attr, Field, Make, Op, Place, Prune, Purge, Write
from tgdav.db import Connection, Transaction, compiled
from tgdav.db.schema import PURGED_INODE, TRASH_INODE, entries, fields, nodes
from tgdav.entropy import Entropy
from tgdav.errors import InvalidArgument, NotFound
from tgdav.ids import EntryId, Inode, NodeId, Position, make_id
from tgdav.metadata import history, pruning, queries, settings
from tgdav.metadata.apply import OperationApplier
from tgdav.metadata.conflict_names import CONFLICT_MARK
from tgdav.metadata.context import LiveDirectories
from tgdav.metadata.fresh_nodes import FreshNodes
from tgdav.metadata.node_rows import NODE_UPDATES, NodeRows
from tgdav.metadata.tree_cache import TreeChanges, TreeView
from tgdav.metadata.types import Attributes, DirectoryEntry, Kind

_n = nodes.c
_SET_LOCAL_NODE = compiled(
    update(nodes).where(_n.ino == bindparam("inode")).values(local=1, since=bindparam("position"))
)
_SET_LOCAL_ENTRIES = compiled(
    update(entries).where(entries.c.ino == bindparam("inode")).values(local=1, since=bindparam("position"))
)
_LOCAL_MANIFEST = compiled(
    select(_n.manifest).where(
        _n.ino == bindparam("ino"), _n.local == 1, ~select(entries.c.ino).where(entries.c.ino == _n.ino).exists()
    )
)
_DROP_NODE = compiled(delete(nodes).where(_n.ino == bindparam("ino")))
_DROP_FIELDS = compiled(delete(fields).where(fields.c.ino == bindparam("ino")))


class IdSource:
    """Makes unique ids from a random prefix of 8 bytes and a counter.

    Each opening of the journal draws a new prefix. So neither an id whose change was lost, nor one that was made after the
    backup from which this state was restored, is ever made again.
    """

    def __init__(self, prefix: bytes) -> None:
        self._prefix = prefix
        self._count = 0

    def next(self) -> bytes:
        """Return 16 bytes; ids sort in the order in which they were made."""
        self._count += 1
        return make_id(self._prefix, self._count)


class Change:
    """One change while it is being made. All operations emitted to it become one group."""

    def __init__(
        self, rows: NodeRows, ids: IdSource, entropy: Entropy, view: TreeView, fresh: FreshNodes, now: float
    ) -> None:
        self._rows, self._fresh, self._now = rows, fresh, now
        self._applier = OperationApplier(rows)
        self._view = view
        self._context = rows.context
        self._ids = ids
        self._entropy = entropy
        self._ops: list[Op] = []

    @property
    def transaction(self) -> Transaction:
        """The transaction, with all operations so far in it."""
        self._rows.flush()
        return self._rows.transaction

    @property
    def connection(self) -> Connection:
        """The same, for ``tgdav.metadata.queries``."""
        return self.transaction

    @property
    def time(self) -> int:
        """Wall-clock time of the change, ns."""
        return self._context.time

    @property
    def stamp(self) -> int:
        """Hybrid logical clock stamp of the group."""
        return self._context.stamp

    @property
    def position(self) -> Position:
        """Position of the group in this machine's log."""
        return self._context.position

    @property
    def has_trash(self) -> bool:
        """Whether deleted entries stay in the trash for a while."""
        return self._rows.policy.retention_days > 0

    @property
    def changes(self) -> TreeChanges:
        """What the tree cache must apply. Callers that change nodes without operations must record it here."""
        return self._context.changes

    @property
    def directories(self) -> LiveDirectories:
        """Directories known to be reachable from the root."""
        return self._context.directories

    # ---- reading -------------------------------------------------------------------------------------------------
    # The methods query the database only if neither this change nor the tree cache knows the answer.

    def attributes_of(self, node: NodeId) -> Attributes | None:
        """Return the attributes that a node will have when the change is committed."""
        new = self._rows.new.get(node)
        return queries.attributes_of(self.connection, node) if new is None else new.attributes

    def attributes(self, ino: Inode) -> Attributes | None:
        """As ``queries.attributes``."""
        found = None if self.changes.touches(ino) else self._view.node(ino)
        if found is None:
            found = queries.attributes(self.connection, ino)
        if found is not None:
            self._remember(found)
        return found

    def field(self, ino: Inode, name: bytes) -> bytes | None:
        """As ``queries.field``."""
        return self._context.fields.get(ino, name, lambda: queries.field(self.connection, ino, name))

    def _remember(self, node: Attributes) -> None:
        context = self._context
        context.found_nodes[node.node] = (node.inode, node.kind, node.local)
        if node.is_file and not node.size:
            context.found_empty.add(node.node)

    def find(self, parent: Inode, name: bytes, *, normalized: bool = False) -> DirectoryEntry | None:
        """As ``queries.find_entry``."""
        found = self._find(parent, name, normalized=normalized)
        # A conflict name is not the name in the entry's row.
        if found is not None and CONFLICT_MARK not in found.name:
            self._remember(found.attributes)
            self._context.found_entries[found.entry] = (parent, found.name, found.attributes.inode)
        return found

    def _find(self, parent: Inode, name: bytes, *, normalized: bool) -> DirectoryEntry | None:
        changes = self._context.changes
        if not changes.everything and (parent, name) not in changes.names:
            known = self._view.find(parent, name)
            if isinstance(known, DirectoryEntry) and not changes.touches(known.attributes.inode):
                return known
            # The cache knows names by their bytes: another spelling, or a conflict name, needs a query.
            if known is None and name.isascii() and CONFLICT_MARK not in name:
                return None
        return queries.find_entry(self.connection, parent, name, normalized=normalized)

    # ---- changing ------------------------------------------------------------------------------------------------

    def new_id(self) -> bytes:
        """Return a unique id for a node or an entry that will be logged."""
        # Operations on an id that was just made need no query to see that it is unknown.
        made = self._ids.next()
        self._context.fresh.add(made)
        return made

    def new_local_id(self) -> bytes:
        """Return a random id for a node or an entry that stays on this machine."""
        made = self._entropy.bytes(16)
        self._context.fresh.add(made)
        return made

    def emit(self, op: Op) -> None:
        """Apply an operation and log it; a ``Make`` of a node that exists is logged only if it changes something.

        Raises NotFound if the node or the parent is unknown, InvalidArgument if the parent is not a directory or the move
        would put a directory below itself.
        """
        if self._applier.apply(op):
            self._log(op)
        else:
            self._refuse(op)

    def is_fresh(self, node: Attributes, entry: EntryId) -> bool:
        """Return whether a node was made here in the last minute, never sent, and is in no snapshot; see ``FreshNodes``."""
        return self._fresh.is_fresh(node.inode, entry, self._now, self._rows.policy.last_pinned)

    def keep_versions_of(self, entry: EntryId) -> None:
        """The entry has replaced another one: from now on its deletion goes to the trash, however new its file is."""
        self._context.keep_versions_of(entry)

    def emit_removal(self, op: Place, fresh: Sequence[Inode] = ()) -> None:
        """Apply and log a Place into the trash and the Purge of that entry. Raises as ``emit``.

        ``fresh`` are the inodes of the node and all below if they are fresh: all operations about them may be retracted.
        """
        if self._applier.remove(op, leaves_trace=not fresh):
            for inode in fresh:
                self._fresh.remove(inode)
            self._log(op)
            self._log(Purge((op.entry,)))
        else:
            self._refuse(op)

    def emit_local(self, op: Op) -> None:
        """Apply an operation on a local node without logging it. A local entry that is placed into the trash is deleted."""
        if not self._applier.apply(op, local=True):
            self._refuse(op)

    def _log(self, op: Op) -> None:
        self._ops.append(op)
        self._context.sequence += 1

    def _refuse(self, op: Op) -> None:
        if isinstance(op, Place) and None not in map(self._rows.find, (op.node, op.parent)):
            raise InvalidArgument("the parent of an entry must be a directory that is not below the entry")
        # A Make of a node that exists, or a Prune of what is gone, changes nothing, which is no error.
        if not isinstance(op, Make | Prune):
            raise NotFound

    def publish(self, ino: Inode, *, moved: EntryId | None = None) -> None:
        """Log a local node as it is, and its entries too except ``moved``, which the caller places; it is no longer local then.

        The caller allows its chunks to be packed. A node that is not local is left as it is.
        """
        connection = self.connection
        node = self._require(ino)
        if not node.local:
            return
        content = queries.manifest(connection, ino)
        places = queries.entries_of(connection, ino)
        target = content if node.kind == Kind.SYMLINK else b""
        self.emit(Make(node.node, node.kind, node.mode, node.uid, node.gid, node.rdev, node.btime, target))
        for entry, parent, name, _ in places:
            above = queries.node_id_of(connection, parent)
            if above is not None and entry != moved:
                self.emit(Place(entry, node.node, above, name))
        if node.tag is not None and node.size:
            self.emit(Write(node.node, node.size, node.tag, content, None, node.mtime))
        self.emit(Attr(node.node, {"mtime": node.mtime, "btime": node.btime}))
        for field, value in queries.fields(connection, [ino], b"").get(ino, {}).items():
            self.emit(Field(node.node, field, value))

    def withdraw(self, ino: Inode) -> None:
        """Make a logged node local, with its entries and content: the log deletes it, this machine keeps it.

        The caller keeps its chunks from being packed. A node that is local already is left as it is.
        """
        node = self._require(ino)
        if node.local:
            return
        # Logged but not applied: other machines delete the node, this one keeps it.
        places = queries.entries_of(self.connection, ino)
        for entry, parent, name, _ in places:
            if parent not in (TRASH_INODE, PURGED_INODE):
                self._log(Place(entry, node.node, TRASH, name))
                self._rows.keep_pinned(parent)
                self._rows.update(parent, dict.fromkeys(("mtime", "ctime"), self._context.time))
        withdrawn = settings.get(self.connection, settings.WITHDRAWN, [])
        ids = [node.node, *(entry for entry, *_ in places)]
        settings.put(
            self.transaction, settings.WITHDRAWN, [*withdrawn, *(each for each in ids if each not in withdrawn)]
        )
        # Snapshots show the logged node; what it becomes now is junk, which is in none.
        self._rows.keep_whole(ino)
        self.changes.nodes.add(ino)
        self._context.found_nodes.clear()
        self._context.found_empty.clear()
        self.transaction.execute(_SET_LOCAL_NODE, {"inode": ino, "position": self.position})
        self.transaction.execute(_SET_LOCAL_ENTRIES, {"inode": ino, "position": self.position})
        self.transaction.execute(history.SET_SINCE_OF_FIELDS, {"inode": ino, "position": self.position})

    def drop_local(self, ino: Inode) -> None:
        """Delete a local node that has no entry any more; any other node is left as it is."""
        row = self.transaction.one(_LOCAL_MANIFEST, {"ino": ino})
        if row is not None:
            self.changes.nodes.add(ino)
            self.transaction.execute(_DROP_NODE, {"ino": ino})
            self.transaction.execute(_DROP_FIELDS, {"ino": ino})
            history.drop_manifest(self.transaction, ino, row[0])

    def set_local(self, ino: Inode, *, atime: int | None = None, dirty: int | None = None) -> None:
        """Set the columns of a node that are never logged: its last read (ns), its overlay counter."""
        given = {"atime": atime, "dirty": dirty}
        values = {name: value for name, value in given.items() if value is not None}
        self.changes.amend(ino, values)
        # Not through NodeRows.update: a change of these columns must not move ``since``, or it would look like a logged one.
        self._rows.transaction.defer(NODE_UPDATES, (ino, values, 0))

    def finish(self) -> tuple[Op, ...]:
        """Drop versions that are too many, write the rows of new nodes, and return the operations to log."""
        if self._context.versioned:
            self._prune()
        self._rows.flush()
        return tuple(self._ops)

    def _prune(self) -> None:
        most = settings.get(self.connection, settings.VERSION_POLICY)
        for ino in sorted(self._context.versioned) if most is not None else ():
            for op in pruning.beyond(self.connection, ino, most, self.time):
                self.emit(op)

    def _require(self, ino: Inode) -> Attributes:
        found = queries.attributes(self.connection, ino)
        if found is None:
            raise NotFound
        return found
