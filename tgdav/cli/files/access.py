"""What the commands that work with files need of the drive, and how an open volume provides it."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from tgdav.errors import InvalidArgument, NotFound, UsageError
from tgdav.fs.api import UMASK, Owner
from tgdav.ids import Inode
from tgdav.metadata.types import SYMLINK, AttributeChange, Attributes, Kind

if TYPE_CHECKING:
    # It imports the database, which commands beside a running server do not need.
    from tgdav.volume.volume import Volume

BLOCK_BYTES = 1 << 20
"""How much of a file is read, sent and kept in memory at once."""

Write = Callable[[bytes], object]
"""Takes the next bytes of a file's content."""


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A name in the drive. ``mode`` without type bits, ``mtime`` in ns since 1970, ``target`` only of a symlink."""

    path: bytes
    kind: Kind
    mode: int
    size: int
    mtime: int
    target: bytes = b""


class NewAttributes(msgspec.Struct, frozen=True):
    """The attributes of what is put into the drive. None: the default mode, the present time."""

    owner: Owner
    mode: int | None = None
    mtime: int | None = None


class Files(Protocol):
    """The drive, as it is now or was in a snapshot. Paths are bytes that begin with ``/``; symlinks are not followed.

    Each call raises NotFound, NotADirectory, NameTooLong and InvalidArgument for a path, UsageError if there is no such snapshot,
    and VaultInUse if the process that has the vault open stops. Thread-safe.
    """

    def cancel(self) -> None:
        """Let the calls of other threads that wait for the store, or for the process that has the vault open, fail soon."""
        ...

    def entry(self, path: bytes) -> Entry:
        """Return what a path names."""
        ...

    def walk(self, path: bytes, depth: int | None = None) -> Generator[Entry, None, None]:
        """Yield what ``path`` names, and then, if it is a directory, what is below it, in byte order of the names.

        A directory comes before what is in it. ``depth`` 1 is the directory's own entries, None everything.
        """
        ...

    def read(self, path: bytes, write: Write, version: int | None = None) -> Entry:
        """Pass the content of a file, or of one of its versions, to ``write``; return the file's entry as of that content.

        Raises IsADirectory, InvalidArgument (not a regular file), DamageError, BlobMissing and StoreUnavailable.
        """
        ...

    def write(self, path: bytes, new: NewAttributes, blocks: Iterable[bytes]) -> None:
        """Make ``blocks`` the content of a file, all of it or nothing; whatever else but a directory has the name goes.

        Raises IsADirectory, NotPermitted, ReadOnly, NoSpace, and what ``blocks`` raises.
        """
        ...

    def make_directory(self, path: bytes, new: NewAttributes) -> None:
        """Create a directory, and those above it that are missing; one that exists stays as it is. Raises as ``write``."""
        ...

    def make_symlink(self, path: bytes, new: NewAttributes, target: bytes) -> None:
        """Make a path a symlink; whatever else but a directory has the name goes. Raises as ``write``."""
        ...

    def set_attributes(self, path: bytes, new: NewAttributes) -> None:
        """Set mode and mtime. Raises ReadOnly."""
        ...

    def sync(self) -> Mapping[str, Any]:
        """Make all changes so far survive a power cut; return what is not in the store yet (``pending`` of ``status``)."""
        ...


def names_of(path: bytes) -> list[bytes]:
    """Return the names that a path consists of. Raises InvalidArgument if it does not begin with a slash."""
    if not path.startswith(b"/"):
        raise InvalidArgument("a path in the drive begins with '/'")
    return [name for name in path.split(b"/") if name not in (b"", b".")]


def path_of(names: Iterable[bytes]) -> bytes:
    """Return the path that consists of ``names``."""
    return b"/" + b"/".join(names)


class VolumeFiles:
    """``Files`` of a volume that is open in this process. ``snapshot`` None: the drive as it is now."""

    def __init__(self, volume: "Volume", snapshot: str | None = None) -> None:
        self._volume, self._fs, self._snapshot = volume, volume.fs, snapshot

    def as_of(self, snapshot: str | None) -> "VolumeFiles":
        """Return the drive as it was in a snapshot, or as it is now."""
        return VolumeFiles(self._volume, snapshot)

    def cancel(self) -> None:
        """Let calls to the store end soon: the command ends, and the volume is closed."""
        self._volume.disconnect_soon()

    # ---- reading -------------------------------------------------------------------------------------------------

    def entry(self, path: bytes) -> Entry:
        """Return what a path names."""
        names = names_of(path)
        return self._entry(path_of(names), self._resolve(names))

    def walk(self, path: bytes, depth: int | None = None) -> Generator[Entry, None, None]:
        """Yield what ``path`` names, and what is below it."""
        names = names_of(path)
        top = self._resolve(names)
        yield self._entry(path_of(names), top)
        above = b"" if not names else path_of(names)
        open_directories = [self._children(above, top)]  # each is at the place where its subdirectory was entered
        while open_directories and depth != 0:
            for below, attributes in open_directories[-1]:
                with suppress(NotFound):  # a symlink that was removed since
                    yield self._entry(below, attributes)
                if attributes.is_directory and (depth is None or len(open_directories) < depth):
                    open_directories.append(self._children(below, attributes))
                    break
            else:
                open_directories.pop()

    def _children(self, above: bytes, directory: Attributes) -> Iterator[tuple[bytes, Attributes]]:
        """Yield path and attributes of a directory's entries; nothing for other nodes, and if it was removed."""
        with suppress(NotFound):
            if directory.is_directory:
                for entry in self._fs.list_directory(directory.inode):
                    yield above + b"/" + entry.name, entry.attributes

    def read(self, path: bytes, write: Write, version: int | None = None) -> Entry:
        """Pass the content of a file, or of one of its versions, to ``write``; return the file's entry as of that content."""
        names = names_of(path)
        inode = self._resolve(names).inode
        if version is not None:
            inode = self._fs.history.version(inode, version).inode
        with closing(self._fs.open(inode)) as handle:
            while True:
                tag = handle.keep_content()
                attributes = self._fs.attributes(handle.inode, removed=True)
                if tag is None or tag == (attributes.tag or b""):
                    break  # else the file was replaced between the two
            offset = 0
            while block := handle.read(offset, BLOCK_BYTES):
                write(block)
                offset += len(block)
        return self._entry(path_of(names), attributes)

    def _resolve(self, names: list[bytes]) -> Attributes:
        if self._snapshot is None:
            return self._fs.resolve(names, normalized=True)
        try:
            root = self._fs.history.snapshot(self._snapshot)
        except NotFound as error:  # an error of the snapshot's name, not of the path
            raise UsageError(error.message, hint=error.hint) from error
        return self._fs.history.resolve(names, normalized=True, start=root.inode)

    def _entry(self, path: bytes, attributes: Attributes) -> Entry:
        a = attributes
        target = self._fs.read_link(a.inode) if a.kind == SYMLINK else b""
        return Entry(path, a.kind, a.mode, a.size, a.mtime, target)

    # ---- changes -------------------------------------------------------------------------------------------------

    def write(self, path: bytes, new: NewAttributes, blocks: Iterable[bytes]) -> None:
        """Make ``blocks`` the content of a file."""
        parent, name = self._place(path)
        self._clear(parent, name, Kind.FILE)
        mode = 0o666 if new.mode is None else new.mode
        with self._fs.upload(parent, name, owner=new.owner, mode=mode, normalized=True) as upload:
            for block in blocks:
                upload.write(block)
            attributes, _ = upload.commit(mtime=new.mtime, durable=False)
        if new.mode is not None and attributes.mode != new.mode:
            self._fs.set_attributes(attributes.inode, AttributeChange(mode=new.mode))

    def make_directory(self, path: bytes, new: NewAttributes) -> None:
        """Create a directory, and those above it that are missing."""
        parent = self._fs.root
        names = names_of(path)
        for depth, name in enumerate(names, 1):
            found = self._find(parent, name)
            if found is None:
                is_last = depth == len(names)
                mode = new.mode if is_last and new.mode is not None else 0o777 & ~UMASK
                found = self._fs.create(parent, name, Kind.DIRECTORY, mode, new.owner)
            parent = found.inode
        self._fs.list_directory(parent)  # raises NotADirectory

    def make_symlink(self, path: bytes, new: NewAttributes, target: bytes) -> None:
        """Make a path a symlink."""
        parent, name = self._place(path)
        found = self._find(parent, name)
        if found is None or found.kind != SYMLINK or self._fs.read_link(found.inode) != target:
            self._clear(parent, name, None)
            found = self._fs.create(parent, name, Kind.SYMLINK, 0o777, new.owner, target=target)
        self._fs.set_attributes(found.inode, AttributeChange(mtime=new.mtime))

    def set_attributes(self, path: bytes, new: NewAttributes) -> None:
        """Set mode and mtime."""
        inode = self._resolve(names_of(path)).inode
        self._fs.set_attributes(inode, AttributeChange(mode=new.mode, mtime=new.mtime))

    def sync(self) -> Mapping[str, Any]:
        """Make all changes so far survive a power cut; return what is not in the store yet."""
        self._fs.sync()
        return self._volume.pending()

    def _place(self, path: bytes) -> tuple[Inode, bytes]:
        """Return the directory and the name of a path whose name may be free."""
        names = names_of(path)
        if not names:
            raise InvalidArgument("the root cannot be replaced")
        return self._resolve(names[:-1]).inode, names[-1]

    def _find(self, parent: Inode, name: bytes) -> Attributes | None:
        try:
            return self._fs.lookup(parent, name, normalized=True)
        except NotFound:
            return None

    def _clear(self, parent: Inode, name: bytes, kept: Kind | None) -> None:
        """Remove what has the name, unless it is of the kind ``kept``. A directory stays: the change that follows fails."""
        try:
            found = self._fs.lookup(parent, name)
        except NotFound:
            return
        if found.kind != kept and not found.is_directory:
            self._fs.unlink(parent, name)
