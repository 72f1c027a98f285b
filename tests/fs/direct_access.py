"""The file system reached by its own calls."""

from collections.abc import Mapping

from tests.fs.access import Ability, OpenFile, Status
from tgdav.errors import Exists, FileSystemError
from tgdav.fs.api import FileHandle, FileSystem, Owner, Precondition, RenameFlag, XattrFlag
from tgdav.ids import Inode
from tgdav.metadata.types import AttributeChange, Attributes, Kind

OWNER = Owner(1000, 100)


class DirectFile:
    """An open handle, with what its node shows."""

    def __init__(self, file_system: FileSystem, handle: FileHandle) -> None:
        self._file_system = file_system
        self._handle = handle

    def read(self, offset: int, length: int) -> bytes:
        return self._handle.read(offset, length)

    def write(self, offset: int, data: bytes) -> int:
        return self._handle.write(offset, data)

    def append(self, data: bytes) -> int:
        return self._handle.write(0, data, append=True)

    def truncate(self, size: int) -> None:
        self._handle.truncate(size)

    def fsync(self) -> None:
        self._handle.fsync()

    def status(self) -> Status:
        return _status(self._file_system.attributes(self._handle.inode))

    def close(self) -> None:
        self._handle.close()


class DirectAccess:
    """Paths over a ``FileSystem``. Finds names by bytes alone, or by NFC too (``normalized``)."""

    def __init__(self, file_system: FileSystem, *, normalized: bool = False) -> None:
        self.abilities = abilities(normalized=normalized)
        self._file_system = file_system
        self._normalized = normalized

    def write_file(self, path: bytes, data: bytes) -> None:
        self._upload(path, data, lambda _before: None)

    def create_file(self, path: bytes, data: bytes) -> None:
        def is_new(before: Attributes | None) -> None:
            if before:
                raise Exists

        self._upload(path, data, is_new)

    def replace_if(self, path: bytes, tag: bytes, data: bytes) -> None:
        def has_tag(before: Attributes | None) -> None:
            if before is None or before.tag != tag:
                raise FileSystemError("another content")

        self._upload(path, data, has_tag)

    def read_file(self, path: bytes) -> bytes:
        return self.read_range(path, 0, self._find(path).size)

    def read_range(self, path: bytes, offset: int, length: int) -> bytes:
        handle = self._file_system.open(self._inode(path))
        try:
            return handle.read(offset, length)
        finally:
            handle.close()

    def tag(self, path: bytes) -> bytes:
        return self._find(path).tag or b""

    def mkdir(self, path: bytes) -> None:
        self._file_system.create(*self._place(path), Kind.DIRECTORY, 0o755, OWNER)

    def rmdir(self, path: bytes) -> None:
        self._file_system.remove_directory(*self._place(path))

    def unlink(self, path: bytes) -> None:
        self._file_system.unlink(*self._place(path))

    def remove_tree(self, path: bytes) -> None:
        self._file_system.remove_tree(*self._place(path))

    def rename(self, old: bytes, new: bytes, flags: RenameFlag = RenameFlag.NONE) -> None:
        self._file_system.rename(*self._place(old), *self._place(new), flags=flags)

    def replace_tree(self, old: bytes, new: bytes) -> bool:
        return self._file_system.rename(*self._place(old), *self._place(new), replace_tree=True)

    def copy(self, old: bytes, new: bytes, *, recursive: bool = True, replace: bool = False) -> bool:
        place = self._place(new)
        return self._file_system.copy(self._inode(old), *place, recursive=recursive, replace=replace)[1]

    def listdir(self, path: bytes) -> list[bytes]:
        return [entry.name for entry in self._file_system.list_directory(self._inode(path))]

    def status(self, path: bytes) -> Status:
        return _status(self._find(path))

    def link(self, old: bytes, new: bytes) -> None:
        self._file_system.link(self._inode(old), *self._place(new))

    def symlink(self, target: bytes, path: bytes) -> None:
        self._file_system.create(*self._place(path), Kind.SYMLINK, 0o777, OWNER, target=target)

    def readlink(self, path: bytes) -> bytes:
        return self._file_system.read_link(self._inode(path))

    def make_special(self, path: bytes, kind: Kind, rdev: int = 0) -> None:
        self._file_system.create(*self._place(path), kind, 0o644, OWNER, rdev=rdev)

    def set_attributes(self, path: bytes, change: AttributeChange) -> None:
        self._file_system.set_attributes(self._inode(path), change)

    def get_xattr(self, path: bytes, name: bytes) -> bytes:
        return self._file_system.get_xattr(self._inode(path), name)

    def set_xattr(self, path: bytes, name: bytes, value: bytes, flags: XattrFlag = XattrFlag.NONE) -> None:
        self._file_system.set_xattr(self._inode(path), name, value, flags=flags)

    def list_xattrs(self, path: bytes) -> list[bytes]:
        return self._file_system.list_xattrs(self._inode(path))

    def remove_xattr(self, path: bytes, name: bytes) -> None:
        self._file_system.remove_xattr(self._inode(path), name)

    def properties(self, path: bytes) -> dict[bytes, bytes]:
        inode = self._inode(path)
        return self._file_system.properties([inode]).get(inode, {})

    def set_properties(self, path: bytes, values: Mapping[bytes, bytes | None]) -> None:
        self._file_system.set_properties(self._inode(path), values)

    def open(self, path: bytes, *, writable: bool = False, truncate: bool = False) -> OpenFile:
        handle = self._file_system.open(self._inode(path), writable=writable, truncate=truncate)
        return DirectFile(self._file_system, handle)

    def _find(self, path: bytes) -> Attributes:
        names = path.split(b"/") if path else []
        return self._file_system.resolve(names, normalized=self._normalized)

    def _inode(self, path: bytes) -> Inode:
        return self._find(path).inode

    def _place(self, path: bytes) -> tuple[Inode, bytes]:
        """Return the directory and the name in it."""
        above, _, name = path.rpartition(b"/")
        return self._inode(above), name

    def _upload(self, path: bytes, data: bytes, precondition: Precondition) -> None:
        parent, name = self._place(path)
        with self._file_system.upload(parent, name, owner=OWNER, normalized=self._normalized) as upload:
            upload.write(data)
            upload.commit(precondition=precondition)


def abilities(*, normalized: bool) -> frozenset[Ability]:
    """Return what the file system's own calls express: all but the other way to find names."""
    return frozenset(Ability) - {Ability.EXACT_NAMES if normalized else Ability.NORMALIZED_NAMES}


def _status(attributes: Attributes) -> Status:
    return Status(
        kind=attributes.kind,
        size=attributes.size,
        mtime=attributes.mtime,
        mode=attributes.mode,
        uid=attributes.uid,
        gid=attributes.gid,
        nlink=attributes.nlink,
        atime=attributes.atime,
        ctime=attributes.ctime,
        rdev=attributes.rdev,
        identity=attributes.inode,
    )
