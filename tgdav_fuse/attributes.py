"""Attributes, translated into the kernel's form and back. Pure."""

import stat
import zlib
from collections.abc import Callable

import msgspec
import pyfuse3

from tgdav.fs.api import HISTORY_INODES, Capacity
from tgdav.metadata.types import NAME_MAX, AttributeChange, Attributes

TIMEOUT = 3600.0
"""Seconds for which the kernel may cache names and attributes. Every change of another program invalidates them."""

BLOCK = 4096

HISTORY_TIMEOUT = 1.0
"""The same for history: it changes with the live tree, and nobody reports what has changed in it."""

WRITTEN_TIMEOUT = 1.0
"""The same for the attributes of a file that is being written, because its blocks grow."""
WRITTEN_BLOCKS = BLOCK // 512
"""Fewest blocks, of 512 bytes, of a file that is being written: programs skip a file of no blocks as one hole."""


SET_ID = stat.S_ISUID | stat.S_ISGID


class Presentation(msgspec.Struct, frozen=True):
    """The owner that all files appear to have; None leaves the real one.

    ``root_as`` is the user and group that mounted. Root's files (the root directory of a new vault, and all that was created
    over WebDAV) appear as theirs; otherwise they could not change them.
    """

    uid: int | None = None
    gid: int | None = None
    root_as: tuple[int, int] = (0, 0)


class Translator:
    """Makes the kernel's entries, with each inode's generation.

    A new generation makes the kernel drop the inode with everything that it has cached of it.
    """

    def __init__(self, presentation: Presentation, allocated: Callable[[Attributes], int]) -> None:
        self._presentation, self._allocated = presentation, allocated
        self._generations: dict[int, int] = {}

    def renew(self, inode: int) -> None:
        """Give ``inode`` a new generation, which the next lookup returns."""
        self._generations[inode] = self._generations.get(inode, 0) + 1

    def group_of(self, node: Attributes) -> int:
        """Return the group that a node appears to have."""
        return (node.gid or self._presentation.root_as[1]) if self._presentation.gid is None else self._presentation.gid

    def entry(self, node: Attributes, *, is_written: bool = False) -> pyfuse3.EntryAttributes:
        """Return a node's attributes for the kernel. ``is_written``: the kernel may hold writes that are not counted yet."""
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = node.inode
        entry.generation = self._generations.get(node.inode, 0)
        entry.entry_timeout = entry.attr_timeout = TIMEOUT
        entry.st_mode, entry.st_nlink, entry.st_rdev = node.st_mode, node.nlink, node.rdev
        presentation = self._presentation
        entry.st_uid = (node.uid or presentation.root_as[0]) if presentation.uid is None else presentation.uid
        entry.st_gid = self.group_of(node)
        blocks = (self._allocated(node) + 511) // 512
        if is_written:
            entry.attr_timeout, blocks = WRITTEN_TIMEOUT, max(blocks, WRITTEN_BLOCKS)
        entry.st_size, entry.st_blksize, entry.st_blocks = node.size, BLOCK, blocks
        entry.st_atime_ns, entry.st_mtime_ns, entry.st_ctime_ns = node.atime, node.mtime, node.ctime
        if node.inode >= HISTORY_INODES:
            entry.entry_timeout = entry.attr_timeout = HISTORY_TIMEOUT
            # With a writeback cache the kernel never takes a new size for a file that it knows (a burst of saves changes the
            # latest version); another generation makes it another file.
            entry.generation = zlib.crc32(node.tag or b"", node.mtime & 0xFFFFFFFF)
        return entry

    def gone_entry(self, inode: int) -> pyfuse3.EntryAttributes:
        """Return the reply about a node that no longer exists. The kernel must not cache it."""
        entry = pyfuse3.EntryAttributes()
        entry.st_ino, entry.st_mode, entry.st_nlink = inode, stat.S_IFREG, 0
        entry.entry_timeout = entry.attr_timeout = 0
        return entry

    def negative_entry(self, parent: int) -> pyfuse3.EntryAttributes:
        """Return the reply for a name that does not exist in ``parent``, which the kernel caches like an entry."""
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = 0
        entry.entry_timeout = HISTORY_TIMEOUT if parent >= HISTORY_INODES else TIMEOUT
        return entry


def without_set_id(node: Attributes) -> int:
    """Return the mode of a file after a write or a change of owner, as Linux clears it (file_remove_privs)."""
    mode = node.mode & ~stat.S_ISUID
    if mode & stat.S_IXGRP:  # without it, setgid means mandatory locking
        mode &= ~stat.S_ISGID
    return mode


def requested(attr: pyfuse3.EntryAttributes, fields: pyfuse3.SetattrFields) -> AttributeChange:
    """Return the changes that a setattr requests, without the size."""
    return AttributeChange(
        mode=stat.S_IMODE(attr.st_mode) if fields.update_mode else None,
        uid=attr.st_uid if fields.update_uid else None,
        gid=attr.st_gid if fields.update_gid else None,
        atime=attr.st_atime_ns if fields.update_atime else None,
        mtime=attr.st_mtime_ns if fields.update_mtime else None,
        ctime=attr.st_ctime_ns if fields.update_ctime else None,
    )


def is_from_program(fields: pyfuse3.SetattrFields) -> bool:
    """Return whether a program certainly made the request. Of its own accord the kernel sends only mtime and ctime."""
    owner = fields.update_uid or fields.update_gid
    return bool(owner or fields.update_mode or fields.update_size or fields.update_atime)


def statvfs(capacity: Capacity) -> pyfuse3.StatvfsData:
    """Return the reply to statfs."""
    data = pyfuse3.StatvfsData()
    data.f_bsize = data.f_frsize = BLOCK
    free = capacity.free // BLOCK
    # Inodes are not limited, but programs expect a number.
    data.f_blocks = max(capacity.total // BLOCK, free)
    data.f_bfree = data.f_bavail = free
    data.f_files = capacity.files + free
    data.f_ffree = data.f_favail = free
    data.f_namemax = NAME_MAX
    return data
