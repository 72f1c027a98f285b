"""The kernel's requests, translated into calls of ``tgdav.fs.api``.

What changes something, or may wait, runs in a worker thread; look-ups, attributes and small reads of the database are
answered in the loop. The kernel keeps names, attributes and pages, and writes pages back when it likes; of a file that
has unwritten pages it alone knows size and times, and says so by setattr and before a flush.
"""

import os
import stat
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec
import pyfuse3
from pyfuse3 import EntryAttributes, FUSEError, RequestContext

from tgdav.clock import Clock
from tgdav.errors import BadHandle, Exists, InvalidArgument, NotFound, NotPermitted, WouldBlock
from tgdav.fs import acl
from tgdav.fs.api import Capacity, FileHandle, ObservedFileSystem, Owner, RenameFlag
from tgdav.ids import Inode
from tgdav.metadata.types import DIRECTORY, FILE, FORMATS, SYMLINK, AttributeChange, Attributes, Kind
from tgdav_fuse.attributes import Presentation, Translator, asked, asked_by_a_program, space, without_set_id
from tgdav_fuse.errors import async_handler, sync_handler
from tgdav_fuse.handles import Handles, Listing, OpenHandle
from tgdav_fuse.privileges import is_administrator, may_keep_group_id
from tgdav_fuse.worker_pool import WorkerPool
from tgdav_fuse.xattrs import Xattrs

T = TypeVar("T")

CAPACITY_SECONDS = 5.0
"""How long what statfs says is not counted anew."""

_NOTHING = AttributeChange()
_KINDS = {bits: kind for kind, bits in FORMATS.items()}
_RENAME = {
    0: RenameFlag.NONE,
    1: RenameFlag.NO_REPLACE,
    2: RenameFlag.EXCHANGE,
    4: RenameFlag.WHITEOUT,
    5: RenameFlag.WHITEOUT | RenameFlag.NO_REPLACE,
}
_SET_ID = stat.S_ISUID | stat.S_ISGID


