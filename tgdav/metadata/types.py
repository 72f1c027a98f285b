"""What the tree shows of itself: kinds, attributes, entries."""

import stat
from enum import IntEnum

import msgspec

from tgdav.ids import ContentTag, EntryId, Inode, NodeId

NAME_MAX = 255
"""Longest name in bytes."""
EARLIEST, LATEST = -(2**63), 2**63 - 1
"""The first and the last time that can be kept, ns since 1970: in the years 1677 and 2262."""


class Kind(IntEnum):
    """What a node is; the numbers stand in the log."""

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

# To look a member of an enumeration up by its name takes a quarter of a microsecond, and each request wants some.
FILE, DIRECTORY, SYMLINK = Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK


class Attributes(msgspec.Struct, frozen=True, gc=False):
    """A node as it is now. Times in ns since 1970 UTC, size in bytes, mode without type bits."""

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
        """Whether the node is a folder."""
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
    """A name in a folder and what it names."""

    name: bytes
    entry: EntryId
    attributes: Attributes


class Listed(msgspec.Struct, frozen=True, gc=False):
    """What long listings tell of an entry: of everything else, reading costs more than showing what is here."""

    name: bytes
    inode: Inode
    kind: Kind
    size: int
    mtime: int
    btime: int
    tag: ContentTag | None
    dirty: int


def listed(name: bytes, attributes: Attributes) -> Listed:
    """Return what a listing tells of a node under that name."""
    a = attributes
    return Listed(name, a.inode, a.kind, a.size, a.mtime, a.btime, a.tag, a.dirty)


def nearest_time(time: int) -> int:
    """Return the time that can be kept and is nearest to ``time``, both in ns since 1970."""
    return min(max(time, EARLIEST), LATEST)


class AttributeChange(msgspec.Struct, frozen=True, gc=False):
    """Attributes to set; None leaves one as it is. ``atime`` stays on this machine."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    atime: int | None = None
    mtime: int | None = None
    ctime: int | None = None
    btime: int | None = None
    size: int | None = None

    def keepable(self) -> "AttributeChange":
        """Return the change with each time brought to the nearest that can be kept."""
        for time in (self.atime, self.mtime, self.ctime, self.btime):
            if time is not None and not EARLIEST <= time <= LATEST:
                return self._with_nearest_times()
        return self

    def _with_nearest_times(self) -> "AttributeChange":
        times = {"atime": self.atime, "mtime": self.mtime, "ctime": self.ctime, "btime": self.btime}
        nearest = {name: nearest_time(time) for name, time in times.items() if time is not None}
        return msgspec.structs.replace(self, **nearest)
