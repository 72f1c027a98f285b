"""Open files and folders of one mount, by the numbers that the kernel knows them by. Used in the loop's thread only."""

from itertools import count

from tgdav.errors import BadHandle
from tgdav.fs.api import FileHandle
from tgdav.ids import Inode
from tgdav_fuse.bridge import Bridge
from tgdav_fuse.listings import Listing
from tgdav_fuse.write_queue import WriteQueue


class OpenNode:
    """What all handles of one inode share.

    ``writes`` keeps them in the order in which the kernel sent them; ``unsettled`` tells whether a flush has work.
    """

    def __init__(self, inode: Inode, bridge: Bridge) -> None:
        self.inode = inode
        self.unsettled = False
        self._bridge = bridge
        self._writes: WriteQueue | None = None
        self.handles: set[int] = set()

    @property
    def writes(self) -> WriteQueue:
        """The queue; most small files are written without ever needing one."""
        if self._writes is None:
            self._writes = WriteQueue(self._bridge)
        return self._writes

    @property
    def is_written_to(self) -> bool:
        """Whether a write that comes now has to wait for another."""
        return self._writes is not None and self._writes.is_busy


class OpenHandle:
    """One open file of the kernel."""

    def __init__(self, node: OpenNode, file: FileHandle, *, writable: bool) -> None:
        self.node, self.file, self.writable = node, file, writable
        self.reads = False


class Handles:
    """The tables. Numbers are never used twice."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._numbers = count(1)
        self._files: dict[int, OpenHandle] = {}
        self._nodes: dict[Inode, OpenNode] = {}
        self._listings: dict[int, Listing] = {}

    def add(self, inode: Inode, file: FileHandle, *, writable: bool) -> int:
        """Keep an open file; return its number."""
        number = next(self._numbers)
        node = self._nodes.get(inode)
        if node is None:
            node = self._nodes[inode] = OpenNode(inode, self._bridge)
        node.handles.add(number)
        self._files[number] = OpenHandle(node, file, writable=writable)
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
