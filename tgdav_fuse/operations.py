"""The kernel's requests, translated into calls of ``tgdav.fs.api``.

Changes, and whatever else may wait, run in worker threads. Lookups, attributes and small reads of the database are served
in the loop's thread. The kernel caches names, attributes and pages, and writes pages back when it likes. While a file has
dirty pages, only the kernel knows its size and times; it sends them by setattr and before a flush.
"""

import stat
from collections.abc import Sequence

import msgspec
import pyfuse3
from pyfuse3 import EntryAttributes, FUSEError, RequestContext

from tgdav.errors import InvalidArgument, NotFound, NotPermitted
from tgdav.fs import acl
from tgdav.fs.api import Capacity, Owner, RenameFlag
from tgdav.ids import Inode
from tgdav.metadata.types import DIRECTORY, FORMATS, SYMLINK, AttributeChange, Attributes, Kind
from tgdav_fuse.attributes import SET_ID, is_from_program, requested, statvfs, without_set_id
from tgdav_fuse.errors import async_handler, sync_handler
from tgdav_fuse.file_operations import FileOperations
from tgdav_fuse.handles import Listing
from tgdav_fuse.mount_state import is_administrator

CAPACITY_SECONDS = 5.0
"""How long the result of statfs is reused."""

_NOTHING = AttributeChange()
_KINDS = {bits: kind for kind, bits in FORMATS.items()}
_RENAME_FLAGS = {
    0: RenameFlag.NONE,
    1: RenameFlag.NO_REPLACE,
    2: RenameFlag.EXCHANGE,
    4: RenameFlag.WHITEOUT,
    5: RenameFlag.WHITEOUT | RenameFlag.NO_REPLACE,
}


