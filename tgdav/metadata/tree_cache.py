"""What the tree shows now, in memory: names and nodes that were asked for or just written.

A reading connection loses its page cache whenever anything is committed, so a look-up beside writers costs as much as
many statements of the writer itself. The cache takes in what each committed change did (``absorb``, in commit order) and
so never shows an older state than the last change that was acknowledged. A look-up that was answered by the database is
remembered only if nothing was absorbed since it began (``generation``).
"""

import threading
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

import msgspec

from tgdav.ids import EntryId, Inode
from tgdav.metadata.types import Attributes, DirectoryEntry

LIMIT = 20_000
"""Names, and nodes, kept; when there are more, all are forgotten."""


class Unknown(Enum):
    """The cache cannot say."""

    TOKEN = 0


UNKNOWN: Final = Unknown.TOKEN


@dataclass(slots=True)
class TreeChanges:
    """What one change did to names and nodes, as far as a cache must know.

    ``names`` and ``nodes`` are to be forgotten; then ``placed`` maps names to the entry and node that they show now, and
    ``contents`` nodes to their attributes and encoded manifest. ``folders`` maps folders whose entries changed to (time in
    ns, change of the link count). ``everything``: too much to say.
    """

    names: set[tuple[Inode, bytes]] = field(default_factory=set)
    nodes: set[Inode] = field(default_factory=set)
    folders: dict[Inode, tuple[int, int]] = field(default_factory=dict)
    placed: dict[tuple[Inode, bytes], tuple[EntryId, Inode]] = field(default_factory=dict)
    contents: dict[Inode, tuple[Attributes, bytes]] = field(default_factory=dict)
    everything: bool = False

    def touch(self, folder: Inode, time: int, links: int) -> None:
        """Entries of ``folder`` changed."""
        before = self.folders.get(folder)
        self.folders[folder] = (time, links + (before[1] if before else 0))


class TreeCache:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: dict[tuple[Inode, bytes], tuple[EntryId, Inode] | None] = {}
        self._nodes: dict[Inode, tuple[Attributes, bytes | None]] = {}
        self.generation = 0

    def find(self, parent: Inode, name: bytes) -> DirectoryEntry | Unknown | None:
        """Return what a name shows, None if it is known to show nothing."""
        known = self._names.get((parent, name), UNKNOWN)
        if known is None or known is UNKNOWN:
            return known
        node = self._nodes.get(known[1])
        return UNKNOWN if node is None else DirectoryEntry(name, known[0], node[0])

    def node(self, inode: Inode) -> Attributes | None:
        """Return a node's attributes, None if the cache does not have them."""
        known = self._nodes.get(inode)
        return None if known is None else known[0]

    def content(self, inode: Inode) -> tuple[Attributes, bytes] | None:
        """Return a node's attributes and its encoded manifest, None if the cache does not have both."""
        known = self._nodes.get(inode)
        return None if known is None or known[1] is None else (known[0], known[1])

    def remember(self, generation: int, parent: Inode, name: bytes, entry: DirectoryEntry | None) -> None:
        """Keep the database's answer to a look-up that began at ``generation``."""
        with self._lock:
            if generation != self.generation:
                return
            self._make_room()
            if entry is None:
                self._names[parent, name] = None
            else:
                self._names[parent, name] = (entry.entry, entry.attributes.inode)
                self._keep(entry.attributes, None)

    def remember_node(self, generation: int, attributes: Attributes, manifest: bytes | None = None) -> None:
        """Keep the database's answer to a question about a node that began at ``generation``."""
        with self._lock:
            if generation == self.generation:
                self._make_room()
                self._keep(attributes, manifest)

    def _keep(self, attributes: Attributes, manifest: bytes | None) -> None:
        known = self._nodes.get(attributes.inode)
        if manifest is None and known is not None:
            manifest = known[1]
        self._nodes[attributes.inode] = (attributes, manifest)

    def _make_room(self) -> None:
        if len(self._names) >= LIMIT or len(self._nodes) >= LIMIT:
            self._names.clear()
            self._nodes.clear()

    def absorb(self, changes: TreeChanges) -> None:
        """Take in a committed change, before anybody is told of it."""
        with self._lock:
            self.generation += 1
            if changes.everything:
                self._names.clear()
                self._nodes.clear()
                return
            for key in changes.names:
                self._names.pop(key, None)
            for inode in changes.nodes:
                self._nodes.pop(inode, None)
            for folder, (time, links) in changes.folders.items():
                self._move_times(folder, time, links)
            self._make_room()
            self._names.update(changes.placed)
            self._nodes.update(changes.contents)

    def _move_times(self, folder: Inode, time: int, links: int) -> None:
        known = self._nodes.get(folder)
        if known is not None:
            now = msgspec.structs.replace(known[0], mtime=time, ctime=time, nlink=known[0].nlink + links)
            self._nodes[folder] = (now, known[1])
