"""What the behaviour suite asks of a way to reach a file system: directly, over WebDAV, through a mount.

Paths are bytes without a leading slash; ``b""`` is the root. A refusal is raised as the class of ``tgdav.errors`` that
says what happened, or as plain ``FileSystemError`` where the way in between cannot tell.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

import pytest

from tgdav.errors import FileSystemError
from tgdav.fs.api import RenameFlag, XattrFlag
from tgdav.metadata.types import AttributeChange, Kind


class Ability(Enum):
    """Something that not every access can express."""

    HARD_LINKS = auto()
    SYMLINKS = auto()
    SPECIAL_FILES = auto()
    MODES = auto()
    OWNERS = auto()
    TIMES = auto()
    """Times can be set."""
    CHANGE_TIME = auto()
    """ctime is shown."""
    TRUNCATE = auto()
    HUGE_FILES = auto()
    """Sizes up to 10^15."""
    XATTRS = auto()
    PROPERTIES = auto()
    TAGS = auto()
    """Contents have tags, and a file can be replaced on condition of one."""
    COPY = auto()
    REPLACE_TREE = auto()
    """Moves can replace anything, full directories too."""
    POSIX_RENAME = auto()
    """A rename refuses to replace what rename(2) does."""
    POSIX_REMOVE = auto()
    """Removing a directory and removing a file are two calls, and full directories are refused."""
    NO_REPLACE = auto()
    EXCHANGE = auto()
    HANDLES = auto()
    RAW_NAMES = auto()
    """Names that are not UTF-8 are given and shown as they are."""
    EXACT_NAMES = auto()
    """Names are distinguished by their bytes only."""
    NORMALIZED_NAMES = auto()
    """Names are found by Unicode NFC too."""
    RESERVED_NAMES = auto()
    """The reserved names of the root are refused."""


@dataclass(frozen=True)
class Status:
    """What is shown of a node. Times in ns; what an access cannot tell stays 0."""

    kind: Kind
    size: int
    mtime: int
    mode: int = 0
    uid: int = 0
    gid: int = 0
    nlink: int = 0
    atime: int = 0
    ctime: int = 0
    rdev: int = 0
    identity: int = 0


class OpenFile(Protocol):
    """An open file (``Ability.HANDLES``)."""

    def read(self, offset: int, length: int) -> bytes: ...
    def write(self, offset: int, data: bytes) -> int: ...
    def append(self, data: bytes) -> int: ...
    def truncate(self, size: int) -> None: ...
    def fsync(self) -> None: ...
    def status(self) -> Status: ...
    def close(self) -> None: ...


class Access(Protocol):
    """A way to reach a file system, by paths."""

    abilities: frozenset[Ability]

    def write_file(self, path: bytes, data: bytes) -> None:
        """Make ``data`` the file's content, creating it if needed."""

    def create_file(self, path: bytes, data: bytes) -> None:
        """Make a new file. Raises Exists."""

    def replace_if(self, path: bytes, tag: bytes, data: bytes) -> None:
        """Replace content that has ``tag``. Raises FileSystemError otherwise (TAGS)."""

    def read_file(self, path: bytes) -> bytes: ...
    def read_range(self, path: bytes, offset: int, length: int) -> bytes: ...
    def tag(self, path: bytes) -> bytes: ...
    def mkdir(self, path: bytes) -> None: ...
    def rmdir(self, path: bytes) -> None: ...
    def unlink(self, path: bytes) -> None: ...
    def remove_tree(self, path: bytes) -> None: ...
    def rename(self, old: bytes, new: bytes, flags: RenameFlag = RenameFlag.NONE) -> None: ...
    def replace_tree(self, old: bytes, new: bytes) -> bool: ...
    def copy(self, old: bytes, new: bytes, *, recursive: bool = True, replace: bool = False) -> bool: ...
    def listdir(self, path: bytes) -> list[bytes]: ...
    def status(self, path: bytes) -> Status: ...
    def link(self, old: bytes, new: bytes) -> None: ...
    def symlink(self, target: bytes, path: bytes) -> None: ...
    def readlink(self, path: bytes) -> bytes: ...
    def make_special(self, path: bytes, kind: Kind, rdev: int = 0) -> None: ...
    def set_attributes(self, path: bytes, change: AttributeChange) -> None: ...
    def get_xattr(self, path: bytes, name: bytes) -> bytes: ...
    def set_xattr(self, path: bytes, name: bytes, value: bytes, flags: XattrFlag = XattrFlag.NONE) -> None: ...
    def list_xattrs(self, path: bytes) -> list[bytes]: ...
    def remove_xattr(self, path: bytes, name: bytes) -> None: ...
    def properties(self, path: bytes) -> dict[bytes, bytes]: ...
    def set_properties(self, path: bytes, values: Mapping[bytes, bytes | None]) -> None: ...
    def open(self, path: bytes, *, writable: bool = False, truncate: bool = False) -> OpenFile: ...


@contextmanager
def refused(*kinds: type[FileSystemError]) -> Iterator[None]:
    """Expect a refusal of one of ``kinds``, or one whose kind the access could not tell."""
    with pytest.raises(FileSystemError) as caught:
        yield
    assert caught.type is FileSystemError or issubclass(caught.type, kinds)
