"""The tree of the model file system: nodes, names, and the rules of names. Callers hold the lock."""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.support.model_content import SparseBytes
from tgdav.clock import Clock
from tgdav.errors import InvalidArgument, NameTooLong, NotADirectory, NotFound, NotPermitted
from tgdav.fs.api import Owner
from tgdav.ids import ContentTag, EntryId, Inode, NodeId
from tgdav.metadata.types import NAME_MAX, Attributes, DirectoryEntry, Kind

ROOT = Inode(1)
RESERVED = frozenset({b".snapshots", b".versions", b".trash", b".namespaces", b".conflicts", b"-"})
"""Names in the root that show something else."""


@dataclass(eq=False)
class Node:
    """An inode. ``links`` counts entries, ``handles`` open files; with neither it is gone.

    ``kept`` is the content that a crash leaves.
    """

    inode: Inode
    kind: Kind
    mode: int
    owner: Owner
    rdev: int
    target: bytes
    atime: int
    mtime: int
    ctime: int
    btime: int
    parent: Inode | None = None
    links: int = 0
    handles: int = 0
    dirty: int = 0
    content: SparseBytes = field(default_factory=SparseBytes)
    kept: SparseBytes = field(default_factory=SparseBytes)
    tag: ContentTag = field(default_factory=SparseBytes().tag)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    properties: dict[bytes, bytes] = field(default_factory=dict)
    entries: dict[bytes, "Entry"] = field(default_factory=dict)

    @property
    def is_directory(self) -> bool:
        return self.kind == Kind.DIRECTORY

    @property
    def size(self) -> int:
        return len(self.target) if self.kind == Kind.SYMLINK else self.content.size

    def keep(self) -> None:
        """Make the content the one that a crash leaves."""
        self.kept = self.content.copy()

    def flush(self) -> None:
        """Take the content as committed: its tag is the node's from now on."""
        self.keep()
        self.tag, self.dirty = self.content.tag(), 0


@dataclass(frozen=True)
class Entry:
    number: int
    inode: Inode


