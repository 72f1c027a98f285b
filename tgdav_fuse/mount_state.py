"""The base of the request handlers: what the kernel knows of one mount, how changes run, and what a caller may do."""

import stat
from collections.abc import Callable
from pathlib import Path
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

_CAP_FSETID, _CAP_SYS_ADMIN = 4, 21
"""Bit numbers of capabilities(7)."""


class MountState(pyfuse3.Operations):
    """What the handlers share.

    ``lookup_counts`` has the kernel's count of lookups for each inode that it knows. ``removed_directories`` are those that
    the kernel knows but that have no name any more. ``replacing`` are inodes whose size and times ``Invalidation`` is passing
    to the kernel. ``stale_pages`` are inodes of which the kernel may have pages from before a direct write. ``changes`` counts
    changes of the tree, so that a listing knows whether it is out of date. Handlers run in the loop's thread;
    ``Invalidation`` uses these fields from other threads, one operation at a time.
    """

    supports_dot_lookup = True  # lets NFS and name_to_handle_at(2) find an inode without its path

    def __init__(
        self,
        fs: ObservedFileSystem,
        clock: Clock,
        presentation: Presentation,
        *,
        read_only: bool = False,
        checks_permissions: bool = False,
    ) -> None:
        """``checks_permissions``: the kernel checks owner, mode and ACLs. If ACLs are enabled it always does."""
        super().__init__()
        self.enable_writeback_cache = not read_only
        self.enable_acl = checks_permissions  # FUSE_POSIX_ACL makes the kernel check permissions, asked or not
        self._fs, self._clock, self._presentation = fs, clock, presentation
        self.translator = Translator(presentation, fs.allocated)
        self.workers = WorkerPool()
        self.handles = Handles(self.workers)
        self.xattrs = Xattrs(fs)
        self.lookup_counts: dict[int, int] = {}
        self.removed_directories: set[int] = set()
        self.replacing: set[int] = set()
        self.stale_pages: set[int] = set()
        self.changes = 0
        self.in_progress = 0

    def is_idle(self) -> bool:
        """Return whether no request is in progress that may have to wait."""
        return not self.in_progress

    def _count_lookup(self, node: Attributes) -> EntryAttributes:
        """Return the reply to a lookup, and count it: the kernel will forget as many as it was given."""
        self.lookup_counts[node.inode] = self.lookup_counts.get(node.inode, 0) + 1
        return self._entry(node)

    def _entry(self, node: Attributes) -> EntryAttributes:
        """Return a node's attributes in the kernel's form."""
        return self.translator.entry(node, is_written=node.is_file and self.handles.writable(node.inode) is not None)

    def _node(self, inode: int) -> Attributes:
        """Return a node that the kernel knows; it may have no name any more. Raises NotFound."""
        node = self._fs.attributes(Inode(inode), removed=inode in self.lookup_counts)
        # A removed directory must have no links, whatever the file system has counted.
        return msgspec.structs.replace(node, nlink=0) if inode in self.removed_directories else node

    def _new_owner(self, parent: int, kind: Kind, mode: int, ctx: RequestContext) -> tuple[int, int, Owner]:
        """Return mode, umask and owner of a new node. Below a directory with setgid it inherits the group."""
        # The kernel leaves the umask to us, because a default ACL replaces it. Symbolic links have no mode of their own.
        mode, umask = stat.S_IMODE(mode), 0 if kind == SYMLINK else ctx.umask
        directory = self._fs.attributes(Inode(parent))
        if not directory.mode & stat.S_ISGID:
            return mode, umask, Owner(ctx.uid, ctx.gid)
        return (mode | stat.S_ISGID if kind == DIRECTORY else mode), umask, Owner(ctx.uid, directory.gid)

    async def _change(self, work: Callable[[], T]) -> T:
        """Make a change that may have to wait, in a worker thread."""
        try:
            return await self.workers.call(work)
        finally:
            self.changes += 1

    async def _change_tree(self, work: Callable[[], T]) -> T:
        """Make a change of names or attributes in the loop's thread; if it would block, in a worker thread."""
        try:
            return self.workers.call_nowait(self._fs.call_nowait, work)
        except WouldBlock:
            return await self.workers.call(work)
        finally:
            self.changes += 1

    def _may_keep_group_id(self, node: Attributes, ctx: RequestContext) -> bool:
        """Return whether ``node`` keeps setgid when the caller changes it: as a member of its group, or with CAP_FSETID."""
        group = self.translator.group_of(node)
        if ctx.gid == group:
            return True
        status = _status(ctx.pid)
        return str(group) in status.get("Groups", "").split() or _has(status, _CAP_FSETID, default=ctx.uid == 0)


def is_administrator(ctx: RequestContext) -> bool:
    """Return whether the caller has CAP_SYS_ADMIN. Where that cannot be read, root has it."""
    return _has(_status(ctx.pid), _CAP_SYS_ADMIN, default=ctx.uid == 0)


def _status(process: int) -> dict[str, str]:
    """Return /proc/PID/status, the only place where Linux shows a caller's groups and capabilities."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(errors="replace").splitlines()
    except OSError:
        return {}
    return {name: value for name, _, value in (line.partition(":") for line in lines)}


def _has(status: dict[str, str], capability: int, *, default: bool) -> bool:
    effective = status.get("CapEff", "").strip()
    return bool(int(effective, 16) >> capability & 1) if effective else default
