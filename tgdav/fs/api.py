"""The interface of the file system for all front ends.

All calls are synchronous and may come from any thread. Names are bytes and are stored as given. With ``normalized=True`` a name
is looked up by its bytes first, then by Unicode NFC, the earliest entry first. Each change is atomic: it happens completely or
not at all, and another thread sees either the old or the new state. With ``durable=True`` the change, and everything that was
changed before it, survives a power cut once the call has returned. Without it the change survives the end of the process
(kill -9); a power cut may lose the last changes, latest first. Writes to an open file, and times set through it, survive the end
of the process from ``flush``, ``flush_later`` or ``close`` on.

Every call may raise ``ReadOnly`` if another machine has become the writer, ``NoSpace``, ``LocalFailure`` (the local disk), and
``DamageError`` or ``StoreUnavailable`` if it reads content.

Times are in ns since 1970. A time that 64 bits cannot hold (before 1677-09-21 or after 2262-04-11) is replaced by the nearest
that they can; user, group and device numbers of more than 32 bits raise ``InvalidArgument``.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Flag, auto
from types import TracebackType
from typing import Protocol, Self, TypeVar

import msgspec

from tgdav.ids import Inode
from tgdav.metadata.types import AttributeChange, Attributes, DirectoryEntry, Kind, Listed

T = TypeVar("T")


HISTORY_INODES = 1 << 48
"""From this number on, inodes are those of ``/.snapshots``, ``/.versions`` and ``/.trash``, which are read-only."""

UMASK = 0o022
"""For new nodes that are not created by a program with a umask."""


class Owner(msgspec.Struct, frozen=True, gc=False):
    """The owner of a new node."""

    uid: int = 0
    gid: int = 0


NOBODY = Owner()


class RenameFlag(Flag):
    """As renameat2(2)."""

    NONE = 0
    NO_REPLACE = auto()
    EXCHANGE = auto()
    WHITEOUT = auto()


class XattrFlag(Flag):
    """As setxattr(2)."""

    NONE = 0
    CREATE = auto()
    REPLACE = auto()


class Capacity(msgspec.Struct, frozen=True):
    """What ``statfs`` returns, in bytes. ``free`` is what may still be staged; ``used`` does not count holes."""

    total: int
    free: int
    used: int
    files: int


class LockRecord(msgspec.Struct, frozen=True):
    """A stored WebDAV lock: opaque ``data``, ``expires`` in ns since 1970."""

    token: str
    inode: Inode
    expires: int
    data: bytes


Precondition = Callable[[Attributes | None], None]
"""Called inside the change with what the name names (None: nothing); raises to refuse the change."""


PropertiesOf = Callable[[bytes], Mapping[bytes, bytes | None]]
"""Called with the tag of a new content; returns the properties to set with it (None removes a property)."""

ChangeListener = Callable[[Inode | None, Inode | None, bytes | None], None]
"""Called as (inode, parent, name) if a node's content or attributes changed, or what a name in the parent names."""


