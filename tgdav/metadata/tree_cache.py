"""What the tree shows now, in memory: names and nodes that were asked for or just written.

A reading connection loses its page cache whenever anything is committed, so a look-up beside writers costs as much as
many statements of the writer itself. The cache takes in what each committed change did (``apply_changes``, in commit order) and
so never shows an older state than the last change that was acknowledged. A look-up that was answered by the database is
remembered only if nothing was absorbed since it began (``generation``), and if the database showed nothing that is still to
be absorbed: that would be counted twice.

A folder in which many new names are looked for is taken in whole (``add_directory``), so that what is not there is known too.
That is done in the writer's turn, where it has its place among the changes.
"""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice
from typing import Any, Final

import msgspec

from tgdav.ids import EntryId, Inode
from tgdav.metadata.conflict_names import CONFLICT_MARK
from tgdav.metadata.types import Attributes, DirectoryEntry

LIMIT = 20_000
"""Names, and nodes, kept; when there are more, the half that was taken in first is forgotten."""


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
    ``contents`` nodes to their attributes and encoded manifest, None where that is not known. Of names in ``left`` an entry
    went away. ``amended`` maps nodes to attributes that have other values now, ``relinked`` to the change of their link
    count, ``written`` to their new encoded manifest. ``empty`` holds new folders. ``everything``: too much to say.
    """

    names: set[tuple[Inode, bytes]] = field(default_factory=set)
    nodes: set[Inode] = field(default_factory=set)
    placed: dict[tuple[Inode, bytes], tuple[EntryId, Inode]] = field(default_factory=dict)
    left: set[tuple[Inode, bytes]] = field(default_factory=set)
    contents: dict[Inode, tuple[Attributes, bytes | None]] = field(default_factory=dict)
    amended: dict[Inode, dict[str, Any]] = field(default_factory=dict)
    relinked: dict[Inode, int] = field(default_factory=dict)
    written: dict[Inode, bytes | None] = field(default_factory=dict)
    empty: set[Inode] = field(default_factory=set)
    everything: bool = False

    def touches(self, inode: Inode) -> bool:
        """Whether a node may show other attributes now."""
        return self.everything or inode in self.nodes or inode in self.amended or inode in self.contents

    def amend(self, inode: Inode, values: dict[str, Any], links: int = 0) -> None:
        """Attributes of a node have new values, and its link count moved by ``links``."""
        known = self.amended.get(inode)
        if known is None:
            self.amended[inode] = dict(values)
        else:
            known.update(values)
        if links:
            self.relinked[inode] = self.relinked.get(inode, 0) + links

    def place(self, entry: EntryId, key: tuple[Inode, bytes], inode: Inode) -> None:
        """An entry shows at a name that showed nothing."""
        self.names.add(key)
        self.left.discard(key)
        self.placed[key] = (entry, inode)

    def leave(self, entry: EntryId, key: tuple[Inode, bytes]) -> None:
        """An entry shows at a name no more; where another came in its place meanwhile, that one does."""
        self.names.add(key)
        there = self.placed.get(key)
        if there is None or there[0] == entry:
            self.placed.pop(key, None)
            self.left.add(key)


class TreeCache:
    """Thread-safe."""

    def __init__(self, is_ahead: Callable[[], bool]) -> None:
        """``is_ahead`` tells whether the database may show changes that are not absorbed yet."""
        self._is_ahead = is_ahead
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
            if not self._is_current(generation):
                return
            self._make_room()
            if entry is None:
                self._names[parent, name] = None
                return
            # In a folder taken in whole a name is unknown because it may have twins: an entry known there has none.
            if parent not in self._whole:
                self._names[parent, name] = (entry.entry, entry.attributes.inode)
            self._keep(entry.attributes, None)

    def wants_directory(self, folder: Inode) -> bool:
        """Whether so many names were looked for in vain that ``folder`` should be taken in whole; said once."""
        if self._misses.get(folder, 0) < FOLDER_MISSES or folder in self._whole:
            return False
        self._misses[folder] = -LIMIT
        return True

    def add_directory(self, folder: Inode, entries: Iterable[tuple[bytes, EntryId, Inode]]) -> None:
        """Keep all names of a folder. To be called as ``apply_changes`` is: after the transaction that read them, in order."""
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
            if self._is_current(generation):
                self._make_room()
                self._keep(attributes, manifest)

    def _is_current(self, generation: int) -> bool:
        return generation == self.generation and not self._is_ahead()

    def _keep(self, attributes: Attributes, manifest: bytes | None) -> None:
        known = self._nodes.get(attributes.inode)
        if manifest is None and known is not None:
            manifest = known[1]
        self._nodes[attributes.inode] = (attributes, manifest)

    def _make_room(self) -> None:
        if len(self._names) >= LIMIT:
            self._misses.clear()
            for key in list(islice(self._names, LIMIT // 2)):
                del self._names[key]
                self._whole.discard(key[0])
        if len(self._nodes) >= LIMIT:
            for inode in list(islice(self._nodes, LIMIT // 2)):
                del self._nodes[inode]
        if len(self._whole) >= LIMIT:
            self._whole.clear()

    def _forget(self) -> None:
        self._names.clear()
        self._nodes.clear()
        self._whole.clear()
        self._misses.clear()

    def apply_changes(self, changes: TreeChanges) -> None:
        """Take in a change that stands, before anybody is told of it."""
        with self._lock:
            self.generation += 1
            if changes.everything:
                self._forget()
                return
            for key in changes.names:
                self._apply_name(key, changes)
            for inode in changes.nodes:
                self._nodes.pop(inode, None)
            for inode, values in changes.amended.items():
                self._amend(inode, values, changes)
            self._make_room()
            self._names.update(changes.placed)
            self._nodes.update(changes.contents)
            self._whole |= changes.empty

    def _apply_name(self, key: tuple[Inode, bytes], changes: TreeChanges) -> None:
        known = self._names.pop(key, None)
        if key[0] in self._whole and (known is UNKNOWN or key not in changes.left):
            self._names[key] = UNKNOWN

    def _amend(self, inode: Inode, values: dict[str, Any], changes: TreeChanges) -> None:
        known = self._nodes.get(inode)
        if known is None:
            return
        attributes, manifest = known
        links = attributes.nlink + changes.relinked.get(inode, 0)
        self._nodes[inode] = (
            msgspec.structs.replace(attributes, nlink=links, **values),
            changes.written.get(inode, manifest),
        )
