"""What the operations of one group have in common while they are applied."""

from collections.abc import Callable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from sqlalchemy import func, select

from tgdav.crdt.ops import Make
from tgdav.db import Transaction, compiled
from tgdav.db.schema import nodes
from tgdav.ids import ContentTag, EntryId, Inode, MachineId, NodeId, Position
from tgdav.metadata.tree_cache import TreeChanges
from tgdav.metadata.types import DIRECTORY, FILE, SYMLINK, Attributes, Kind

_MOST_FOLDERS = 10_000
_MOST_FIELDS = 10_000
_KINDS = {int(kind): kind for kind in Kind}
_in_order: Callable[[dict[str, Any]], tuple[Any, ...]] = itemgetter(*nodes.c.keys())
_LARGEST_INODE = compiled(select(func.coalesce(func.max(nodes.c.ino), 0)))


@dataclass(slots=True)
class GroupContext:
    """Whose group is applied, and when: ``stamp`` orders, ``time`` (ns) is shown, ``position`` is the place in our log.

    ``empty_tag`` is the tag of a file without content. ``own``: an unknown folder is a mistake, not a gap in the log.
    ``fresh`` holds ids that are known to be new, so that nothing is looked up for them; ``touched`` the nodes, and
    ``touched_fields`` the fields, whose state before this group is settled: kept, or of no interest. ``live`` are new folders
    that can be reached from the root.
    ``changes`` says what a cache of the tree must take in. What the change looked up itself, and has not touched since, stands
    in ``found_nodes``, as (inode, kind, local), ``found_empty``, files without content, and ``found_entries``, as (folder,
    name, inode).
    """

    machine: MachineId
    position: Position
    stamp: int
    time: int
    empty_tag: ContentTag
    own: bool = False
    folders: "LiveFolders" = field(default_factory=lambda: LiveFolders())
    fields: "KnownFields" = field(default_factory=lambda: KnownFields())
    fresh: set[bytes] = field(default_factory=set)
    touched: set[Inode] = field(default_factory=set)
    touched_fields: set[tuple[Inode, bytes]] = field(default_factory=set)
    changes: TreeChanges = field(default_factory=TreeChanges)
    live: set[Inode] = field(default_factory=set)
    found_nodes: dict[NodeId, tuple[Inode, int, bool]] = field(default_factory=dict)
    found_empty: set[NodeId] = field(default_factory=set)
    found_entries: dict[EntryId, tuple[Inode, bytes, Inode]] = field(default_factory=dict)


class LiveFolders:
    """Folders that were seen to be reachable from the root, while no folder has been moved since.

    Used in the writer's turn alone. The times and counts of what it returns may be old; ids and kinds never change.
    """

    def __init__(self) -> None:
        self._by_inode: dict[Inode, Attributes] = {}
        self._by_node: dict[NodeId, Inode] = {}

    def get(self, inode: Inode) -> Attributes | None:
        """Return a folder that is reachable for certain."""
        return self._by_inode.get(inode)

    def inode_of(self, node: NodeId) -> Inode | None:
        """Return the inode of a folder that is reachable for certain."""
        return self._by_node.get(node)

    def add(self, folder: Attributes) -> None:
        """Remember a folder that this transaction found reachable."""
        if len(self._by_inode) >= _MOST_FOLDERS:
            self.clear()
        self._by_inode[folder.inode] = folder
        self._by_node[folder.node] = folder.inode

    def clear(self) -> None:
        """Some folder moved, or a transaction was lost."""
        self._by_inode.clear()
        self._by_node.clear()


class KnownFields:
    """Fields that were looked up, None for one that is not there, and new nodes, which have none.

    Used in the writer's turn alone. Who sets a field forgets it here, before it may be looked up again.
    """

    def __init__(self) -> None:
        self._values: dict[tuple[Inode, bytes], bytes | None] = {}
        self._bare: set[Inode] = set()

    def get(self, inode: Inode, field: bytes, look: Callable[[], bytes | None]) -> bytes | None:
        """Return the value of a field; ``look`` asks the database."""
        if inode in self._bare:
            return None
        if (inode, field) not in self._values:
            if len(self._values) >= _MOST_FIELDS:
                self._values.clear()
            self._values[inode, field] = look()
        return self._values[inode, field]

    def add_new(self, inode: Inode) -> None:
        """Remember that a node is new."""
        if len(self._bare) >= _MOST_FIELDS:
            self._bare.clear()
        self._bare.add(inode)

    def forget(self, inode: Inode, field: bytes) -> None:
        """A field is set or removed."""
        self._bare.discard(inode)
        self._values.pop((inode, field), None)

    def clear(self) -> None:
        """Others changed something, or a transaction was lost."""
        self._values.clear()
        self._bare.clear()


class InodeCounter:
    """Hands out numbers for new nodes. A number given to a change that fails is not used again by this process."""

    def __init__(self, transaction: Transaction) -> None:
        row = transaction.one(_LARGEST_INODE)
        self._last = int(row[0]) if row else 0

    def next(self) -> Inode:
        """Return a number that no node has."""
        self._last += 1
        return Inode(self._last)


@dataclass(slots=True)
class NewNode:
    """A node whose row is not written yet. ``row`` maps the columns of ``nodes``."""

    ino: Inode
    row: dict[str, Any]

    @classmethod
    def of(cls, op: Make, ino: Inode, context: GroupContext, *, local: bool) -> "NewNode":
        """Return what ``op`` makes: without a name, and as a file without content."""
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
            "nlink": 2 if op.kind == DIRECTORY else 0,
            "dirty": 0,
            "local": int(local),
        }
        return cls(ino, row)

    @property
    def values(self) -> tuple[Any, ...]:
        """The row as the table's columns stand."""
        return _in_order(self.row)

    @property
    def attributes(self) -> Attributes:
        """What the node shows once its row is written."""
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
