"""A file system in memory on pyfuse3 as it comes: what a mount in Python costs. ``python -m benchmarks.memory_fs FOLDER``.

It asks the kernel for what tgdav asks for: written pages are gathered, names and attributes kept for long. Permissions,
links, extended attributes and renames are not there; what the benchmarks use is.
"""

import errno
import itertools
import os
import stat
import sys
import time
from collections.abc import Sequence

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FUSEError, RequestContext

_TIMEOUT = 3600.0


class _Node:
    def __init__(self, inode: int, mode: int, context: RequestContext | None) -> None:
        self.inode, self.mode = inode, mode
        self.uid, self.gid = (context.uid, context.gid) if context else (0, 0)
        self.atime = self.mtime = self.ctime = time.time_ns()
        self.data = bytearray()
        self.is_linked = True
        self.names: dict[bytes, _Node] = {}


class MemoryFileSystem(pyfuse3.Operations):
    """Nodes in a table; a file's handle is its inode."""

    supports_dot_lookup = False

    def __init__(self) -> None:
        super().__init__()
        self.enable_writeback_cache = True
        self._nodes = {pyfuse3.ROOT_INODE: _Node(pyfuse3.ROOT_INODE, stat.S_IFDIR | 0o755, None)}
        self._inodes = itertools.count(pyfuse3.ROOT_INODE + 1)

    def _entry(self, node: _Node) -> EntryAttributes:
        entry = EntryAttributes()
        entry.st_ino, entry.st_mode, entry.st_nlink = node.inode, node.mode, 1
        entry.st_uid, entry.st_gid, entry.st_size = node.uid, node.gid, len(node.data)
        entry.st_blksize, entry.st_blocks = 4096, (len(node.data) + 511) // 512
        entry.st_atime_ns, entry.st_mtime_ns, entry.st_ctime_ns = node.atime, node.mtime, node.ctime
        entry.entry_timeout = entry.attr_timeout = _TIMEOUT
        return entry

    def _make(self, parent: int, name: bytes, mode: int, context: RequestContext) -> EntryAttributes:
        node = _Node(next(self._inodes), mode & ~context.umask, context)
        self._nodes[node.inode] = self._nodes[parent].names[name] = node
        return self._entry(node)

    def _remove(self, parent: int, name: bytes) -> None:
        node = self._nodes[parent].names.pop(name, None)
        if node is None:
            raise FUSEError(errno.ENOENT)
        node.is_linked = False

    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        """Find a name."""
        node = self._nodes[parent_inode].names.get(name)
        if node is not None:
            return self._entry(node)
        nothing = EntryAttributes()
        nothing.st_ino, nothing.entry_timeout = 0, _TIMEOUT
        return nothing

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Let go of what has no name any more; the kernel asks for what it knows until it says this."""
        for inode, _ in inode_list:
            if not self._nodes[inode].is_linked:
                del self._nodes[inode]

    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        """Show a node's attributes."""
        return self._entry(self._nodes[inode])

    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: pyfuse3.SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        """Set attributes."""
        node = self._nodes[inode]
        if fields.update_size:
            del node.data[attr.st_size :]
            node.data += bytes(attr.st_size - len(node.data))
        if fields.update_mode:
            node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(attr.st_mode)
        node.uid = attr.st_uid if fields.update_uid else node.uid
        node.gid = attr.st_gid if fields.update_gid else node.gid
        node.atime = attr.st_atime_ns if fields.update_atime else node.atime
        node.mtime = attr.st_mtime_ns if fields.update_mtime else node.mtime
        node.ctime = attr.st_ctime_ns if fields.update_ctime else time.time_ns()
        return self._entry(node)

    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        """There are none."""
        raise FUSEError(pyfuse3.ENOATTR)

    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        """Make a folder."""
        return self._make(parent_inode, name, stat.S_IFDIR | mode, ctx)

    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[pyfuse3.FileInfo, EntryAttributes]:
        """Make a file."""
        entry = self._make(parent_inode, name, stat.S_IFREG | mode, ctx)
        return pyfuse3.FileInfo(fh=entry.st_ino), entry

    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        """Remove a file."""
        self._remove(parent_inode, name)

    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        """Remove a folder."""
        self._remove(parent_inode, name)

    async def open(self, inode: int, flags: int, ctx: RequestContext) -> pyfuse3.FileInfo:
        """Open a file."""
        if flags & os.O_TRUNC:
            self._nodes[inode].data.clear()
        return pyfuse3.FileInfo(fh=inode)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        """Return bytes."""
        with memoryview(self._nodes[fh].data) as data:
            return bytes(data[off : off + size])

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        """Take bytes."""
        data = self._nodes[fh].data
        if off > len(data):
            data += bytes(off - len(data))
        data[off : off + len(buf)] = buf
        return len(buf)

    async def flush(self, fh: int) -> None:
        """All is there."""

    async def release(self, fh: int) -> None:
        """Nothing was kept for the handle."""

    async def fsync(self, fh: int, datasync: bool) -> None:
        """Nothing can be kept."""

    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        """Open a folder."""
        return inode

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """List a folder; its names stay in the order in which they were made."""
        names = itertools.islice(self._nodes[fh].names.items(), start_id, None)
        for number, (name, node) in enumerate(names, start_id + 1):
            if not pyfuse3.readdir_reply(token, name, self._entry(node), number):
                return

    async def releasedir(self, fh: int) -> None:
        """Nothing was kept for the handle."""


def main() -> None:
    pyfuse3.init(MemoryFileSystem(), sys.argv[1], {"fsname=memory", "subtype=memory"})
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    main()
