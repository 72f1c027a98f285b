"""One change to the tree, while it is being made."""

from sqlalchemy import bindparam, delete, select, update

from tgdav.crdt.ops import TRASH, Attr, Field, Make, Op, Place, Write
from tgdav.db import Connection, Transaction, compiled
from tgdav.db.schema import TRASH_INODE, entries, fields, nodes
from tgdav.entropy import Entropy
from tgdav.errors import InvalidArgument, NotFound
from tgdav.ids import Inode, NodeId, Position, make_id
from tgdav.metadata import history, queries
from tgdav.metadata.apply import OperationApplier
from tgdav.metadata.conflict_names import CONFLICT_MARK
from tgdav.metadata.context import LiveFolders
from tgdav.metadata.node_rows import NODE_UPDATES, NodeUpdate
from tgdav.metadata.tree_cache import TreeChanges
from tgdav.metadata.tree_view import TreeView
from tgdav.metadata.types import Attributes, DirectoryEntry, Kind

_n = nodes.c
_KEEP_LOCAL_NODE = compiled(update(nodes).where(_n.ino == bindparam("inode")).values(local=1))
_KEEP_LOCAL_ENTRIES = compiled(update(entries).where(entries.c.ino == bindparam("inode")).values(local=1))
_LOCAL_MANIFEST = compiled(select(_n.manifest).where(_n.ino == bindparam("ino"), _n.local == 1, _n.nlink == 0))
_DROP_NODE = compiled(delete(nodes).where(_n.ino == bindparam("ino")))
_DROP_FIELDS = compiled(delete(fields).where(fields.c.ino == bindparam("ino")))


class IdSource:
    """Makes ids that are never used twice: from a random number of 8 bytes and a count.

    Each opening of the journal draws a number of its own, so that neither an id whose change was lost is made again, nor one
    that was made after the backup from which this state was restored.
    """

    def __init__(self, prefix: bytes) -> None:
        self._prefix = prefix
        self._count = 0

    def next(self) -> bytes:
        """Return 16 bytes; they sort by the order they were made in."""
        self._count += 1
        return make_id(self._prefix, self._count)


