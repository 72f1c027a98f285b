"""The FUSE side of the forgetful disk: requests of the kernel become calls of the model.

All requests run one after another in one trio thread, so a power cut falls between two of them.
"""

import errno
import functools
import os
import stat
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ParamSpec, TypeVar

import pyfuse3
from pyfuse3 import (
    EntryAttributes,
    FileInfo,
    FUSEError,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
)

from tests.support.disk_faults import Faults, PowerGone
from tests.support.volatile_data import Pinned
from tests.support.volatile_model import CutReport, VolatileDisk
from tests.support.volatile_names import Place

P = ParamSpec("P")
T = TypeVar("T")
KEPT_FOR = 3600.0
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2


def _request(handler: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Refuse when the power is gone; turn OSError into the kernel's errno."""

    @functools.wraps(handler)
    async def answer(*args: P.args, **kwargs: P.kwargs) -> T:
        operations = args[0]
        assert isinstance(operations, ForgetfulOperations)
        if operations.report is not None:
            raise FUSEError(errno.EIO)
        try:
            return await handler(*args, **kwargs)
        except PowerGone:
            operations.power_cut()
            raise FUSEError(errno.EIO) from None
        except OSError as error:
            raise FUSEError(error.errno or errno.EIO) from None

    return answer


class ForgetfulOperations(pyfuse3.Operations):
    """Requests of the kernel, answered from a ``VolatileDisk``."""

    def __init__(self, disk: VolatileDisk) -> None:
        super().__init__()
        self.disk = disk
        self.faults = Faults()
        self.report: CutReport | None = None
        self._inodes: dict[int, Pinned] = {pyfuse3.ROOT_INODE: disk.root}
        self._lookups: dict[int, int] = {}
        self._files: dict[int, Pinned] = {}
        self._listings: dict[int, tuple[Pinned, list[bytes]]] = {}
        self._root_path = str(disk.root.path.readlink())

    def power_cut(self) -> CutReport:
        """Cut the power, once; from now on every request is an I/O error."""
        if self.report is None:
            self.report = self.disk.power_cut()
        return self.report

    def _place(self, parent: int, name: bytes) -> Place:
        return Place(self._inodes[parent], name)

    def _check(self, operation: str, at: Pinned | Place) -> None:
        self.faults.check(operation, lambda: self._path(at))

    def _path(self, at: Pinned | Place) -> str:
        pinned, name = (at.folder, "/" + os.fsdecode(at.name)) if isinstance(at, Place) else (at, "")
        return (str(pinned.path.readlink()) + name).removeprefix(self._root_path + "/")

    def _enter(self, pinned: Pinned) -> EntryAttributes:
        """Count a lookup by the kernel and return the inode's attributes."""
        held = self._inodes.setdefault(pinned.number, pinned)
        self._lookups[pinned.number] = self._lookups.get(pinned.number, 0) + 1
        return self._attributes(pinned.number, held)

    def _attributes(self, number: int, pinned: Pinned) -> EntryAttributes:
        found, entry = pinned.stat(), EntryAttributes()
        for field in ("st_mode", "st_uid", "st_gid", "st_rdev", "st_size", "st_blocks"):
            setattr(entry, field, getattr(found, field))
        for field in ("st_atime_ns", "st_mtime_ns", "st_ctime_ns"):
            setattr(entry, field, getattr(found, field))
        entry.st_ino, entry.st_blksize, entry.generation = number, 4096, 0
        entry.st_nlink = self.disk.links(pinned)
        entry.entry_timeout = entry.attr_timeout = KEPT_FOR
        return entry

    @_request
    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        return self._enter(Pinned(name, self._inodes[parent_inode]))

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for number, count in inode_list:
            if number in self._lookups:
                self._lookups[number] -= count
                if self._lookups[number] <= 0:
                    del self._lookups[number], self._inodes[number]

    @_request
    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        return self._attributes(inode, self._inodes[inode])

    @_request
    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        pinned = self._inodes[inode]
        if fields.update_size:
            self._truncate(pinned, attr.st_size)
        if fields.update_mode or fields.update_uid or fields.update_gid or fields.update_mtime or fields.update_atime:
            self._check("attributes", pinned)
        if fields.update_mode:
            pinned.path.chmod(stat.S_IMODE(attr.st_mode))
        if fields.update_uid or fields.update_gid:
            os.chown(pinned.path, attr.st_uid if fields.update_uid else -1, attr.st_gid if fields.update_gid else -1)
        if fields.update_atime or fields.update_mtime:
            found = pinned.stat()
            accessed = attr.st_atime_ns if fields.update_atime else found.st_atime_ns
            modified = attr.st_mtime_ns if fields.update_mtime else found.st_mtime_ns
            os.utime(pinned.path, ns=(accessed, modified))
        return self._attributes(inode, pinned)

    def _truncate(self, pinned: Pinned, length: int) -> None:
        self._check("truncate", pinned)
        self.faults.freed(max(0, pinned.stat().st_size - length))
        self.disk.truncate(pinned, length)

    @_request
    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        return os.fsencode(os.readlink("", dir_fd=self._inodes[inode].descriptor))

    @_request
    async def mknod(self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext) -> EntryAttributes:
        if not stat.S_ISREG(mode):
            raise FUSEError(errno.EPERM)
        return self._enter(self._make_file(parent_inode, name, mode & ~ctx.umask))

    def _make_file(self, parent: int, name: bytes, mode: int) -> Pinned:
        place = self._place(parent, name)
        self._check("create", place)
        return self.disk.create(place, mode)

    @_request
    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        place = self._place(parent_inode, name)
        self._check("mkdir", place)
        permissions = mode & ~ctx.umask
        self.disk.make(place, lambda made, at: os.mkdir(made, permissions, dir_fd=at), is_folder=True)
        return self._enter(Pinned(name, place.folder))

    @_request
    async def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        place = self._place(parent_inode, name)
        self._check("symlink", place)
        self.disk.make(place, lambda made, at: os.symlink(target, made, dir_fd=at))
        return self._enter(Pinned(name, place.folder))

    @_request
    async def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext) -> EntryAttributes:
        place = self._place(new_parent_inode, new_name)
        self._check("link", place)
        self.disk.link(self._inodes[inode], place)
        return self._enter(Pinned(new_name, place.folder))

    @_request
    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        place = self._place(parent_inode, name)
        self._check("unlink", place)
        self._free(place)
        self.disk.unlink(place)

    def _free(self, place: Place) -> None:
        """Free the space of a file that is about to lose its last name."""
        if place.exists() and stat.S_ISREG(place.stat().st_mode):
            pinned = Pinned(place.name, place.folder)
            if self.disk.links(pinned) == 1:
                self.faults.freed(pinned.stat().st_size)

    @_request
    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        place = self._place(parent_inode, name)
        self._check("rmdir", place)
        self.disk.rmdir(place)

    @_request
    async def rename(
        self, parent_inode_old: int, name_old: bytes, parent_inode_new: int, name_new: bytes, flags: int,
        ctx: RequestContext,
    ) -> None:  # fmt: skip
        source, target = self._place(parent_inode_old, name_old), self._place(parent_inode_new, name_new)
        self._check("rename", target)
        if flags & RENAME_EXCHANGE:
            self.disk.names.exchange(source, target)
            return
        self._free(target)
        self.disk.rename(source, target, replace=not flags & RENAME_NOREPLACE)

    @_request
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        pinned = self._inodes[inode]
        self._check("open", pinned)
        if flags & os.O_TRUNC:
            self._truncate(pinned, 0)
        return self._open(pinned)

    def _open(self, pinned: Pinned) -> FileInfo:
        handle = pinned.open(os.O_RDONLY)
        self._files[handle] = pinned
        # The kernel's pages are the only ones: kept over opens, or a shared mapping would lose its unwritten ones.
        return FileInfo(fh=handle, keep_cache=True)

    @_request
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        pinned = self._make_file(parent_inode, name, stat.S_IFREG | (mode & ~ctx.umask))
        entry = self._enter(pinned)
        return self._open(self._inodes[pinned.number]), entry

    @_request
    async def read(self, fh: int, off: int, size: int) -> bytes:
        self._check("read", self._files[fh])
        return os.pread(fh, size, off)

    @_request
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        pinned = self._files[fh]
        self._check("write", pinned)
        fits = self.faults.room(pinned.stat().st_size, off, len(buf))
        return self.disk.write(pinned, off, buf[:fits])

    @_request
    async def fsync(self, fh: int, datasync: bool) -> None:
        pinned = self._files[fh]
        try:
            self._check("fsync", pinned)
        except OSError:
            self.disk.sync_file_failed(pinned)
            raise
        self.disk.sync_file(pinned)

    async def release(self, fh: int) -> None:
        del self._files[fh]
        os.close(fh)

    @_request
    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        pinned = self._inodes[inode]
        handle = pinned.open(os.O_RDONLY | os.O_DIRECTORY)
        self._listings[handle] = (pinned, [os.fsencode(name) for name in os.listdir(handle)])
        return handle

    @_request
    async def readdir(self, fh: int, start_id: int, token: ReaddirToken) -> None:
        folder, names = self._listings[fh]
        for index in range(start_id, len(names)):
            try:
                pinned = Pinned(names[index], folder)
            except FileNotFoundError:
                continue
            entry = self._attributes(pinned.number, pinned)
            if not pyfuse3.readdir_reply(token, names[index], entry, index + 1):
                return
            self._enter(pinned)

    @_request
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        folder, _ = self._listings[fh]
        self._check("fsync-folder", folder)
        self.disk.sync_directory(folder)

    async def releasedir(self, fh: int) -> None:
        del self._listings[fh]
        os.close(fh)

    @_request
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        found, answer = os.fstatvfs(self.disk.root.descriptor), StatvfsData()
        for field in ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_favail"):
            setattr(answer, field, getattr(found, field))
        if self.faults.free is not None:
            answer.f_bfree = answer.f_bavail = self.faults.free // found.f_frsize
        answer.f_namemax = 255
        return answer