class Tree:
    """All nodes by inode; folders hold their entries."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.nodes: dict[Inode, Node] = {}
        self._numbers = 0
        root = self.make(Kind.DIRECTORY, 0o755, Owner())
        root.parent, root.handles = root.inode, 1

    # ---- nodes ---------------------------------------------------------------------------------------------------

    def make(self, kind: Kind, mode: int, owner: Owner, *, rdev: int = 0, target: bytes = b"") -> Node:
        inode = Inode(self._next())
        now = self.clock.now_ns()
        node = Node(inode, kind, mode & 0o7777, owner, rdev, target, now, now, now, now)
        self.nodes[inode] = node
        return node

    def node(self, inode: Inode) -> Node:
        if inode not in self.nodes:
            raise NotFound
        return self.nodes[inode]

    def folder(self, inode: Inode) -> Node:
        node = self.node(inode)
        if not node.is_directory:
            raise NotADirectory
        return node

    def forget_unused(self, node: Node) -> None:
        """Drop a node that has neither a name nor an open handle."""
        if not node.links and not node.handles:
            self.nodes.pop(node.inode, None)

    def crash(self) -> None:
        """Lose unflushed content and all open handles."""
        for node in list(self.nodes.values()):
            node.content, node.handles = node.kept, int(node.inode == ROOT)
            node.flush()
            self.forget_unused(node)

    def attributes(self, node: Node) -> Attributes:
        return Attributes(
            inode=node.inode,
            node=NodeId(node.inode.to_bytes(16, "big")),
            kind=node.kind,
            mode=node.mode,
            uid=node.owner.uid,
            gid=node.owner.gid,
            rdev=node.rdev,
            nlink=self._link_count(node),
            size=node.size,
            atime=node.atime,
            mtime=node.mtime,
            ctime=node.ctime,
            btime=node.btime,
            tag=node.tag if node.kind == Kind.FILE else None,
            dirty=node.dirty,
            local=False,
        )

    def _link_count(self, node: Node) -> int:
        if not node.is_directory:
            return node.links
        return 2 + sum(self.nodes[entry.inode].is_directory for entry in node.entries.values())

    # ---- names ---------------------------------------------------------------------------------------------------

    def find(self, folder: Node, name: bytes, *, normalized: bool = False) -> tuple[bytes, Node] | None:
        """Return (the name as kept, the node) or None. Raises as ``check_name``."""
        check_name(name)
        if name not in folder.entries and normalized:
            twins = [(entry.number, kept) for kept, entry in folder.entries.items() if _nfc(kept) == _nfc(name)]
            name = min(twins)[1] if twins else name
        entry = folder.entries.get(name)
        return (name, self.nodes[entry.inode]) if entry else None

    def get(self, folder: Node, name: bytes, *, normalized: bool = False) -> Node:
        found = self.find(folder, name, normalized=normalized)
        if found is None:
            raise NotFound
        return found[1]

    def check_new(self, folder: Node, name: bytes) -> None:
        """Refuse a name that may not be made here. Raises as ``check_name``, and NotPermitted."""
        check_name(name)
        if folder.inode == ROOT and name in RESERVED:
            raise NotPermitted("the name is reserved in the root")

    def place(self, folder: Node, name: bytes, node: Node, *, number: int = 0) -> None:
        """Put an entry where there is none; ``number`` keeps a moved entry's age."""
        self.check_new(folder, name)
        folder.entries[name] = Entry(number or self._next(), node.inode)
        node.links += 1
        node.parent = folder.inode if node.is_directory else None
        self._touch(folder, node)

    def take(self, folder: Node, name: bytes) -> tuple[Node, int]:
        """Take an entry out; return its node, which stays, and the entry's number."""
        entry = folder.entries.pop(name)
        node = self.nodes[entry.inode]
        node.links -= 1
        self._touch(folder, node)
        return node, entry.number

    def drop(self, folder: Node, name: bytes) -> None:
        """Remove an entry and, of a folder, all below it."""
        node, _ = self.take(folder, name)
        for below in list(node.entries):
            self.drop(node, below)
        self.forget_unused(node)

    def is_inside(self, node: Node, folder: Node) -> bool:
        """Return whether the directory ``node`` is ``folder`` or below it."""
        while node is not folder and node.inode != ROOT:
            node = self.nodes[node.parent or ROOT]
        return node is folder

    def below(self, folder: Node) -> Iterator[Node]:
        """Yield every node under a folder."""
        for entry in folder.entries.values():
            yield self.nodes[entry.inode]
            yield from self.below(self.nodes[entry.inode])

    def entries(self, folder: Node) -> Iterator[DirectoryEntry]:
        for name, entry in sorted(folder.entries.items()):
            attributes = self.attributes(self.nodes[entry.inode])
            yield DirectoryEntry(name, EntryId(entry.number.to_bytes(16, "big")), attributes)

    def copy(self, source: Node, *, recursive: bool) -> Node:
        """Return a nameless copy of a node, its times, attributes and (``recursive``) all below it."""
        twin = self.make(source.kind, source.mode, source.owner, rdev=source.rdev, target=source.target)
        for name, entry in sorted(source.entries.items() if recursive else ()):
            self.place(twin, name, self.copy(self.nodes[entry.inode], recursive=True))
        twin.content, twin.xattrs = source.content.copy(), dict(source.xattrs)
        twin.properties = dict(source.properties)
        twin.atime, twin.mtime, twin.btime = source.atime, source.mtime, source.btime
        twin.flush()
        return twin

    def _next(self) -> int:
        self._numbers += 1
        return self._numbers

    def _touch(self, folder: Node, node: Node) -> None:
        now = self.clock.now_ns()
        folder.mtime = folder.ctime = node.ctime = now


def check_name(name: bytes) -> None:
    """Check a name. Raises InvalidArgument, NameTooLong."""
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        raise InvalidArgument("not a name")
    if len(name) > NAME_MAX:
        raise NameTooLong


def _nfc(name: bytes) -> bytes:
    try:
        return unicodedata.normalize("NFC", name.decode()).encode()
    except UnicodeDecodeError:
        return name