class Change:
    """What ``Journal.change`` hands to its work. Every operation given to it becomes part of one group.

    ``time`` is the change's wall-clock time in ns, ``position`` its place in this machine's log.
    """

    def __init__(self, application: OperationApplier, ids: IdSource, entropy: Entropy, view: TreeView) -> None:
        self._application = application
        self._view = view
        self._context = application.context
        self._ids = ids
        self._entropy = entropy
        self._ops: list[Op] = []

    @property
    def transaction(self) -> Transaction:
        """The transaction, with all operations so far in it."""
        self._application.flush()
        return self._application.transaction

    @property
    def connection(self) -> Connection:
        """The same, for ``tgdav.metadata.queries``."""
        return self.transaction

    @property
    def time(self) -> int:
        """Wall-clock time of the change, ns."""
        return self._context.time

    @property
    def changes(self) -> TreeChanges:
        """What a cache of the tree must take in; whoever changes nodes by other means than operations adds it here."""
        return self._context.changes

    @property
    def folders(self) -> LiveFolders:
        """Folders that are known to be reachable."""
        return self._context.folders

    def attributes_of(self, node: NodeId) -> Attributes | None:
        """Return the attributes of a node as it will be, without a look at the database where it was just made."""
        new = self._application.new_node(node)
        return queries.attributes_of(self.connection, node) if new is None else new.attributes

    def attributes(self, ino: Inode) -> Attributes | None:
        """As ``queries.attributes``, without a look at the database where the cache of the tree can tell."""
        found = None if self.changes.touches(ino) else self._view.node(ino)
        if found is None:
            found = queries.attributes(self.connection, ino)
        if found is not None:
            self._found(found)
        return found

    def field(self, ino: Inode, name: bytes) -> bytes | None:
        """As ``queries.field``, without a look at the database where an earlier change looked already."""
        return self._context.fields.get(ino, name, lambda: queries.field(self.connection, ino, name))

    def _found(self, node: Attributes) -> None:
        context = self._context
        context.found_nodes[node.node] = (node.inode, node.kind, node.local)
        if node.is_file and not node.size:
            context.found_empty.add(node.node)

    def find(self, parent: Inode, name: bytes, *, normalized: bool = False) -> DirectoryEntry | None:
        """As ``queries.find_entry``, without a look at the database where the cache of the tree can tell."""
        found = self._find(parent, name, normalized=normalized)
        if found is not None and CONFLICT_MARK not in found.name:
            self._found(found.attributes)
            self._context.found_entries[found.entry] = (parent, found.name, found.attributes.inode)
        return found

    def _find(self, parent: Inode, name: bytes, *, normalized: bool) -> DirectoryEntry | None:
        if not self.changes.everything and (parent, name) not in self.changes.names:
            known = self._view.find(parent, name)
            plain = name.isascii() and CONFLICT_MARK not in name
            if isinstance(known, DirectoryEntry) and not self.changes.touches(known.attributes.inode):
                return known
            if known is None and plain:
                return None
        return queries.find_entry(self.connection, parent, name, normalized=normalized)

    @property
    def stamp(self) -> int:
        """Hybrid logical clock stamp of the group."""
        return self._context.stamp

    @property
    def position(self) -> Position:
        """Position of the group in this machine's log."""
        return self._context.position

    def new_id(self) -> bytes:
        """Return an id for a node or an entry that is to be logged: never used before, and never again."""
        made = self._ids.next()
        self._context.fresh.add(made)
        return made

    def new_local_id(self) -> bytes:
        """Return a random id for a node or an entry that stays on this machine."""
        made = self._entropy.bytes(16)
        self._context.fresh.add(made)
        return made

    def emit(self, op: Op) -> None:
        """Apply an operation and log it; a ``Make`` of what is there already is logged only if it changes something.

        Raises NotFound (its node or folder is not known) or InvalidArgument (an entry would stand in no folder, or a
        folder below itself).
        """
        if self._application.apply(op):
            self._ops.append(op)
        else:
            self._refuse(op)

    def emit_local(self, op: Op) -> None:
        """Apply an operation on a local node, and log nothing. A local entry placed into the trash is deleted."""
        if not self._application.apply(op, local=True):
            self._refuse(op)

    def _refuse(self, op: Op) -> None:
        if isinstance(op, Place) and None not in map(self._application.find, (op.node, op.parent)):
            raise InvalidArgument("an entry belongs into a folder, and a folder not below itself")
        if not isinstance(op, Make):
            raise NotFound

    def publish(self, ino: Inode, *, placed: bool = True) -> None:
        """Log a local node as it is, its entries too unless ``placed`` is False: it is local no more.

        The caller makes its chunks ready to be packed. A node that is not local stays as it is.
        """
        connection = self.connection
        node = self._attributes(ino)
        if not node.local:
            return
        content = queries.manifest(connection, ino)
        places = queries.entries_of(connection, ino) if placed else []
        target = content if node.kind == Kind.SYMLINK else b""
        self.emit(Make(node.node, node.kind, node.mode, node.uid, node.gid, node.rdev, node.btime, target))
        for entry, parent, name, _ in places:
            above = queries.node_id_of(connection, parent)
            if above is not None:
                self.emit(Place(entry, node.node, above, name))
        if node.tag is not None and node.size:
            self.emit(Write(node.node, node.size, node.tag, content, None, node.mtime))
        self.emit(Attr(node.node, {"mtime": node.mtime, "btime": node.btime}))
        for field, value in queries.fields(connection, [ino], b"").get(ino, {}).items():
            self.emit(Field(node.node, field, value))

    def withdraw(self, ino: Inode) -> None:
        """Make a logged node local with its entries and content: in the log it is deleted, here it stays.

        The caller keeps its chunks from being packed. A node that is local already stays as it is.
        """
        node = self._attributes(ino)
        if node.local:
            return
        for entry, parent, name, _ in queries.entries_of(self.connection, ino):
            if parent != TRASH_INODE:
                self._ops.append(Place(entry, node.node, TRASH, name))
        self.changes.nodes.add(ino)
        self._context.found_nodes.clear()
        self._context.found_empty.clear()
        self.transaction.execute(_KEEP_LOCAL_NODE, {"inode": ino})
        self.transaction.execute(_KEEP_LOCAL_ENTRIES, {"inode": ino})

    def drop_local(self, ino: Inode) -> None:
        """Delete a local node that no entry names any more; any other node stays."""
        row = self.transaction.one(_LOCAL_MANIFEST, {"ino": ino})
        if row is not None:
            self.changes.nodes.add(ino)
            self.transaction.execute(_DROP_NODE, {"ino": ino})
            self.transaction.execute(_DROP_FIELDS, {"ino": ino})
            history.drop_manifest(self.transaction, ino, row[0])

    def set_local(self, ino: Inode, *, atime: int | None = None, dirty: int | None = None) -> None:
        """Set what is never logged of a node: its last read (ns), its overlay counter."""
        given = {"atime": atime, "dirty": dirty}
        values = {name: value for name, value in given.items() if value is not None}
        self.changes.amend(ino, values)
        self._application.transaction.defer(NODE_UPDATES, NodeUpdate(ino, values))

    def finish(self) -> tuple[Op, ...]:
        """Write what is still to be written and return the operations to log."""
        self._application.flush()
        return tuple(self._ops)

    def _attributes(self, ino: Inode) -> Attributes:
        found = queries.attributes(self.connection, ino)
        if found is None:
            raise NotFound
        return found