class Upload(Protocol):
    """A file's new content, written in order. Nothing is visible before ``commit``.

    As a context manager it aborts unless ``commit`` was called.
    """

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write the next bytes; the caller may reuse ``data`` afterwards.

        Blocks while staging is full; raises NoSpace after 60 s.
        """
        ...

    def commit(
        self,
        *,
        precondition: Precondition | None = None,
        mtime: int | None = None,
        btime: int | None = None,
        properties: PropertiesOf | None = None,
        durable: bool = True,
    ) -> tuple[Attributes, bool]:
        """Make this the content of (parent, name); return the file and whether it was created.

        Raises IsADirectory, NotFound (the directory was removed), and what ``precondition`` raises.
        """
        ...

    def abort(self) -> None:
        """Discard everything. A call after ``commit`` or another ``abort`` does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class FileHandle(Protocol):
    """An open file. It remains usable after its last name is removed."""

    inode: Inode

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes at ``offset``; fewer only at the end of the file. Holes are zeros."""
        ...

    def keep_content(self) -> bytes | None:
        """Make ``read`` return the present content from now on, even after it is replaced; return that content's tag.

        Empty bytes: the content has no tag. None: the file has unflushed writes, so ``read`` continues to show each change.
        """
        ...

    def is_here(self) -> bool:
        """Return whether all of the content that ``keep_content`` kept can be read without the store."""
        ...

    def write(self, offset: int, data: bytes | bytearray | memoryview, *, append: bool = False) -> int:
        """Write all of ``data`` at ``offset`` (or at the end); return its length. ``fsync`` or ``close`` commits it."""
        ...

    def write_nowait(self, offset: int, data: bytes | bytearray | memoryview) -> bool:
        """As ``write``, if it needs to wait for no lock and no disk; return False if nothing was done."""
        ...

    def truncate(self, size: int) -> None:
        """Truncate the file, or extend it with a hole, which takes no space."""
        ...

    def fsync(self) -> None:
        """Return when all writes so far survive a power cut."""
        ...

    def flush(self) -> None:
        """Commit the writes so far; raises errors of earlier writes that were detected late."""
        ...

    def flush_later(self) -> bool:
        """Let the writes so far be committed a moment later, without waiting; return False if ``flush`` must be called."""
        ...

    def close(self) -> None:
        """Close the handle and commit its writes. A second call does nothing."""
        ...

    def close_nowait(self) -> bool:
        """As ``close``, with the commit a moment later, without waiting; return False if ``close`` must be called."""
        ...


class FileSystem(Protocol):
    """A namespace's file system. ``root`` is the inode of its root directory."""

    root: Inode

    # ---- reading -------------------------------------------------------------------------------------------------

    def lookup(self, parent: Inode, name: bytes, *, normalized: bool = False) -> Attributes:
        """Return the attributes of the node that ``name`` in ``parent`` names. Raises NotFound, NotADirectory, NameTooLong."""
        ...

    def resolve(self, path: Sequence[bytes], *, normalized: bool = False) -> Attributes:
        """Return the attributes of the node at a path from the root; symlinks are not followed. Raises as ``lookup``."""
        ...

    def attributes(self, inode: Inode, *, removed: bool = False) -> Attributes:
        """Return a node's attributes, also those of an open file without a name; with ``removed``, of any node without a name.

        Raises NotFound.
        """
        ...

    def list_directory(self, inode: Inode) -> list[DirectoryEntry]:
        """Return all entries in byte order of their names, without "." and "..". Raises NotFound, NotADirectory."""
        ...

    def list_briefly(self, inode: Inode) -> list[Listed]:
        """As ``list_directory``, but only what long listings show."""
        ...

    def parent(self, inode: Inode) -> Inode:
        """Return a directory's parent (the root's is the root). Raises NotFound if the directory was removed."""
        ...

    def read_link(self, inode: Inode) -> bytes:
        """Return a symlink's target. Raises InvalidArgument for other kinds."""
        ...

    def capacity(self) -> Capacity:
        """Return space and counts."""
        ...

    def allocated(self, attributes: Attributes) -> int:
        """Return how many bytes of a node are not holes; at least 1 if a file is not empty."""
        ...

    def upload_state(self, inode: Inode) -> str:
        """Return ``local``, ``uploading`` or ``stored``: how far a file's content and name have been uploaded."""
        ...

    # ---- names ---------------------------------------------------------------------------------------------------

    def create(
        self,
        parent: Inode,
        name: bytes,
        kind: Kind,
        mode: int,
        owner: Owner,
        *,
        rdev: int = 0,
        target: bytes = b"",
        umask: int = 0,
        durable: bool = False,
    ) -> Attributes:
        """Create an empty file, directory, symlink (with ``target``), FIFO, socket or device. Raises Exists, NotFound.

        A default ACL of the directory is inherited. If there is none, ``umask`` is removed from the mode.
        """
        ...

    def link(self, inode: Inode, parent: Inode, name: bytes, *, durable: bool = False) -> Attributes:
        """Add a name to a node. Raises Exists, NotPermitted (a directory), TooManyLinks."""
        ...

    def unlink(self, parent: Inode, name: bytes, *, durable: bool = False) -> None:
        """Remove a name of a node that is not a directory. Raises NotFound, IsADirectory."""
        ...

    def remove_directory(self, parent: Inode, name: bytes, *, durable: bool = False) -> None:
        """Remove an empty directory. Raises NotEmpty, NotADirectory, NotFound."""
        ...

    def remove_tree(
        self, parent: Inode, name: bytes, *, precondition: Precondition | None = None, durable: bool = False
    ) -> None:
        """Remove a name and everything below it, as one change. Raises NotFound."""
        ...

    def rename(
        self,
        parent: Inode,
        name: bytes,
        new_parent: Inode,
        new_name: bytes,
        *,
        flags: RenameFlag = RenameFlag.NONE,
        replace_tree: bool = False,
        whiteout_owner: Owner = NOBODY,
        precondition: Precondition | None = None,
        durable: bool = False,
    ) -> bool:
        """Move an entry and replace what has the new name, as rename(2); return whether something was replaced.

        With ``replace_tree`` any node replaces any other, also a directory with entries (WebDAV). ``precondition`` gets the
        attributes of the target. WHITEOUT creates a character device with number 0 at the old name, which overlay file systems
        treat as a deleted name.
        Raises NotFound, Exists (NO_REPLACE), NotEmpty, IsADirectory, NotADirectory, InvalidArgument (into itself).
        """
        ...

    def copy(
        self,
        inode: Inode,
        parent: Inode,
        name: bytes,
        *,
        recursive: bool = True,
        replace: bool = False,
        precondition: Precondition | None = None,
        durable: bool = False,
    ) -> tuple[Attributes, bool]:
        """Copy a node with its properties and times, and everything below it, as one change that moves no data.

        Return the copy and whether something was replaced. Raises Exists, InvalidArgument (into itself), NotFound.
        """
        ...

    # ---- attributes ----------------------------------------------------------------------------------------------

    def set_attributes(self, inode: Inode, change: AttributeChange, *, durable: bool = False) -> Attributes:
        """Set attributes. ``size`` truncates, ``mode`` changes an access ACL too. ctime becomes the present time unless given.

        Raises NotFound, IsADirectory (size).
        """
        ...

    def get_xattr(self, inode: Inode, name: bytes) -> bytes:
        """Return an extended attribute. Raises NoAttribute."""
        ...

    def set_xattr(
        self,
        inode: Inode,
        name: bytes,
        value: bytes,
        *,
        flags: XattrFlag = XattrFlag.NONE,
        drop_set_group_id: bool = False,
        durable: bool = False,
    ) -> None:
        """Set an extended attribute. ``system.posix_acl_access`` sets the mode too; with ``drop_set_group_id`` it removes setgid.

        Raises Exists (CREATE), NoAttribute (REPLACE), InvalidArgument (over 64 KiB, or an invalid ACL), NoSpace (all names of the
        node would have more than 64 KiB).
        """
        ...

    def list_xattrs(self, inode: Inode) -> list[bytes]:
        """Return the names of a node's extended attributes."""
        ...

    def remove_xattr(self, inode: Inode, name: bytes, *, durable: bool = False) -> None:
        """Remove an extended attribute. Raises NoAttribute."""
        ...

    def properties(self, inodes: Iterable[Inode]) -> dict[Inode, dict[bytes, bytes]]:
        """Return the WebDAV properties of several nodes, in one query; nodes without any are omitted."""
        ...

    def set_properties(
        self,
        inode: Inode,
        values: Mapping[bytes, bytes | None],
        *,
        attributes: AttributeChange | None = None,
        durable: bool = True,
    ) -> None:
        """Set (or, with None, remove) properties and attributes, all of them or none."""
        ...

    # ---- content -------------------------------------------------------------------------------------------------

    def open(
        self, inode: Inode, *, writable: bool = False, truncate: bool = False, moves_times: bool = True
    ) -> FileHandle:
        """Open a file. Without ``moves_times`` writes do not change mtime and ctime; the caller uses ``set_attributes``.

        Raises NotFound, IsADirectory, InvalidArgument (not a regular file), ReadOnly.
        """
        ...

    def upload(
        self, parent: Inode, name: bytes, *, owner: Owner, mode: int = 0o666, normalized: bool = False
    ) -> Upload:
        """Start a file's new content; a new file has ``mode`` without ``UMASK``, or without what a default ACL denies.

        Raises NotFound, NotADirectory, IsADirectory, NameTooLong, NoSpace.
        """
        ...

    def sync(self) -> None:
        """Return when everything committed so far survives a power cut."""
        ...

    # ---- WebDAV locks --------------------------------------------------------------------------------------------

    def load_locks(self) -> list[LockRecord]:
        """Return the stored locks that have not expired."""
        ...

    def save_lock(self, record: LockRecord) -> None:
        """Store a lock durably; it replaces one with the same token."""
        ...

    def delete_lock(self, token: str) -> None:
        """Delete a lock, if there is one with this token."""
        ...


class ObservedFileSystem(FileSystem, Protocol):
    """A file system that reports its changes and has calls that never wait, for a mount."""

    def on_change(self, listener: ChangeListener) -> Callable[[], None]:
        """Call ``listener`` after each commit, in the thread that made the change, without any lock.

        Return a function that removes the listener.
        """
        ...

    def call_nowait(self, work: Callable[[], T]) -> T:
        """Call ``work``, which makes one change that is not durable. Raises WouldBlock, with nothing done, if it had to wait."""
        ...

    def defer_attributes(self, inode: Inode, change: AttributeChange) -> bool:
        """Leave ``change`` to the commit of the file's unflushed writes, if that follows soon, without waiting.

        Return False if ``set_attributes`` must be called. Raises ReadOnly.
        """
        ...

    def places(self, inode: Inode) -> list[tuple[Inode, bytes]]:
        """Return each (parent, name) of a node outside the trash."""
        ...
