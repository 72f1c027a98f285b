"""Types of the tree: kinds, attributes, directory entries, changes of attributes."""

import stat
from enum import IntEnum

import msgspec

from tgdav.ids import ContentTag, EntryId, Inode, NodeId

NAME_MAX = 255
"""Longest name in bytes."""
EARLIEST, LATEST = -(2**63), 2**63 - 1
"""The first and last time that 64 bits can hold, in ns since 1970: in the years 1677 and 2262."""


class Kind(IntEnum):
    """The kind of a node; the numbers are part of the log format."""

    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    FIFO = 4
    SOCKET = 5
    CHARACTER_DEVICE = 6
    BLOCK_DEVICE = 7


FORMATS = {
    Kind.FILE: stat.S_IFREG,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.FIFO: stat.S_IFIFO,
    Kind.SOCKET: stat.S_IFSOCK,
    Kind.CHARACTER_DEVICE: stat.S_IFCHR,
    Kind.BLOCK_DEVICE: stat.S_IFBLK,
}
"""The type bits of ``st_mode`` for each kind."""
_BITS = (0, *(FORMATS[kind] for kind in sorted(Kind)))

# Reading a member of an enumeration takes a quarter of a microsecond, and every request reads several.
FILE, DIRECTORY, SYMLINK = Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK


class Attributes(msgspec.Struct, frozen=True, gc=False):
    """A node's attributes. Times in ns since 1970, size in bytes, mode without type bits, ``dirty`` counts unflushed writes."""

    inode: Inode
    node: NodeId
    kind: Kind
    mode: int
    uid: int
    gid: int
    rdev: int
    nlink: int
    size: int
    atime: int
    mtime: int
    ctime: int
    btime: int
    tag: ContentTag | None
    dirty: int
    local: bool

    @property
    def is_directory(self) -> bool:
        """Whether the node is a directory."""
        return self.kind == DIRECTORY

    @property
    def is_file(self) -> bool:
        """Whether the node is a regular file."""
        return self.kind == FILE

    @property
    def st_mode(self) -> int:
        """Type and permission bits as in ``stat``."""
        return _BITS[self.kind] | self.mode


class DirectoryEntry(msgspec.Struct, frozen=True, gc=False):
    """A name in a directory, and the attributes of the node that it names."""

    name: bytes
    entry: EntryId
    attributes: Attributes


class Listed(msgspec.Struct, frozen=True, gc=False):
    """The part of an entry that long listings show; reading all attributes would take twice as long."""

    name: bytes
    inode: Inode
    kind: Kind
    size: int
    mtime: int
    btime: int
    tag: ContentTag | None
    dirty: int


def listed(name: bytes, attributes: Attributes) -> Listed:
    """Return the listing entry of a node with that name."""
    a = attributes
    return Listed(name, a.inode, a.kind, a.size, a.mtime, a.btime, a.tag, a.dirty)


def nearest_time(time: int) -> int:
    """Return the time nearest to ``time`` that can be stored, both in ns since 1970."""
    return min(max(time, EARLIEST), LATEST)


class AttributeChange(msgspec.Struct, frozen=True, gc=False):
    """Attributes to set; None leaves one unchanged. ``atime`` is never logged."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    atime: int | None = None
    mtime: int | None = None
    ctime: int | None = None
    btime: int | None = None
    size: int | None = None

    def clamped(self) -> "AttributeChange":
        """Return the change with each time replaced by the nearest that can be stored."""
        for time in (self.atime, self.mtime, self.ctime, self.btime):
            if time is not None and not EARLIEST <= time <= LATEST:
                return self._with_nearest_times()
        return self

    def _with_nearest_times(self) -> "AttributeChange":
        times = {"atime": self.atime, "mtime": self.mtime, "ctime": self.ctime, "btime": self.btime}
        nearest = {name: nearest_time(time) for name, time in times.items() if time is not None}
        return msgspec.structs.replace(self, **nearest)
