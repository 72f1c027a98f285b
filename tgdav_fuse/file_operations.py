"""The kernel's requests about the content of files: open, read, write, truncate, flush, close."""

import os
import stat

import pyfuse3
from pyfuse3 import EntryAttributes, RequestContext

from tgdav.errors import BadHandle, Exists
from tgdav.fs.api import FileHandle
from tgdav.ids import Inode
from tgdav.metadata.types import FILE, AttributeChange, Attributes
from tgdav_fuse.attributes import SET_ID, without_set_id
from tgdav_fuse.errors import async_handler
from tgdav_fuse.handles import OpenHandle
from tgdav_fuse.mount_state import MountState

_O_DIRECT = getattr(os, "O_DIRECT", 0)
"""0 on macOS, which has none."""


class FileOperations(MountState):
    """The handlers for open files."""

    @property
    def _moves_times(self) -> bool:
        """Whether writes set mtime and ctime here. With a writeback cache the kernel does, and sends them by setattr."""
        return not self.enable_writeback_cache

    @async_handler
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> pyfuse3.FileInfo:
        """Open a file."""
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        if flags & os.O_TRUNC:
            number = await self._open_empty(Inode(inode), flags, ctx)
        else:
            file = self._fs.open(Inode(inode), writable=writable, moves_times=self._moves_times)
            number = self.handles.add(Inode(inode), file, writable=writable, direct=bool(flags & _O_DIRECT))
        return pyfuse3.FileInfo(fh=number, keep_cache=not self._has_stale_pages(inode))

    def _has_stale_pages(self, inode: int) -> bool:
        """Return whether the kernel must drop a file's pages when it is opened.

        The kernel drops them itself before each direct write. But if the write is asynchronous, it keeps those that another
        program reads meanwhile.
        """
        if inode not in self.stale_pages:
            return False
        if not self.handles.is_open_directly(inode):
            self.stale_pages.discard(inode)
        return True

    async def _open_empty(self, inode: Inode, flags: int, ctx: RequestContext) -> int:
        file = await self._change(
            lambda: self._fs.open(inode, writable=True, truncate=True, moves_times=self._moves_times)
        )
        number = self.handles.add(inode, file, writable=True, direct=bool(flags & _O_DIRECT))
        self.handles.file(number).node.needs_flush = True  # the truncation
        node = self._node(inode)
        if node.mode & SET_ID and ctx.uid != 0:
            left = without_set_id(node) & (~0 if self._may_keep_group_id(node, ctx) else ~stat.S_ISGID)
            await self._change(lambda: self._fs.set_attributes(inode, AttributeChange(mode=left, ctime=node.ctime)))
            pyfuse3.invalidate_inode(inode, attr_only=True)  # the kernel does not fetch the mode again after O_TRUNC
        return number

    @async_handler
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[pyfuse3.FileInfo, EntryAttributes]:
        """Create a file and open it. Without O_EXCL, open one that was created meanwhile."""
        mode, umask, owner = self._new_owner(parent_inode, FILE, mode, ctx)
        writable = flags & os.O_ACCMODE != os.O_RDONLY

        def work() -> tuple[Attributes, FileHandle]:
            try:
                made = self._fs.create(Inode(parent_inode), name, FILE, mode, owner, umask=umask)
                self.xattrs.created(made.inode)
            except Exists:
                if flags & os.O_EXCL:
                    raise
                made = self._fs.lookup(Inode(parent_inode), name)
            truncate = bool(flags & os.O_TRUNC and made.size)
            return made, self._fs.open(made.inode, writable=writable, truncate=truncate, moves_times=self._moves_times)

        node, file = await self._change_tree(work)
        number = self.handles.add(node.inode, file, writable=writable, direct=bool(flags & _O_DIRECT))
        return pyfuse3.FileInfo(fh=number), self._count_lookup(node)

    @async_handler
    async def read(self, fh: int, off: int, size: int) -> bytes:
        """Return up to ``size`` bytes from ``off``."""
        handle = self.handles.file(fh)
        handle.was_read = True
        return await self.workers.call(lambda: handle.file.read(off, size))

    @async_handler
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        """Write ``buf`` at ``off``; return its length. Writes of one file run in the order in which they came."""
        handle = self.handles.file(fh)
        handle.node.needs_flush = True  # set before any wait, so that a flush meanwhile does not skip this write
        if handle.direct:
            self.stale_pages.add(handle.node.inode)
        if not handle.node.is_written_to and handle.file.write_nowait(off, buf):
            return len(buf)
        done = await handle.node.writes.write(lambda: handle.file.write(off, buf))
        handle.node.needs_flush = True  # a flush may have run since this write came
        return done

    @async_handler
    async def flush(self, fh: int) -> None:
        """Commit what was written, when a descriptor is closed: the last chance to report an error."""
        handle = self.handles.file(fh)
        if handle.writable and handle.node.needs_flush and not self._flush_later(handle):
            await self._flush(handle)

    def _flush_later(self, handle: OpenHandle) -> bool:
        """Leave a small file to be committed soon, together with others. Return False if it cannot be."""
        if handle.node.is_written_to or not handle.file.flush_later():
            return False
        handle.node.needs_flush = False
        self.changes += 1
        return True

    async def _flush(self, handle: OpenHandle) -> None:
        async with handle.node.writes.exclusive:
            handle.node.needs_flush = False  # writes that come while this runs set it again
            try:
                await self._change(handle.file.flush)
            except BaseException:
                handle.node.needs_flush = True
                raise

    @async_handler
    async def release(self, fh: int) -> None:
        """Close a file: its last descriptor is gone."""
        handle = self.handles.remove(fh)
        # Most handles have nothing to finish; those are closed without a worker.
        may_wait = handle.was_read or handle.node.needs_flush or handle.node.is_written_to
        if may_wait or not self.workers.call_nowait(handle.file.close_nowait):
            await self.workers.call(handle.file.close)

    @async_handler
    async def fsync(self, fh: int, datasync: bool) -> None:
        """Make a file durable."""
        handle = self.handles.file(fh)
        async with handle.node.writes.exclusive:
            await self.workers.call(handle.file.fsync)

    async def _truncate(self, inode: int, size: int, fh: int | None) -> None:
        def by_inode() -> None:
            self._fs.set_attributes(Inode(inode), AttributeChange(size=size))

        def by_handle(file: FileHandle) -> None:
            try:
                file.truncate(size)
                if fh is None:  # truncate(2): no close will follow that would commit it
                    file.flush()
            except BadHandle:  # another program's handle, which was closed while this waited
                by_inode()

        handle = self.handles.file(fh) if fh is not None else self.handles.writable(inode)
        if handle is None or not handle.writable:
            await self._change(by_inode)
            return
        file = handle.file
        async with handle.node.writes.exclusive:
            handle.node.needs_flush = True
            await self._change(lambda: by_handle(file))
