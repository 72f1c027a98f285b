"""Open files and folders of one mount, by the numbers that the kernel knows them by. Used in the loop's thread only."""

from collections.abc import Iterator
from itertools import count

from tgdav.errors import BadHandle, NotFound
from tgdav.fs.api import FileHandle, FileSystem
from tgdav.ids import Inode
from tgdav.metadata.types import Attributes, DirectoryEntry
from tgdav_fuse.worker_pool import WorkerPool, WriteQueue


class Listing:
    """One open folder."""

    def __init__(self, fs: FileSystem, inode: Inode) -> None:
        self._fs, self.inode = fs, inode
        self._entries: list[DirectoryEntry] | None = None
        self._taken = -1

    def begin(self, changes: int) -> None:
        """Take the entries, as of now; ``changes`` counts what was changed so far. Raises NotFound, NotADirectory."""
        self._taken = changes
        self._entries = self._fs.list_directory(self.inode)

    @property
    def begun(self) -> bool:
        """Whether the entries were taken."""
        return self._entries is not None

    def after(self, cookie: int, changes: int) -> Iterator[tuple[int, bytes, Attributes]]:
        """Yield (cookie, name, attributes) of what comes after ``cookie``; "." and ".." are cookies 1 and 2."""
        entries = self._entries or []
        for place in range(max(cookie - 2, 0), len(entries)):
            entry = entries[place]
            if changes == self._taken:
                yield place + 3, entry.name, entry.attributes
                continue
            try:
                yield place + 3, entry.name, self._fs.lookup(self.inode, entry.name)
            except NotFound:
                continue


class OpenNode:
    """What all handles of one inode share.

    ``writes`` keeps them in the order in which the kernel sent them; ``needs_flush`` tells whether a flush has work.
    """

    def __init__(self, inode: Inode, pool: WorkerPool) -> None:
        self.inode = inode
        self.needs_flush = False
        self._pool = pool
        self._writes: WriteQueue | None = None
        self.handles: set[int] = set()
        self.buffered = 0
        """How many of them use the kernel's pages: those that were opened without O_DIRECT."""

    @property
    def writes(self) -> WriteQueue:
        """The queue; most small files are written without ever needing one."""
        if self._writes is None:
            self._writes = WriteQueue(self._pool)
        return self._writes

    @property
    def is_written_to(self) -> bool:
        """Whether a write that comes now has to wait for another."""
        return self._writes is not None and self._writes.is_busy


class OpenHandle:
    """One open file of the kernel."""

    def __init__(self, node: OpenNode, file: FileHandle, *, writable: bool, direct: bool) -> None:
        self.node, self.file, self.writable, self.direct = node, file, writable, direct
        self.reads = False


class Handles:
    """The tables. Numbers are never used twice."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool
        self._numbers = count(1)
        self._files: dict[int, OpenHandle] = {}
        self._nodes: dict[Inode, OpenNode] = {}
        self._listings: dict[int, Listing] = {}

    def add(self, inode: Inode, file: FileHandle, *, writable: bool, direct: bool = False) -> int:
        """Keep an open file, ``direct`` if it was opened with O_DIRECT; return its number."""
        number = next(self._numbers)
        node = self._nodes.get(inode)
        if node is None:
            node = self._nodes[inode] = OpenNode(inode, self._pool)
        node.handles.add(number)
        node.buffered += not direct
        self._files[number] = OpenHandle(node, file, writable=writable, direct=direct)
        return number

    def file(self, number: int) -> OpenHandle:
        """Return an open file. Raises BadHandle."""
        found = self._files.get(number)
        if found is None:
            raise BadHandle
        return found

    def remove(self, number: int) -> OpenHandle:
        """Forget an open file and return it. Raises BadHandle."""
        handle = self.file(number)
        del self._files[number]
        handle.node.handles.discard(number)
        handle.node.buffered -= not handle.direct
        if not handle.node.handles:
            self._nodes.pop(handle.node.inode, None)
        return handle

    def is_open(self, inode: int) -> bool:
        """Return whether the kernel has the file open."""
        return inode in self._nodes

    def writable(self, inode: int) -> OpenHandle | None:
        """Return any handle that may change the file."""
        node = self._nodes.get(Inode(inode))
        if node is None:
            return None
        for number in node.handles:  # asked for with each answer about a file, most often of one handle
            handle = self._files[number]
            if handle.writable:
                return handle
        return None

    def add_listing(self, listing: Listing) -> int:
        """Keep an open folder; return its number."""
        number = next(self._numbers)
        self._listings[number] = listing
        return number

    def listing(self, number: int) -> Listing:
        """Return an open folder. Raises BadHandle."""
        found = self._listings.get(number)
        if found is None:
            raise BadHandle
        return found

    def remove_listing(self, number: int) -> None:
        """Forget an open folder."""
        self._listings.pop(number, None)

    def all_files(self) -> list[OpenHandle]:
        """Return every open file."""
        return list(self._files.values())
