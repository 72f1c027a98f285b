"""The open files and directories of one mount, by file handle number. Used in the loop's thread only."""

from collections.abc import Iterator
from itertools import count

from tgdav.errors import BadHandle, NotFound
from tgdav.fs.api import FileHandle, FileSystem
from tgdav.ids import Inode
from tgdav.metadata.types import Attributes, DirectoryEntry
from tgdav_fuse.worker_pool import WorkerPool, WriteQueue


class Listing:
    """One open directory. Its cookies stay valid while entries are added and removed.

    The entries are loaded when reading begins (at cookie 0, so rewinddir(3) loads them anew); a cookie is a position among
    them. Once something has changed, each entry is looked up again before it is returned: removed ones are skipped, and the
    kernel gets current attributes.
    """

    def __init__(self, fs: FileSystem, inode: Inode) -> None:
        self._fs, self.inode = fs, inode
        self._entries: list[DirectoryEntry] | None = None
        self._changes = -1  # equals no count of changes

    def load(self, changes: int) -> None:
        """Load the entries. ``changes`` is the number of changes so far. Raises NotFound, NotADirectory."""
        self._changes = changes
        self._entries = self._fs.list_directory(self.inode)

    @property
    def is_loaded(self) -> bool:
        """Whether the entries have been loaded."""
        return self._entries is not None

    def entries_after(self, cookie: int, changes: int) -> Iterator[tuple[int, bytes, Attributes]]:
        """Yield (cookie, name, attributes) of the entries after ``cookie``. "." and ".." have the cookies 1 and 2."""
        entries = self._entries or []
        for position in range(max(cookie - 2, 0), len(entries)):
            entry = entries[position]
            if changes == self._changes:
                yield position + 3, entry.name, entry.attributes
                continue
            try:
                yield position + 3, entry.name, self._fs.lookup(self.inode, entry.name)
            except NotFound:
                continue


class OpenNode:
    """What all handles of one inode share. ``needs_flush`` is set if something was written since the last flush."""

    def __init__(self, inode: Inode, pool: WorkerPool) -> None:
        self.inode = inode
        self.needs_flush = False
        self._pool = pool
        self._writes: WriteQueue | None = None
        self.handles: set[int] = set()

    @property
    def writes(self) -> WriteQueue:
        """The queue of its writes. Most small files are written without one."""
        if self._writes is None:
            self._writes = WriteQueue(self._pool)
        return self._writes

    @property
    def is_written_to(self) -> bool:
        """Whether a write that comes now has to wait."""
        return self._writes is not None and self._writes.is_busy


class OpenHandle:
    """One open file."""

    def __init__(self, node: OpenNode, file: FileHandle, *, writable: bool, direct: bool) -> None:
        self.node, self.file, self.writable, self.direct = node, file, writable, direct
        self.was_read = False


class Handles:
    """The tables of open files and directories. Numbers are never reused."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool
        self._numbers = count(1)
        self._files: dict[int, OpenHandle] = {}
        self._nodes: dict[Inode, OpenNode] = {}
        self._listings: dict[int, Listing] = {}

    def add(self, inode: Inode, file: FileHandle, *, writable: bool, direct: bool = False) -> int:
        """Add an open file, ``direct`` if it was opened with O_DIRECT. Return its number."""
        number = next(self._numbers)
        node = self._nodes.get(inode)
        if node is None:
            node = self._nodes[inode] = OpenNode(inode, self._pool)
        node.handles.add(number)
        self._files[number] = OpenHandle(node, file, writable=writable, direct=direct)
        return number

    def file(self, number: int) -> OpenHandle:
        """Return an open file. Raises BadHandle."""
        found = self._files.get(number)
        if found is None:
            raise BadHandle
        return found

    def remove(self, number: int) -> OpenHandle:
        """Remove an open file and return it. Raises BadHandle."""
        handle = self.file(number)
        del self._files[number]
        handle.node.handles.discard(number)
        if not handle.node.handles:
            self._nodes.pop(handle.node.inode, None)  # writes in progress keep the node alive
        return handle

    def is_open(self, inode: int) -> bool:
        """Return whether the kernel has the file open."""
        return inode in self._nodes

    def is_open_directly(self, inode: int) -> bool:
        """Return whether the kernel has the file open with O_DIRECT."""
        node = self._nodes.get(Inode(inode))
        return node is not None and any(self._files[number].direct for number in node.handles)

    def writable(self, inode: int) -> OpenHandle | None:
        """Return any handle that may write to the file, None if there is none."""
        node = self._nodes.get(Inode(inode))
        if node is None:
            return None
        for number in node.handles:  # asked for with each answer about a file, most often of one handle
            handle = self._files[number]
            if handle.writable:
                return handle
        return None

    def add_listing(self, listing: Listing) -> int:
        """Add an open directory. Return its number."""
        number = next(self._numbers)
        self._listings[number] = listing
        return number

    def listing(self, number: int) -> Listing:
        """Return an open directory. Raises BadHandle."""
        found = self._listings.get(number)
        if found is None:
            raise BadHandle
        return found

    def remove_listing(self, number: int) -> None:
        """Remove an open directory."""
        self._listings.pop(number, None)

    def all_files(self) -> list[OpenHandle]:
        """Return every open file."""
        return list(self._files.values())
