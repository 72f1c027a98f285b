"""A file system reached through the kernel (Linux): a mount, or an ordinary directory."""
# pathlib knows no names in bytes.
# ruff: noqa: PTH101, PTH102, PTH106, PTH115

import ctypes
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.fs.access import Ability, OpenFile, Status
from tgdav.errors import FileSystemError
from tgdav.fs.api import RenameFlag, XattrFlag
from tgdav.metadata.types import FORMATS, AttributeChange, Kind

ERRORS = {kind.errno: kind for kind in FileSystemError.__subclasses__()}
KINDS = {bits: kind for kind, bits in FORMATS.items()}
CURRENT_FOLDER = -100
RENAME_BITS = {RenameFlag.NO_REPLACE: 1, RenameFlag.EXCHANGE: 2, RenameFlag.WHITEOUT: 4}
XATTR_BITS = {XattrFlag.NONE: 0, XattrFlag.CREATE: os.XATTR_CREATE, XattrFlag.REPLACE: os.XATTR_REPLACE}
LIBRARY = ctypes.CDLL(None, use_errno=True)

NOT_IN_POSIX = frozenset(
    {
        Ability.PROPERTIES,
        Ability.TAGS,
        Ability.COPY,
        Ability.REPLACE_TREE,
        Ability.NORMALIZED_NAMES,
    }
)
"""What system calls do not express."""


@contextmanager
def translated() -> Iterator[None]:
    """Raise the kernel's refusals as ours."""
    try:
        yield
    except OSError as error:
        kind = ERRORS.get(error.errno or 0)
        if kind is None:
            raise
        raise kind from error


class MountedFile:
    """An open file descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._open = True

    def read(self, offset: int, length: int) -> bytes:
        with translated():
            return os.pread(self._number(), length, offset)

    def write(self, offset: int, data: bytes) -> int:
        with translated():
            return os.pwrite(self._number(), data, offset)

    def append(self, data: bytes) -> int:
        with translated():
            return os.pwritev(self._number(), [data], 0, os.RWF_APPEND)

    def truncate(self, size: int) -> None:
        with translated():
            os.ftruncate(self._number(), size)

    def fsync(self) -> None:
        with translated():
            os.fsync(self._number())

    def status(self) -> Status:
        with translated():
            return _status(os.fstat(self._number()))

    def close(self) -> None:
        if self._open:
            self._open = False
            with translated():
                os.close(self._descriptor)

    def _number(self) -> int:
        """Return the descriptor; once closed, one that the kernel refuses, for the number may be another file's."""
        return self._descriptor if self._open else -1