class TgdavOperations(FileOperations):
    """All handlers of one mount."""

    _capacity: Capacity | None = None
    _capacity_until = 0.0

    # ---- names -----------------------------------------------------------------------------------------------------

    @sync_handler
    def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        """Look up a name; "." and ".." come from name_to_handle_at(2) and NFS."""
        if name == b".":
            node = self._fs.attributes(Inode(parent_inode))
            if node.is_directory:
                self._fs.parent(node.inode)  # raises NotFound if it was removed
            return self._count_lookup(node)
        if name == b"..":
            return self._count_lookup(self._fs.attributes(self._fs.parent(Inode(parent_inode))))
        try:
            return self._count_lookup(self._fs.lookup(Inode(parent_inode), name))
        except NotFound:
            return self.translator.negative_entry(parent_inode)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Subtract what the kernel forgets from the lookup counts."""
        for inode, count in inode_list:
            left = self.lookup_counts.get(inode, 0) - count
            if left > 0:
                self.lookup_counts[inode] = left
            else:
                self.lookup_counts.pop(inode, None)
                self.removed_directories.discard(inode)
                self.stale_pages.discard(inode)

    @async_handler
    async def mknod(self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext) -> EntryAttributes:
        """Create a node of any kind but directory and symlink."""
        kind = _KINDS.get(stat.S_IFMT(mode))
        if kind is None:
            raise InvalidArgument("unknown file type")
        return self._count_lookup(await self._create(parent_inode, name, kind, mode, ctx, rdev=rdev))

    @async_handler
    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        """Create a directory."""
        return self._count_lookup(await self._create(parent_inode, name, DIRECTORY, mode, ctx))

    @async_handler
    async def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        """Create a symbolic link."""
        return self._count_lookup(await self._create(parent_inode, name, SYMLINK, 0o777, ctx, target=target))

    async def _create(
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

    @async_handler
    async def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext) -> EntryAttributes:
        """Create a hard link."""
        return self._count_lookup(
            await self._change_tree(lambda: self._fs.link(Inode(inode), Inode(new_parent_inode), new_name))
        )

    @async_handler
    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        """Remove a name."""
        await self._change_tree(lambda: self._fs.unlink(Inode(parent_inode), name))

    @async_handler
    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        """Remove an empty directory."""
        # Read before the removal: afterwards nothing leads to the inode any more.
        removed = self._directory_at(parent_inode, name)
        await self._change_tree(lambda: self._fs.remove_directory(Inode(parent_inode), name))
        self._record_removed(removed)

    def _directory_at(self, parent: int, name: bytes) -> int | None:
        """Return the inode of the directory of that name, None if there is none."""
        try:
            found = self._fs.lookup(Inode(parent), name)
        except NotFound:
            return None
        return found.inode if found.is_directory else None

    def _record_removed(self, inode: int | None) -> None:
        """Record that a directory is gone. Programs may still have it open, and must then see no links."""
        if inode is not None and inode in self.lookup_counts:
            self.removed_directories.add(inode)

    @async_handler
    async def rename(
        self, parent_inode_old: int, name_old: bytes, parent_inode_new: int, name_new: bytes, flags: int,
        ctx: RequestContext,
    ) -> None:  # fmt: skip
        """Rename, with the flags of renameat2(2)."""
        wanted = _RENAME_FLAGS.get(flags)
        if wanted is None:
            raise InvalidArgument("unknown flags of renameat2")
        # Read before the rename: afterwards nothing leads to the inode any more.
        replaced = self._directory_at(parent_inode_new, name_new)
        if await self._change(
            lambda: self._fs.rename(
                Inode(parent_inode_old), name_old, Inode(parent_inode_new), name_new, flags=wanted,
                whiteout_owner=Owner(ctx.uid, ctx.gid),
            )
        ):  # fmt: skip
            self._record_removed(replaced)

    @sync_handler
    def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        """Return a symlink's target."""
        return self._fs.read_link(Inode(inode))

    # ---- attributes ------------------------------------------------------------------------------------------------

    @sync_handler
    def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        """Return a node's attributes."""
        return self._entry(self._node(inode))

    @async_handler
    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: pyfuse3.SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        """Set attributes. A request without any field means that someone wrote: setuid and setgid are cleared.

        The kernel also writes back mtime and ctime of a file without a name, even while that is being closed. It would report
        a failure of this as a write error to the next program that closes the file, and to syncfs(2).
        """
        try:
            return await self._set_attributes(inode, attr, fields, fh, ctx)
        except NotFound:
            if is_from_program(fields):
                raise
            return self.translator.gone_entry(inode)

    async def _set_attributes(
        self, inode: int, attr: EntryAttributes, fields: pyfuse3.SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        node = self._node(inode)
        if node.nlink == 0 and node.is_file and not (self.handles.is_open(inode) or is_from_program(fields)):
            # ctime, written back after each unlink: logging it would double the cost of unlink. The kernel ignores the reply.
            return self.translator.gone_entry(inode)
        is_equal = fields.update_size or (fields.update_mtime and attr.st_mtime_ns == node.mtime)
        if is_equal and inode in self.replacing:  # our own request, made to change the kernel's idea of the file
            return self._entry(node)
        change = self._requested(node, attr, fields, ctx)
        if fields.update_size:
            await self._truncate(inode, attr.st_size, fh)
        # While the file has uncommitted writes, attributes can wait and be committed with them.
        if change != _NOTHING and not self._fs.defer_attributes(Inode(inode), change):
            await self._change_tree(lambda: self._fs.set_attributes(Inode(inode), change))
        return self._entry(self._node(inode))

    def _requested(
        self, node: Attributes, attr: EntryAttributes, fields: pyfuse3.SetattrFields, ctx: RequestContext
    ) -> AttributeChange:
        """Return the change that a setattr asks for, without the size. Raises NotPermitted."""
        change = requested(attr, fields)
        if _differs(change.uid, self._presentation.uid) or _differs(change.gid, self._presentation.gid):
            raise NotPermitted("the mount option uid or gid gives all files one owner")
        nothing = change == _NOTHING and not fields.update_size
        written = nothing or (fields.update_size and ctx.uid != 0)
        owned = change.uid is not None or change.gid is not None
        if change.mode is None and node.is_file and node.mode & SET_ID and (written or owned):
            change = msgspec.structs.replace(change, mode=without_set_id(node))
        if fields.update_size and self.enable_writeback_cache:  # the kernel sends the times that it wants changed
            change = msgspec.structs.replace(
                change,
                mtime=node.mtime if change.mtime is None else change.mtime,
                ctime=node.ctime if change.ctime is None else change.ctime,
            )
        return change

    @sync_handler
    def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        """Return an extended attribute."""
        if self.xattrs.has_none(inode, name):
            raise FUSEError(pyfuse3.ENOATTR)  # Linux asks for security.capability at each first write
        return self.xattrs.get(Inode(inode), name)

    @async_handler
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        """Set an extended attribute. pyfuse3 has checked the flags."""
        drop = name == acl.ACCESS and self._drops_set_group_id(inode, ctx)
        await self._change(lambda: self.xattrs.set(Inode(inode), name, value, drop_set_group_id=drop))

    def _drops_set_group_id(self, inode: int, ctx: RequestContext) -> bool:
        node = self._node(inode)
        return bool(node.mode & stat.S_ISGID) and not self._may_keep_group_id(node, ctx)

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
        """Return space and counts. Counting reads the whole tree, so the result is reused for a while."""
        now = self._clock.monotonic()
        if self._capacity is None or now >= self._capacity_until:
            self._capacity = await self.workers.call(self._fs.capacity)
            self._capacity_until = self._clock.monotonic() + CAPACITY_SECONDS
        return statvfs(self._capacity)

    # ---- directories -------------------------------------------------------------------------------------------------

    @sync_handler
    def opendir(self, inode: int, ctx: RequestContext) -> int:
        """Open a directory."""
        return self.handles.add_listing(Listing(self._fs, Inode(inode)))

    @async_handler
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """Return the entries after the cookie ``start_id``."""
        listing = self.handles.listing(fh)
        if start_id == 0 or not listing.is_loaded:
            changes = self.changes
            await self.workers.call(lambda: listing.load(changes))
        for cookie, name in ((1, b"."), (2, b"..")):
            if start_id < cookie:
                inode = listing.inode if cookie == 1 else self._fs.parent(listing.inode)
                entry = self.translator.entry(self._node(inode))
                if not pyfuse3.readdir_reply(token, name, entry, cookie):
                    return
        for cookie, name, node in listing.entries_after(start_id, self.changes):
            if not pyfuse3.readdir_reply(token, name, self._entry(node), cookie):
                return
            # An entry of readdirplus counts as a lookup, but only if it fitted into the reply.
            self.lookup_counts[node.inode] = self.lookup_counts.get(node.inode, 0) + 1

    @sync_handler
    def releasedir(self, fh: int) -> None:
        """Close a directory."""
        self.handles.remove_listing(fh)

    @async_handler
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        """Make all names durable."""
        await self.workers.call(self._fs.sync)


def _differs(wanted: int | None, fixed: int | None) -> bool:
    return wanted is not None and fixed is not None and wanted != fixed
