"""What one mount knows of its kernel: the inodes that it has looked up, the files that it has open, and how a change is made."""

import stat
from collections.abc import Callable
from typing import TypeVar

import msgspec
import pyfuse3
from pyfuse3 import EntryAttributes, RequestContext

from tgdav.clock import Clock
from tgdav.errors import WouldBlock
from tgdav.fs.api import ObservedFileSystem, Owner
from tgdav.ids import Inode
from tgdav.metadata.types import DIRECTORY, SYMLINK, Attributes, Kind
from tgdav_fuse.attributes import Presentation, Translator
from tgdav_fuse.handles import Handles
from tgdav_fuse.worker_pool import WorkerPool
from tgdav_fuse.xattrs import Xattrs

T = TypeVar("T")


class MountState(pyfuse3.Operations):
    """The base of the request handlers. Used in the loop's thread, but for ``changes`` and ``removed_directories``."""

    supports_dot_lookup = True  # a handle of name_to_handle_at(2) is good for as long as its file is there

    def __init__(
        self,
        fs: ObservedFileSystem,
        clock: Clock,
        shown: Presentation,
        *,
        read_only: bool = False,
        checks_permissions: bool = False,
    ) -> None:
        """``checks_permissions``: the kernel checks owner, mode and ACLs. With ACLs it would do so unasked."""
        super().__init__()
        self.enable_writeback_cache = not read_only
        self.enable_acl = checks_permissions
        self._fs, self._clock, self._shown = fs, clock, shown
        self.translator = Translator(shown, fs.allocated)
        self.workers = WorkerPool()
        self.page_droppers = WorkerPool(threads=1)
        self.handles = Handles(self.workers)
        self.xattrs = Xattrs(fs)
        self.lookup_counts: dict[int, int] = {}
        self.removed_directories: set[int] = set()
        self.resizing: set[int] = set()
        self.changes = 0
        self.under_way = 0

    def is_idle(self) -> bool:
        """Return whether no request is under way that may wait for something."""
        return not self.under_way

    def _count_lookup(self, node: Attributes) -> EntryAttributes:
        """Count that the kernel got to know an inode, and describe it."""
        self.lookup_counts[node.inode] = self.lookup_counts.get(node.inode, 0) + 1
        return self._describe(node)

    def _describe(self, node: Attributes) -> EntryAttributes:
        """Describe a node. Of a file that is being written the kernel keeps bytes that nobody has counted yet."""
        return self.translator.entry(node, is_written=node.is_file and self.handles.writable(node.inode) is not None)

    def _node(self, inode: int) -> Attributes:
        """Return a node that the kernel holds; it may have no name any more. Raises NotFound."""
        node = self._fs.attributes(Inode(inode), removed=inode in self.lookup_counts)
        return msgspec.structs.replace(node, nlink=0) if inode in self.removed_directories else node

    def _new_owner(self, parent: int, kind: Kind, mode: int, ctx: RequestContext) -> tuple[int, int, Owner]:
        """Return mode, umask and owner of a new node; directories with setgid pass their group on, and the bit to directories."""
        mode, umask = stat.S_IMODE(mode), 0 if kind == SYMLINK else ctx.umask
        parent_node = self._fs.attributes(Inode(parent))
        if not parent_node.mode & stat.S_ISGID:
            return mode, umask, Owner(ctx.uid, ctx.gid)
        return (mode | stat.S_ISGID if kind == DIRECTORY else mode), umask, Owner(ctx.uid, parent_node.gid)

    async def _change(self, work: Callable[[], T]) -> T:
        try:
            return await self.workers.call(work)
        finally:
            self.changes += 1

    async def _change_tree(self, work: Callable[[], T]) -> T:
        """Make one change of names or attributes: here, if that waits for nobody, else as ``_change`` does."""
        try:
            return self.workers.call_nowait(self._fs.call_nowait, work)
        except WouldBlock:
            return await self.workers.call(work)
        finally:
            self.changes += 1