class TgdavOperations(pyfuse3.Operations):
    """Answers for one mount."""

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
        self.handles = Handles(self.workers)
        self.xattrs = Xattrs(fs)
        self.lookup_counts: dict[int, int] = {}
        self.removed_directories: set[int] = set()
        self.resizing: set[int] = set()
        self.changes = 0
        self.under_way = 0
        self._capacity: Capacity | None = None
        self._capacity_until = 0.0

    def is_idle(self) -> bool:
        """Return whether no request is under way that may wait for something."""
        return not self.under_way

    # ---- names -----------------------------------------------------------------------------------------------------

    def _entered(self, node: Attributes) -> EntryAttributes:
        """Count that the kernel got to know an inode, and describe it."""
        self.lookup_counts[node.inode] = self.lookup_counts.get(node.inode, 0) + 1
        return self._shown_now(node)

    def _shown_now(self, node: Attributes) -> EntryAttributes:
        """Describe a node. Of a file that is being written the kernel keeps bytes that nobody has counted yet."""
        return self.translator.entry(node, is_written=node.is_file and self.handles.writable(node.inode) is not None)

    def _held(self, inode: int) -> Attributes:
        """Return a node that the kernel holds; it may have no name any more. Raises NotFound."""
        node = self._fs.attributes(Inode(inode), removed=inode in self.lookup_counts)
        return msgspec.structs.replace(node, nlink=0) if inode in self.removed_directories else node

    @sync_handler
    def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        """Find a name."""
        if name == b".":
            node = self._fs.attributes(Inode(parent_inode))
            if node.is_directory:
                self._fs.parent(node.inode)  # NotFound: it was removed
            return self._entered(node)
        if name == b"..":
            return self._entered(self._fs.attributes(self._fs.parent(Inode(parent_inode))))
        try:
            return self._entered(self._fs.lookup(Inode(parent_inode), name))
        except NotFound:
            return self.translator.nothing()

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Count inodes that the kernel knows no more."""
        for inode, count in inode_list:
            left = self.lookup_counts.get(inode, 0) - count
            if left > 0:
                self.lookup_counts[inode] = left
            else:
                self.lookup_counts.pop(inode, None)
                self.removed_directories.discard(inode)

    @async_handler
    async def mknod(self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext) -> EntryAttributes:
        """Make a file of any kind but folder and symlink."""
        kind = _KINDS.get(stat.S_IFMT(mode))
        if kind is None:
            raise InvalidArgument("not a kind of file")
        return self._entered(await self._make(parent_inode, name, kind, mode, ctx, rdev=rdev))

    @async_handler
    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        """Make a folder."""
        return self._entered(await self._make(parent_inode, name, DIRECTORY, mode, ctx))

    @async_handler
    async def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        """Make a symbolic link."""
        return self._entered(await self._make(parent_inode, name, SYMLINK, 0o777, ctx, target=target))

    async def _make(
        self,
        parent: int,
        name: bytes,
        kind: Kind,
        mode: int,
        ctx: RequestContext,
        *,
        rdev: int = 0,
        target: bytes = b"",
    ) -> Attributes:
        mode, umask, owner = self._new_owner(parent, kind, mode, ctx)
        return await self._change_tree(
            lambda: self._fs.create(Inode(parent), name, kind, mode, owner, rdev=rdev, target=target, umask=umask)
        )

    def _new_owner(self, parent: int, kind: Kind, mode: int, ctx: RequestContext) -> tuple[int, int, Owner]:
        """Return mode, umask and owner of a new node; below a folder with setgid the group, and the bit, are inherited."""
        mode, umask = stat.S_IMODE(mode), 0 if kind == SYMLINK else ctx.umask
        folder = self._fs.attributes(Inode(parent))
        if not folder.mode & stat.S_ISGID:
            return mode, umask, Owner(ctx.uid, ctx.gid)
        return (mode | stat.S_ISGID if kind == DIRECTORY else mode), umask, Owner(ctx.uid, folder.gid)

    async def _change(self, work: Callable[[], T]) -> T:
        try:
            return await self.workers.call(work)
        finally:
            self.changes += 1

    async def _change_tree(self, work: Callable[[], T]) -> T:
        """Make one change of names or attributes: here, if that waits for nobody, else as ``_change`` does."""
        try:
            return self.workers.at_once(self._fs.at_once, work)
        except WouldBlock:
            return await self.workers.call(work)
        finally:
            self.changes += 1

    @async_handler
    async def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext) -> EntryAttributes:
        """Give a node one more name."""
        return self._entered(
            await self._change_tree(lambda: self._fs.link(Inode(inode), Inode(new_parent_inode), new_name))
        )

    @async_handler
    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        """Remove a name."""
        await self._change_tree(lambda: self._fs.unlink(Inode(parent_inode), name))

    @async_handler
    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        """Remove an empty folder."""
        folder = self._folder_at(parent_inode, name)
        await self._change_tree(lambda: self._fs.remove_directory(Inode(parent_inode), name))
        self._note_removed(folder)

    def _folder_at(self, parent: int, name: bytes) -> int | None:
        """Return the inode of the folder of that name; None if there is none."""
        try:
            found = self._fs.lookup(Inode(parent), name)
        except NotFound:
            return None
        return found.inode if found.is_directory else None

    def _note_removed(self, folder: int | None) -> None:
        """Take in that a folder is gone, which some program may have open."""
        if folder is not None and folder in self.lookup_counts:
            self.removed_directories.add(folder)

    @async_handler
    async def rename(
        self, parent_inode_old: int, name_old: bytes, parent_inode_new: int, name_new: bytes, flags: int,
        ctx: RequestContext,
    ) -> None:  # fmt: skip
        """Move a name, as renameat2(2)."""
        wanted = _RENAME.get(flags)
        if wanted is None:
            raise InvalidArgument("not a kind of rename")
        replaced = self._folder_at(parent_inode_new, name_new)
        if await self._change(
            lambda: self._fs.rename(
                Inode(parent_inode_old), name_old, Inode(parent_inode_new), name_new, flags=wanted,
                whiteout_owner=Owner(ctx.uid, ctx.gid),
            )
        ):  # fmt: skip
            self._note_removed(replaced)

    @sync_handler
    def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        """Return a symlink's target."""
        return self._fs.read_link(Inode(inode))

    # ---- attributes ------------------------------------------------------------------------------------------------

    @sync_handler
    def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        """Show a node's attributes."""
        return self._shown_now(self._held(inode))

    @async_handler
    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: pyfuse3.SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        """Set attributes. No field at all means: someone wrote, so setuid and setgid go.

        The kernel also writes back mtime and ctime of a file whose name is gone, as it may be closed at any moment. It would
        tell a failure of that to whoever closes the file next, as an error of writing, and to syncfs(2).
        """
        try:
            return await self._set_attributes(inode, attr, fields, fh, ctx)
        except NotFound:
            if asked_by_a_program(fields):
                raise
            return self.translator.gone(inode)

    async def _set_attributes(
        self, inode: int, attr: EntryAttributes, fields: pyfuse3.SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        node = self._held(inode)
        if node.nlink == 0 and node.is_file and not (self.handles.is_open(inode) or asked_by_a_program(fields)):
            return self._shown_now(node)  # the kernel writes ctime back after each unlink: to log that doubled its cost
        if fields.update_size and inode in self.resizing:
            return self._shown_now(node)
        change = self._wanted(node, attr, fields, ctx)
        if fields.update_size:
            await self._truncate(inode, attr.st_size, fh)
        if change != _NOTHING and not self._fs.hold_attributes(Inode(inode), change):
            await self._change_tree(lambda: self._fs.set_attributes(Inode(inode), change))
        return self._shown_now(self._held(inode))

    def _wanted(
        self, node: Attributes, attr: EntryAttributes, fields: pyfuse3.SetattrFields, ctx: RequestContext
    ) -> AttributeChange:
        change = asked(attr, fields)
        if _differs(change.uid, self._shown.uid) or _differs(change.gid, self._shown.gid):
            raise NotPermitted("the mount shows all files as one owner's")
        nothing = change == _NOTHING and not fields.update_size
        written = nothing or (fields.update_size and ctx.uid != 0)
        owned = change.uid is not None or change.gid is not None
        if change.mode is None and node.is_file and node.mode & _SET_ID and (written or owned):
            change = msgspec.structs.replace(change, mode=without_set_id(node))
        if fields.update_size and self.enable_writeback_cache:  # where the kernel moves no time, none is to move here
            change = msgspec.structs.replace(
                change,
                mtime=node.mtime if change.mtime is None else change.mtime,
                ctime=node.ctime if change.ctime is None else change.ctime,
            )
        return change

    async def _truncate(self, inode: int, size: int, fh: int | None) -> None:
        def by_inode() -> None:
            self._fs.set_attributes(Inode(inode), AttributeChange(size=size))

        def by_handle(file: FileHandle) -> None:
            try:
                file.truncate(size)
                if fh is None:  # asked for by name: nobody's close will make it last
                    file.flush()
            except BadHandle:  # another program's handle, closed while this waited for its turn
                by_inode()

        handle = self.handles.file(fh) if fh is not None else self.handles.writable(inode)
        if handle is None or not handle.writable:
            await self._change(by_inode)
            return
        file = handle.file
        async with handle.node.writes.alone:
            handle.node.unsettled = True
            await self._change(lambda: by_handle(file))

    @sync_handler
    def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        """Return an extended attribute."""
        if self.xattrs.has_none(inode, name):
            raise FUSEError(pyfuse3.ENOATTR)  # what Linux asks at each first write is answered the short way
        return self.xattrs.get(Inode(inode), name)

    @async_handler
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        """Set an extended attribute; pyfuse3 has looked at the flags."""
        drop = name == acl.ACCESS and self._drops_set_group_id(inode, ctx)
        await self._change(lambda: self.xattrs.set(Inode(inode), name, value, drop_set_group_id=drop))

    def _drops_set_group_id(self, inode: int, ctx: RequestContext) -> bool:
        node = self._held(inode)
        return bool(node.mode & stat.S_ISGID) and not may_keep_group_id(ctx, self.translator.group_of(node))

    @sync_handler
    def listxattr(self, inode: int, ctx: RequestContext) -> Sequence[bytes]:
        """Return the names of the extended attributes."""
        return self.xattrs.list(Inode(inode), lambda: is_administrator(ctx))

    @async_handler
    async def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        """Remove an extended attribute."""
        await self._change(lambda: self.xattrs.remove(Inode(inode), name))

    @async_handler
    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        """Tell about space. Counting reads the whole tree, so the answer holds for a while."""
        now = self._clock.monotonic()
        if self._capacity is None or now >= self._capacity_until:
            self._capacity = await self.workers.call(self._fs.capacity)
            self._capacity_until = self._clock.monotonic() + CAPACITY_SECONDS
        return space(self._capacity)

    # ---- folders ---------------------------------------------------------------------------------------------------

    @sync_handler
    def opendir(self, inode: int, ctx: RequestContext) -> int:
        """Open a folder."""
        return self.handles.add_listing(Listing(self._fs, Inode(inode)))

    @async_handler
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """Show what comes after a cookie."""
        listing = self.handles.listing(fh)
        if start_id == 0 or not listing.begun:
            changes = self.changes
            await self.workers.call(lambda: listing.begin(changes))
        for cookie, name in ((1, b"."), (2, b"..")):
            if start_id < cookie:
                shown = listing.inode if cookie == 1 else self._fs.parent(listing.inode)
                entry = self.translator.entry(self._held(shown))
                if not pyfuse3.readdir_reply(token, name, entry, cookie):
                    return
        for cookie, name, node in listing.after(start_id, self.changes):
            if not pyfuse3.readdir_reply(token, name, self._shown_now(node), cookie):
                return
            self.lookup_counts[node.inode] = self.lookup_counts.get(node.inode, 0) + 1

    @sync_handler
    def releasedir(self, fh: int) -> None:
        """Close a folder."""
        self.handles.remove_listing(fh)

    @async_handler
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        """Make all names durable."""
        await self.workers.call(self._fs.sync)

    # ---- files -----------------------------------------------------------------------------------------------------

    @async_handler
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> pyfuse3.FileInfo:
        """Open a file."""
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        if flags & os.O_TRUNC:
            number = await self._open_empty(Inode(inode), ctx)
        else:
            file = self._fs.open(Inode(inode), writable=writable, moves_times=self._moves_times)
            number = self.handles.add(Inode(inode), file, writable=writable)
        return pyfuse3.FileInfo(fh=number)

    @property
    def _moves_times(self) -> bool:
        """Whether writes move mtime and ctime here: with a writeback cache the kernel says how they move."""
        return not self.enable_writeback_cache

    async def _open_empty(self, inode: Inode, ctx: RequestContext) -> int:
        file = await self._change(
            lambda: self._fs.open(inode, writable=True, truncate=True, moves_times=self._moves_times)
        )
        number = self.handles.add(inode, file, writable=True)
        self.handles.file(number).node.unsettled = True
        node = self._held(inode)
        if node.mode & _SET_ID and ctx.uid != 0:
            left = without_set_id(node) & (
                ~0 if may_keep_group_id(ctx, self.translator.group_of(node)) else ~stat.S_ISGID
            )
            await self._change(lambda: self._fs.set_attributes(inode, AttributeChange(mode=left, ctime=node.ctime)))
            pyfuse3.invalidate_inode(inode, attr_only=True)  # the kernel does not ask for the mode after it cut a file
        return number

    @async_handler
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[pyfuse3.FileInfo, EntryAttributes]:
        """Make a file and open it; one that appeared meanwhile is opened, unless O_EXCL."""
        mode, umask, owner = self._new_owner(parent_inode, FILE, mode, ctx)
        writable = flags & os.O_ACCMODE != os.O_RDONLY

        def work() -> tuple[Attributes, FileHandle]:
            try:
                made = self._fs.create(Inode(parent_inode), name, FILE, mode, owner, umask=umask)
                self.xattrs.made(made.inode)
            except Exists:
                if flags & os.O_EXCL:
                    raise
                made = self._fs.lookup(Inode(parent_inode), name)
            truncate = bool(flags & os.O_TRUNC and made.size)
            return made, self._fs.open(made.inode, writable=writable, truncate=truncate, moves_times=self._moves_times)

        node, file = await self._change_tree(work)
        number = self.handles.add(node.inode, file, writable=writable)
        return pyfuse3.FileInfo(fh=number), self._entered(node)

    @async_handler
    async def read(self, fh: int, off: int, size: int) -> bytes:
        """Return bytes."""
        handle = self.handles.file(fh)
        handle.reads = True
        return await self.workers.call(lambda: handle.file.read(off, size))

    @async_handler
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        """Take bytes. Requests of one file are worked off in the order in which they came."""
        handle = self.handles.file(fh)
        handle.node.unsettled = True
        if not handle.node.is_written_to and handle.file.write_at_once(off, buf):
            return len(buf)
        done = await handle.node.writes.write(lambda: handle.file.write(off, buf))
        handle.node.unsettled = True  # a flush may have been at work when this came
        return done

    @async_handler
    async def flush(self, fh: int) -> None:
        """Commit what was written: someone closes the file, and hears of failures now."""
        handle = self.handles.file(fh)
        if handle.writable and handle.node.unsettled and not self._settles_soon(handle):
            await self._settle(handle)

    def _settles_soon(self, handle: OpenHandle) -> bool:
        """Leave a small file to be committed with others in a moment; False if that cannot be."""
        if handle.node.is_written_to or not handle.file.settle_soon():
            return False
        handle.node.unsettled = False
        self.changes += 1
        return True

    async def _settle(self, handle: OpenHandle) -> None:
        async with handle.node.writes.alone:
            handle.node.unsettled = False
            try:
                await self._change(handle.file.flush)
            except BaseException:
                handle.node.unsettled = True
                raise

    @async_handler
    async def release(self, fh: int) -> None:
        """Close a file."""
        handle = self.handles.remove(fh)
        waits = handle.reads or handle.node.unsettled or handle.node.is_written_to
        if waits or not self.workers.at_once(handle.file.close_at_once):
            await self.workers.call(handle.file.close)

    @async_handler
    async def fsync(self, fh: int, datasync: bool) -> None:
        """Make a file durable."""
        handle = self.handles.file(fh)
        async with handle.node.writes.alone:
            await self.workers.call(handle.file.fsync)


def _differs(wanted: int | None, shown: int | None) -> bool:
    return wanted is not None and shown is not None and wanted != shown
