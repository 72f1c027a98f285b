"""Attributes, from our form to the kernel's and back. Pure."""

import stat
from collections.abc import Callable

import msgspec
import pyfuse3

from tgdav.fs.api import Capacity
from tgdav.metadata.types import NAME_MAX, AttributeChange, Attributes

TIMEOUT = 3600.0
"""Seconds that the kernel keeps names and attributes: this process owns the vault, and tells it of every change."""

BLOCK = 4096

WRITTEN_TIMEOUT = 1.0
"""Seconds that the kernel keeps the attributes of a file that is being written: how much of it lies here grows."""
WRITTEN_BLOCKS = BLOCK // 512
"""Least blocks, of 512 bytes, of a file that is being written: programs take one of no blocks for a hole, and do not read it."""


SET_ID = stat.S_ISUID | stat.S_ISGID


class Presentation(msgspec.Struct, frozen=True):
    """Who all files seem to belong to; None shows the real owner.

    ``root_as`` is the user and group who mounted, if that was not root: what belongs to root (the root folder of a new vault,
    and all that came over WebDAV) is shown as theirs, or they could not change it.
    """

    uid: int | None = None
    gid: int | None = None
    root_as: tuple[int, int] = (0, 0)


class Translator:
    """Fills the kernel's entries; remembers each inode's generation.

    A new generation makes the kernel drop the inode it had, with all that it kept of it.
    """

    def __init__(self, shown: Presentation, allocated: Callable[[Attributes], int]) -> None:
        self._shown, self._allocated = shown, allocated
        self._generations: dict[int, int] = {}

    def renew(self, inode: int) -> None:
        """Give ``inode`` a new generation from the next look-up on."""
        self._generations[inode] = self._generations.get(inode, 0) + 1

    def group_of(self, node: Attributes) -> int:
        """Return the group that a node is shown with."""
        return (node.gid or self._shown.root_as[1]) if self._shown.gid is None else self._shown.gid

    def entry(self, node: Attributes, *, is_written: bool = False) -> pyfuse3.EntryAttributes:
        """Return a node's attributes for the kernel, which may have a file's last writes yet if it ``is_written``."""
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = node.inode
        entry.generation = self._generations.get(node.inode, 0)
        entry.entry_timeout = entry.attr_timeout = TIMEOUT
        entry.st_mode, entry.st_nlink, entry.st_rdev = node.st_mode, node.nlink, node.rdev
        shown = self._shown
        entry.st_uid = (node.uid or shown.root_as[0]) if shown.uid is None else shown.uid
        entry.st_gid = self.group_of(node)
        blocks = (self._allocated(node) + 511) // 512
        if is_written:
            entry.attr_timeout, blocks = WRITTEN_TIMEOUT, max(blocks, WRITTEN_BLOCKS)
        entry.st_size, entry.st_blksize, entry.st_blocks = node.size, BLOCK, blocks
        entry.st_atime_ns, entry.st_mtime_ns, entry.st_ctime_ns = node.atime, node.mtime, node.ctime
        return entry

    def gone(self, inode: int) -> pyfuse3.EntryAttributes:
        """Return the answer about a node that nobody can see any more."""
        entry = pyfuse3.EntryAttributes()
        entry.st_ino, entry.st_mode, entry.st_nlink = inode, stat.S_IFREG, 0
        entry.entry_timeout = entry.attr_timeout = 0
        return entry

    def nothing(self) -> pyfuse3.EntryAttributes:
        """Return the answer for a name that is not there, which the kernel may remember too."""
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = 0
        entry.entry_timeout = TIMEOUT
        return entry


def without_set_id(node: Attributes) -> int:
    """Return the mode that is left when someone writes to the file or its owner changes."""
    mode = node.mode & ~stat.S_ISUID
    if mode & stat.S_IXGRP:
        mode &= ~stat.S_ISGID
    return mode


def asked(attr: pyfuse3.EntryAttributes, fields: pyfuse3.SetattrFields) -> AttributeChange:
    """Return what a setattr asks for, its size left out."""
    return AttributeChange(
        mode=stat.S_IMODE(attr.st_mode) if fields.update_mode else None,
        uid=attr.st_uid if fields.update_uid else None,
        gid=attr.st_gid if fields.update_gid else None,
        atime=attr.st_atime_ns if fields.update_atime else None,
        mtime=attr.st_mtime_ns if fields.update_mtime else None,
        ctime=attr.st_ctime_ns if fields.update_ctime else None,
    )


def asked_by_a_program(fields: pyfuse3.SetattrFields) -> bool:
    """Whether a program asked for sure: the kernel writes mtime and ctime of regular files back by itself, and no more."""
    owner = fields.update_uid or fields.update_gid
    return bool(owner or fields.update_mode or fields.update_size or fields.update_atime)


def space(capacity: Capacity) -> pyfuse3.StatvfsData:
    """Return what statvfs tells of space and counts."""
    found = pyfuse3.StatvfsData()
    found.f_bsize = found.f_frsize = BLOCK
    free = capacity.free // BLOCK
    found.f_blocks = max(capacity.total // BLOCK, free)
    found.f_bfree = found.f_bavail = free
    found.f_files = capacity.files + free
    found.f_ffree = found.f_favail = free
    found.f_namemax = NAME_MAX
    return found
