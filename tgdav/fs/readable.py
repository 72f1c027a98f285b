"""The calls of the file system that change nothing."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Concatenate, ParamSpec, TypeVar

from tgdav.clock import Clock
from tgdav.content.store import ContentStore, UploadState
from tgdav.db import Connection, Database
from tgdav.db.schema import PURGED_INODE, ROOT_INODE, TRASH_INODE
from tgdav.errors import NotADirectory, NotFound
from tgdav.fs import acl, node_attributes
from tgdav.fs.api import HISTORY_INODES, Capacity
from tgdav.fs.files.context import OpenFileContext
from tgdav.fs.files.open_files import OpenFiles
from tgdav.fs.history import History
from tgdav.fs.names import HISTORY_NAMES, check_name
from tgdav.fs.usage import SMALL, AllocatedBytes, CachedTotals, upload_state
from tgdav.ids import Inode
from tgdav.metadata import queries
from tgdav.metadata.tree_cache import UNKNOWN
from tgdav.metadata.types import Attributes, DirectoryEntry, Listed, listed

T = TypeVar("T")
P = ParamSpec("P")
S = TypeVar("S", bound="ReadableFileSystem")

_DELETED = (TRASH_INODE, PURGED_INODE)

DiskSpace = Callable[[], tuple[int, int]]
"""Returns (total, free) bytes of the place where the data is finally stored."""


def retry_if_flushed(lookup: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Decorate a lookup so that it runs again if a file was committed meanwhile (an optimistic read).

    A lookup reads the committed state first and the unflushed writes then. If a file is committed between the two, its writes
    are in neither, and a kernel would cache that result for long.
    """

    @functools.wraps(lookup)
    def retrying(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        context = self.open_files.context
        while True:
            before = context.last_flush
            found = lookup(self, *args, **kwargs)
            if context.last_flush is before:
                return found

    return retrying


class ReadableFileSystem:
    """The half of a file system that reads; ``NamespaceFileSystem`` adds the changes.

    A base class instead of a member, because lookups are the most frequent calls of a mount.
    """

    root = Inode(ROOT_INODE)

    def __init__(self, context: OpenFileContext, space: DiskSpace) -> None:
        self.database: Database = context.database
        self.journal = context.journal
        self.content: ContentStore = context.content
        self.open_files = OpenFiles(context)
        self._clock: Clock = context.clock
        self._space = space
        self._totals = CachedTotals(self._count, context.clock)
        self._allocated = AllocatedBytes(context.database, context.journal.cache)
        self.history = History(context.database, context.content)

    # ---- names ---------------------------------------------------------------------------------------------------

    @retry_if_flushed
    def lookup(self, parent: Inode, name: bytes, *, normalized: bool = False) -> Attributes:
        """Return the attributes of the node that ``name`` in ``parent`` names."""
        if parent >= HISTORY_INODES:
            return self.history.lookup(parent, name, normalized=normalized)
        check_name(name)
        entry = self._find(parent, name, normalized=normalized)
        if entry is None:
            if parent == ROOT_INODE and name in HISTORY_NAMES:
                return self.history.lookup(parent, name)
            self._require_directory(self._node(parent))
            raise NotFound
        return self.open_files.dirty_attributes(entry.attributes)

    @retry_if_flushed
    def resolve(self, path: Sequence[bytes], *, normalized: bool = False) -> Attributes:
        """Return the attributes of the node at a path of names from the root."""
        found = self._node(self.root)
        for name in path:
            check_name(name)
            assert found is not None, "the root always exists"
            entry = self._find(found.inode, name, normalized=normalized)
            if entry is None:
                if found.inode == ROOT_INODE and name in HISTORY_NAMES:
                    return self.history.resolve(path, normalized=normalized)
                self._require_directory(found)
                raise NotFound
            found = entry.attributes
        assert found is not None, "the root always exists"
        return self.open_files.dirty_attributes(found)

    def _find(self, parent: Inode, name: bytes, *, normalized: bool) -> DirectoryEntry | None:
        cache = self.journal.cache
        known = cache.find(parent, name)
        # The cache knows exact names only; another spelling of a missing name may exist.
        if known is not UNKNOWN and (known is not None or not normalized or name.isascii()):
            return known
        generation = cache.generation
        with self.database.autocommit_reader() as connection:
            entry = queries.find_entry(connection, parent, name, normalized=normalized)
        # Under another spelling the entry would be cached with the wrong name.
        if entry is None or entry.name == name:
            cache.remember(generation, parent, name, entry)
        if entry is None and cache.wants_directory(parent):
            self.journal.cache_directory(parent)
        return entry

    @retry_if_flushed
    def list_directory(self, inode: Inode) -> list[DirectoryEntry]:
        """Return all entries in byte order of their names."""
        if inode >= HISTORY_INODES:
            return self.history.list_directory(inode)
        return self.open_files.dirty_entries(self._list(inode, queries.children))

    @retry_if_flushed
    def list_briefly(self, inode: Inode) -> list[Listed]:
        """Return what long listings show of all entries, in byte order of their names."""
        if inode >= HISTORY_INODES:
            return self.history.list_briefly(inode)
        found = self._list(inode, queries.listing)
        # Only if one of the files is open does the listing need all attributes.
        if self.open_files and any(self.open_files.find(each.inode) for each in found):
            return [listed(entry.name, entry.attributes) for entry in self.list_directory(inode)]
        return found

    def _list(self, inode: Inode, query: Callable[[Connection, Inode], list[T]]) -> list[T]:
        with self.database.reading() as connection:
            found = query(connection, inode)
            if not found:
                self._require_directory(queries.attributes(connection, inode))
            return found

    def parent(self, inode: Inode) -> Inode:
        """Return a directory's parent."""
        if inode >= HISTORY_INODES:
            return self.history.parent(inode)
        with self.database.reading() as connection:
            found = queries.parent_of(connection, inode)
        if found in (None, *_DELETED) and inode != self.root:
            raise NotFound
        return found or self.root

    def places(self, inode: Inode) -> list[tuple[Inode, bytes]]:
        """Return each (parent, name) of a node outside the trash."""
        with self.database.reading() as connection:
            return [place for place in queries.places_of(connection, inode) if place[0] not in _DELETED]

    # ---- nodes ---------------------------------------------------------------------------------------------------

    def _node(self, inode: Inode) -> Attributes | None:
        cache = self.journal.cache
        known = cache.node(inode)
        if known is not None:
            return known
        generation = cache.generation
        with self.database.autocommit_reader() as connection:
            found = queries.attributes(connection, inode)
        if found is not None:
            cache.remember_node(generation, found)
        return found

    @retry_if_flushed
    def attributes(self, inode: Inode, *, removed: bool = False) -> Attributes:
        """Return a node's attributes."""
        if inode >= HISTORY_INODES:
            return self.history.attributes(inode)
        found = self._node(inode)
        if found is None or (found.nlink == 0 and not removed and self.open_files.find(inode) is None):
            raise NotFound
        return self.open_files.dirty_attributes(found)

    def read_link(self, inode: Inode) -> bytes:
        """Return a symlink's target."""
        if inode >= HISTORY_INODES:
            return self.history.read_link(inode)
        with self.database.reading() as connection:
            return node_attributes.read_link(connection, inode)

    def get_xattr(self, inode: Inode, name: bytes) -> bytes:
        """Return an extended attribute."""
        if inode >= HISTORY_INODES:
            return self.history.get_xattr(inode, name)
        with self.database.reading() as connection:
            value = node_attributes.get_xattr(connection, inode, name)
        # A new mode may still wait for the commit of the file's writes, and the ACL with it.
        return acl.with_mode(value, self.attributes(inode, removed=True).mode) if name == acl.ACCESS else value

    def list_xattrs(self, inode: Inode) -> list[bytes]:
        """Return the names of a node's extended attributes."""
        if inode >= HISTORY_INODES:
            return self.history.list_xattrs(inode)
        with self.database.reading() as connection:
            return node_attributes.list_xattrs(connection, inode)

    def properties(self, inodes: Iterable[Inode]) -> dict[Inode, dict[bytes, bytes]]:
        """Return the WebDAV properties of several nodes, in one query."""
        inodes = list(inodes)
        # A listing is that of one directory, in history or not.
        if inodes and inodes[0] >= HISTORY_INODES:
            return self.history.properties(inodes)
        with self.database.reading() as connection:
            return node_attributes.properties(connection, inodes)

    @staticmethod
    def _require_directory(attributes: Attributes | None) -> None:
        """Raise NotFound for a missing node, NotADirectory for one of another kind."""
        if attributes is None:
            raise NotFound
        if not attributes.is_directory:
            raise NotADirectory

    # ---- usage ---------------------------------------------------------------------------------------------------

    def totals(self) -> tuple[int, int]:
        """Return the number of files, and their bytes."""
        with self.database.reading() as connection:
            return queries.totals(connection)

    def used_bytes(self) -> int:
        """Return the allocated bytes of all files; the value may be a little old."""
        return self._totals.get()[1]

    def _count(self) -> tuple[int, int]:
        with self.database.reading() as connection:
            files, size = queries.totals(connection)
            return files, size - queries.hole_bytes(connection, SMALL)

    def capacity(self) -> Capacity:
        """Return space and counts."""
        files, used = self._totals.get()
        total, free = self._space()
        return Capacity(total=total, free=free, used=used, files=files)

    def allocated(self, attributes: Attributes) -> int:
        """Return how many bytes of a node are not holes."""
        if attributes.inode >= HISTORY_INODES:
            return self.history.allocated(attributes)
        return self._allocated.of(attributes, self.open_files.find)

    def upload_state(self, inode: Inode) -> UploadState:
        """Return how far a node has been uploaded."""
        if inode >= HISTORY_INODES:
            return self.history.upload_state(inode)
        file = self.open_files.find(inode)
        if file is not None and file.dirty:
            return UploadState.LOCAL
        return upload_state(self.database, self.content, inode)
