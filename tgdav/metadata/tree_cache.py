"""What the tree shows now, in memory: names and nodes that were asked for or just written.

A reading connection loses its page cache whenever anything is committed, so a look-up beside writers costs as much as
many statements of the writer itself. The cache takes in what each committed change did (``absorb``, in commit order) and
so never shows an older state than the last change that was acknowledged. A look-up that was answered by the database is
remembered only if nothing was absorbed since it began (``generation``).

A folder in which many new names are looked for is taken in whole (``take_folder``), so that what is not there is known too.
That is done in the writer's turn, where it has its place among the changes.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

import msgspec

from tgdav.ids import EntryId, Inode
from tgdav.metadata.names import CONFLICT_MARK
from tgdav.metadata.types import Attributes, DirectoryEntry

LIMIT = 20_000
"""Names, and nodes, kept; when there are more, all are forgotten."""


FOLDER_LIMIT = 10_000
"""Entries of the largest folder that is taken in whole."""
FOLDER_MISSES = 8
"""So many names that were not there make it worth the while."""


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

    @property
    def any(self) -> bool:
        """Whether anything was said."""
        return bool(self.everything or self.names or self.nodes or self.folders or self.contents)

    def touch(self, folder: Inode, time: int, links: int) -> None:
        """Entries of ``folder`` changed."""
        before = self.folders.get(folder)
        self.folders[folder] = (time, links + (before[1] if before else 0))


class TreeCache:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: dict[tuple[Inode, bytes], tuple[EntryId, Inode] | Unknown | None] = {}
        self._whole: set[Inode] = set()
        self._misses: dict[Inode, int] = {}
        self._nodes: dict[Inode, tuple[Attributes, bytes | None]] = {}
        self.generation = 0

    def find(self, parent: Inode, name: bytes) -> DirectoryEntry | Unknown | None:
        """Return what a name shows, None if it is known to show nothing."""
        known = self._names.get((parent, name), UNKNOWN)
        if known is UNKNOWN and parent in self._whole and CONFLICT_MARK not in name:
            # Names are forgotten by other threads; only together do the two say that there is nothing.
            with self._lock:
                known = self._names.get((parent, name), None if parent in self._whole else UNKNOWN)
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
            if entry is None:
                self._misses[parent] = self._misses.get(parent, 0) + 1
            if generation != self.generation:
                return
            self._make_room()
            if entry is None:
                self._names[parent, name] = None
            else:
                self._names[parent, name] = (entry.entry, entry.attributes.inode)
                self._keep(entry.attributes, None)

    def wants_folder(self, folder: Inode) -> bool:
        """Whether so many names were looked for in vain that ``folder`` should be taken in whole; said once."""
        if self._misses.get(folder, 0) < FOLDER_MISSES or folder in self._whole:
            return False
        self._misses[folder] = -LIMIT
        return True

    def take_folder(self, folder: Inode, entries: Iterable[tuple[bytes, EntryId, Inode]]) -> None:
        """Keep all names of a folder. To be called as ``absorb`` is: after the transaction that read them, in order."""
        with self._lock:
            self._make_room()
            for name, entry, inode in entries:
                # Of two entries with one name the earlier is shown; which that is, is left to the database.
                twin = (folder, name) in self._names and self._names[folder, name] != (entry, inode)
                self._names[folder, name] = UNKNOWN if twin else (entry, inode)
            self._whole.add(folder)

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
            self._forget()

    def _forget(self) -> None:
        self._names.clear()
        self._nodes.clear()
        self._whole.clear()
        self._misses.clear()

    def absorb(self, changes: TreeChanges) -> None:
        """Take in a committed change, before anybody is told of it."""
        with self._lock:
            self.generation += 1
            if changes.everything:
                self._forget()
                return
            for key in changes.names:
                if key[0] in self._whole:
                    self._names[key] = UNKNOWN
                else:
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
