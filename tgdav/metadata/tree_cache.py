"""The tree as of the last change, in memory: names and nodes that were queried or written recently.

Any commit invalidates the page cache of a reading connection, so a lookup beside a busy writer costs as much as many of the
writer's own statements. The cache applies what each committed change did (``apply_changes``, in commit order), so it never shows
an older state than the last change that was acknowledged. A result from the database is cached only if no change was applied
since the query began (``generation``) and the database did not contain a change that is still to be applied: such a change
would be applied twice.

If many names are looked up in vain in one directory, all its names are cached (``add_directory``), so that missing names are
known too. This happens inside the writer, so that it is ordered among the changes.

``TreeView`` shows the cache to a change that is being made.
"""

import threading
from collections.abc import Callable, Iterable
from enum import Enum
from itertools import islice
from typing import Any, Final

import msgspec

from tgdav.ids import EntryId, Inode
from tgdav.metadata.conflict_names import CONFLICT_MARK
from tgdav.metadata.types import Attributes, DirectoryEntry

LIMIT = 20_000
"""Most names, and most nodes, in the cache; beyond that, the older half is dropped."""


DIRECTORY_LIMIT = 10_000
"""Entries of the largest directory that is cached completely."""
DIRECTORY_MISSES = 8
"""Lookups of missing names after which a directory is cached completely."""


class Unknown(Enum):
    """The cache does not know."""

    TOKEN = 0


UNKNOWN: Final = Unknown.TOKEN


class TreeChanges(msgspec.Struct):
    """What one change did to names and nodes, as far as the cache must know.

    The cache first drops ``names`` and ``nodes``. Then ``shown`` maps names to (entry, node), and ``contents`` maps nodes to
    their attributes and encoded manifest (None: not known). ``removed`` are names that an entry left. ``amended`` maps nodes to
    new attribute values, ``relinked`` to the change of their link count, ``written`` to their new encoded manifest. ``empty``
    are new directories. ``everything`` drops the whole cache.
    """

    names: set[tuple[Inode, bytes]] = msgspec.field(default_factory=set)
    nodes: set[Inode] = msgspec.field(default_factory=set)
    shown: dict[tuple[Inode, bytes], tuple[EntryId, Inode]] = msgspec.field(default_factory=dict)
    removed: set[tuple[Inode, bytes]] = msgspec.field(default_factory=set)
    contents: dict[Inode, tuple[Attributes, bytes | None]] = msgspec.field(default_factory=dict)
    amended: dict[Inode, dict[str, Any]] = msgspec.field(default_factory=dict)
    relinked: dict[Inode, int] = msgspec.field(default_factory=dict)
    written: dict[Inode, bytes | None] = msgspec.field(default_factory=dict)
    empty: set[Inode] = msgspec.field(default_factory=set)
    everything: bool = False

    def touches(self, inode: Inode) -> bool:
        """Return whether a node's attributes may have changed."""
        return self.everything or inode in self.nodes or inode in self.amended or inode in self.contents

    def amend(self, inode: Inode, values: dict[str, Any], links: int = 0) -> None:
        """Record new attribute values of a node, and the change of its link count."""
        known = self.amended.get(inode)
        if known is None:
            self.amended[inode] = dict(values)
        else:
            known.update(values)
        if links:
            self.relinked[inode] = self.relinked.get(inode, 0) + links

    def set_entry(self, entry: EntryId, key: tuple[Inode, bytes], inode: Inode) -> None:
        """Record that an entry has a name that was free."""
        self.names.add(key)
        self.removed.discard(key)
        self.shown[key] = (entry, inode)

    def remove_entry(self, entry: EntryId, key: tuple[Inode, bytes]) -> None:
        """Record that an entry left a name. If another entry has the name by now, that one stays."""
        self.names.add(key)
        there = self.shown.get(key)
        if there is None or there[0] == entry:
            self.shown.pop(key, None)
            self.removed.add(key)