class MountedAccess:
    """Paths below a folder, by system calls. ``lacks`` names what this file system does not have."""

    def __init__(self, folder: Path, *, lacks: frozenset[Ability] = frozenset()) -> None:
        self.abilities = frozenset(Ability) - NOT_IN_POSIX - lacks
        self._folder = os.fsencode(folder)

    def write_file(self, path: bytes, data: bytes) -> None:
        self._write(path, data, os.O_TRUNC)

    def create_file(self, path: bytes, data: bytes) -> None:
        self._write(path, data, os.O_EXCL)

    def read_file(self, path: bytes) -> bytes:
        with translated(), open(self._at(path), "rb") as file:
            return file.read()

    def read_range(self, path: bytes, offset: int, length: int) -> bytes:
        with translated(), open(self._at(path), "rb") as file:
            file.seek(offset)
            return file.read(length)

    def mkdir(self, path: bytes) -> None:
        with translated():
            os.mkdir(self._at(path))

    def rmdir(self, path: bytes) -> None:
        with translated():
            os.rmdir(self._at(path))

    def unlink(self, path: bytes) -> None:
        with translated():
            os.unlink(self._at(path))

    def remove_tree(self, path: bytes) -> None:
        if self.status(path).kind == Kind.DIRECTORY:
            with translated():
                shutil.rmtree(self._at(path))
        else:
            self.unlink(path)

    def rename(self, old: bytes, new: bytes, flags: RenameFlag = RenameFlag.NONE) -> None:
        bits = sum(RENAME_BITS[flag] for flag in flags)
        with translated():
            if LIBRARY.renameat2(CURRENT_FOLDER, self._at(old), CURRENT_FOLDER, self._at(new), bits):
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))

    def listdir(self, path: bytes) -> list[bytes]:
        with translated():
            return sorted(os.listdir(self._at(path)))

    def status(self, path: bytes) -> Status:
        with translated():
            return _status(os.lstat(self._at(path)))

    def link(self, old: bytes, new: bytes) -> None:
        with translated():
            os.link(self._at(old), self._at(new), follow_symlinks=False)

    def symlink(self, target: bytes, path: bytes) -> None:
        with translated():
            os.symlink(target, self._at(path))

    def readlink(self, path: bytes) -> bytes:
        with translated():
            return os.readlink(self._at(path))

    def make_special(self, path: bytes, kind: Kind, rdev: int = 0) -> None:
        with translated():
            os.mknod(self._at(path), FORMATS[kind] | 0o644, rdev)

    def set_attributes(self, path: bytes, change: AttributeChange) -> None:
        where = self._at(path)
        with translated():
            if change.size is not None:
                os.truncate(where, change.size)
            if change.uid is not None or change.gid is not None:
                os.chown(where, -1 if change.uid is None else change.uid, -1 if change.gid is None else change.gid)
            if change.mode is not None:
                os.chmod(where, change.mode)
            if change.atime is not None or change.mtime is not None:
                now = os.stat(where)
                atime = now.st_atime_ns if change.atime is None else change.atime
                os.utime(where, ns=(atime, now.st_mtime_ns if change.mtime is None else change.mtime))

    def get_xattr(self, path: bytes, name: bytes) -> bytes:
        with translated():
            return os.getxattr(self._at(path), name, follow_symlinks=False)

    def set_xattr(self, path: bytes, name: bytes, value: bytes, flags: XattrFlag = XattrFlag.NONE) -> None:
        with translated():
            os.setxattr(self._at(path), name, value, XATTR_BITS[flags], follow_symlinks=False)

    def list_xattrs(self, path: bytes) -> list[bytes]:
        with translated():
            return sorted(os.fsencode(name) for name in os.listxattr(self._at(path), follow_symlinks=False))

    def remove_xattr(self, path: bytes, name: bytes) -> None:
        with translated():
            os.removexattr(self._at(path), name, follow_symlinks=False)

    def open(self, path: bytes, *, writable: bool = False, truncate: bool = False) -> OpenFile:
        flags = (os.O_RDWR if writable else os.O_RDONLY) | (os.O_TRUNC if truncate else 0)
        with translated():
            return MountedFile(os.open(self._at(path), flags))

    def replace_if(self, path: bytes, tag: bytes, data: bytes) -> None:
        raise _unsupported()

    def tag(self, path: bytes) -> bytes:
        raise _unsupported()

    def replace_tree(self, old: bytes, new: bytes) -> bool:
        raise _unsupported()

    def copy(self, old: bytes, new: bytes, *, recursive: bool = True, replace: bool = False) -> bool:
        raise _unsupported()

    def properties(self, path: bytes) -> dict[bytes, bytes]:
        raise _unsupported()

    def set_properties(self, path: bytes, values: Mapping[bytes, bytes | None]) -> None:
        raise _unsupported()

    def _at(self, path: bytes) -> bytes:
        return os.path.join(self._folder, path) if path else self._folder

    def _write(self, path: bytes, data: bytes, flag: int) -> None:
        with translated():
            descriptor = os.open(self._at(path), os.O_WRONLY | os.O_CREAT | flag, 0o644)
            with open(descriptor, "wb") as file:
                file.write(data)


def _unsupported() -> AssertionError:
    return AssertionError("an ability that no system call expresses; the behaviour should have been left out")


def _status(found: os.stat_result) -> Status:
    return Status(
        kind=KINDS[stat.S_IFMT(found.st_mode)],
        size=found.st_size,
        mtime=found.st_mtime_ns,
        mode=stat.S_IMODE(found.st_mode),
        uid=found.st_uid,
        gid=found.st_gid,
        nlink=found.st_nlink,
        atime=found.st_atime_ns,
        ctime=found.st_ctime_ns,
        rdev=found.st_rdev,
        identity=found.st_ino,
    )