class TreeCache:
    """Thread-safe. ``generation`` counts the changes that were applied."""

    def __init__(self, is_ahead: Callable[[], bool]) -> None:
        """``is_ahead`` returns whether the database may contain changes that are not applied here yet."""
        self._is_ahead = is_ahead
        self._lock = threading.Lock()
        self._names: dict[tuple[Inode, bytes], tuple[EntryId, Inode] | Unknown | None] = {}
        self._complete: set[Inode] = set()
        self._misses: dict[Inode, int] = {}
        self._nodes: dict[Inode, tuple[Attributes, bytes | None]] = {}
        self.generation = 0

    def find(self, parent: Inode, name: bytes) -> DirectoryEntry | Unknown | None:
        """Return what a name names, None if it is known to be free."""
        known = self._names.get((parent, name), UNKNOWN)
        if known is UNKNOWN and parent in self._complete and CONFLICT_MARK not in name:
            # Another thread may be dropping names: a name is known to be free only if both are read under the lock.
            with self._lock:
                known = self._names.get((parent, name), None if parent in self._complete else UNKNOWN)
        if known is None or known is UNKNOWN:
            return known
        node = self._nodes.get(known[1])
        return UNKNOWN if node is None else DirectoryEntry(name, known[0], node[0])

    def node(self, inode: Inode) -> Attributes | None:
        """Return a node's attributes, None if they are not cached."""
        known = self._nodes.get(inode)
        return None if known is None else known[0]

    def content(self, inode: Inode) -> tuple[Attributes, bytes] | None:
        """Return a node's attributes and encoded manifest, None if one of them is not cached."""
        known = self._nodes.get(inode)
        return None if known is None or known[1] is None else (known[0], known[1])

    def remember(self, generation: int, parent: Inode, name: bytes, entry: DirectoryEntry | None) -> None:
        """Cache the result of a lookup in the database that began at ``generation``."""
        with self._lock:
            if entry is None:
                self._misses[parent] = self._misses.get(parent, 0) + 1
            if not self._is_current(generation):
                return
            self._make_room()
            if entry is None:
                self._names[parent, name] = None
                return
            # In a complete directory a name is UNKNOWN because several entries may have it; a cached entry is the only one.
            if parent not in self._complete:
                self._names[parent, name] = (entry.entry, entry.attributes.inode)
            self._keep(entry.attributes, None)

    def wants_directory(self, directory: Inode) -> bool:
        """Return whether so many lookups missed that all names of the directory should be cached; True once only."""
        if self._misses.get(directory, 0) < DIRECTORY_MISSES or directory in self._complete:
            return False
        self._misses[directory] = -LIMIT
        return True

    def add_directory(self, directory: Inode, entries: Iterable[tuple[bytes, EntryId, Inode]]) -> None:
        """Cache all names of a directory. Call it in commit order, as ``apply_changes``, after the transaction that read them."""
        with self._lock:
            self._make_room()
            for name, entry, inode in entries:
                # If two entries have one name, the database decides which is shown.
                twin = (directory, name) in self._names and self._names[directory, name] != (entry, inode)
                self._names[directory, name] = UNKNOWN if twin else (entry, inode)
            self._complete.add(directory)

    def remember_node(self, generation: int, attributes: Attributes, manifest: bytes | None = None) -> None:
        """Cache the result of a query for a node that began at ``generation``."""
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
            for key in list(
                islice(self._names, LIMIT // 2)
            ):  # a dictionary is ordered: the first half is the older one
                del self._names[key]
                self._complete.discard(key[0])
        if len(self._nodes) >= LIMIT:
            for inode in list(islice(self._nodes, LIMIT // 2)):
                del self._nodes[inode]
        if len(self._complete) >= LIMIT:
            self._complete.clear()

    def _clear(self) -> None:
        self._names.clear()
        self._nodes.clear()
        self._complete.clear()
        self._misses.clear()

    def apply_changes(self, changes: TreeChanges) -> None:
        """Apply what a change did, before its caller gets the result."""
        with self._lock:
            self.generation += 1
            if changes.everything:
                self._clear()
                return
            for key in changes.names:
                self._drop_name(key, changes)
            for inode in changes.nodes:
                self._nodes.pop(inode, None)
            for inode, values in changes.amended.items():
                self._amend(inode, values, changes)
            self._make_room()
            self._names.update(changes.shown)
            self._nodes.update(changes.contents)
            self._complete |= changes.empty

    def _drop_name(self, key: tuple[Inode, bytes], changes: TreeChanges) -> None:
        known = self._names.pop(key, None)
        # In a complete directory a missing key means that the name is free. That is certain only if one entry had the name
        # and left it; if several had it, another one shows now.
        if key[0] in self._complete and (known is UNKNOWN or key not in changes.removed):
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


class TreeView:
    """The tree as a change inside the writer sees it: the cache, except what earlier changes of the same transaction touched.

    No other change is committed meanwhile, so what the cache knows equals the database. ``add`` records a finished change;
    what it touched is then read from the database. ``clear`` starts a new transaction.
    """

    def __init__(self, cache: TreeCache) -> None:
        self._cache = cache
        self._names: set[tuple[Inode, bytes]] = set()
        self._nodes: set[Inode] = set()
        self._everything = False

    def find(self, parent: Inode, name: bytes) -> DirectoryEntry | Unknown | None:
        """Return what a name names, None if it is known to be free."""
        if self._everything or (parent, name) in self._names:
            return UNKNOWN
        entry = self._cache.find(parent, name)
        if isinstance(entry, DirectoryEntry) and entry.attributes.inode in self._nodes:
            return UNKNOWN
        return entry

    def node(self, inode: Inode) -> Attributes | None:
        """Return a node's attributes, None if the database must be queried."""
        return None if self._everything or inode in self._nodes else self._cache.node(inode)

    def add(self, changes: TreeChanges) -> None:
        """Record what a change did, so that later changes of its transaction query the database about it."""
        self._everything |= changes.everything
        self._names |= changes.names
        self._nodes.update(changes.nodes, changes.contents, changes.amended)

    def clear(self) -> None:
        """Forget the transaction: the cache has applied it, or it was rolled back."""
        self._everything = False
        self._names.clear()
        self._nodes.clear()
