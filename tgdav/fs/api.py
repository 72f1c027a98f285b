"""The contract of the file system, as every front end sees it.

All calls are synchronous and may come from any thread. Names are bytes, kept as given; ``normalized=True`` finds a name by
its bytes first, then by Unicode NFC, earliest entry first. Each call that changes something is atomic: it happens whole
or not at all, and another thread sees either the old state or the new. With ``durable=True`` the change survives a power
cut when the call returns, with all that was changed before it. Without it the change survives the end of the process (kill
-9), and a power cut may take the last changes, the later ones first. Writes to an open file, and times set through it, survive
the end of the process from ``flush``, ``flush_later`` or ``close`` on.

Every call may raise: ``ReadOnly`` where another machine became the writer, ``NoSpace``, ``LocalFailure`` (the local disk),
and ``DamageError`` / ``StoreUnavailable`` where content has to be read.

Times are ns since 1970. One that cannot be kept (before 1677-09-21 or after 2262-04-11, what 64 bits hold) is brought to the
nearest that can, wherever it is given; user, group and device numbers of more than 32 bits are ``InvalidArgument``.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Flag, auto
from types import TracebackType
from typing import Protocol, Self, TypeVar

import msgspec

from tgdav.ids import Inode
from tgdav.metadata.types import AttributeChange, Attributes, DirectoryEntry, Kind, Listed

T = TypeVar("T")


UMASK = 0o022
"""For new nodes that no program with a umask of its own makes."""


class Owner(msgspec.Struct, frozen=True, gc=False):
    """Who a new node belongs to."""

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
    """What ``statfs`` says, in bytes; free is what may still be staged, and holes are not ``used``."""

    total: int
    free: int
    used: int
    files: int


class LockRecord(msgspec.Struct, frozen=True):
    """A WebDAV lock as it is kept: opaque ``data``, ``expires`` in ns since 1970."""

    token: str
    inode: Inode
    expires: int
    data: bytes


Precondition = Callable[[Attributes | None], None]
"""Called with what the name shows at the very moment of change (None: nothing); raises to refuse."""


PropertiesOf = Callable[[bytes], Mapping[bytes, bytes | None]]
"""Called with the tag of a new content; returns the properties that go with it (None: the property goes)."""

ChangeListener = Callable[[Inode | None, Inode | None, bytes | None], None]
"""Called as (inode, parent, name): the node's content or attributes changed, or what the name in the parent names."""


class Upload(Protocol):
    """A file's new content, given in order. Nothing is visible before ``commit``; without it nothing ever was.

    Used as a context manager, leaving the block without ``commit`` aborts.
    """

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes; the caller may reuse ``data`` afterwards.

        Blocks while staging is full; raises NoSpace after 60 s of that.
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
        """Make the content that of (parent, name), creating the file if needed; return it and whether it was created.

        Raises IsADirectory, NotFound (the folder is gone), whatever ``precondition`` raises.
        """
        ...

    def abort(self) -> None:
        """Drop everything; calling it again, or after ``commit``, does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class FileHandle(Protocol):
    """An open file. It stays usable when its last name is removed."""

    inode: Inode

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes there; fewer only at the end of the file. Holes are zeros."""
        ...

    def keep_content(self) -> bytes | None:
        """Let ``read`` go on showing the content that the file has now, whatever replaces it; return that content's tag.

        Empty bytes: it has none. None: the file is being written, so that ``read`` goes on showing each change.
        """
        ...

    def is_here(self) -> bool:
        """Return whether all of the content that ``keep_content`` kept can be read without the store."""
        ...

    def write(self, offset: int, data: bytes | bytearray | memoryview, *, append: bool = False) -> int:
        """Write all of ``data`` at ``offset`` (or at the end), return its length. Committed by fsync or close."""
        ...

    def write_nowait(self, offset: int, data: bytes | bytearray | memoryview) -> bool:
        """Write as ``write`` does if nothing has to be waited for, no lock and no disk; False if nothing was done."""
        ...

    def truncate(self, size: int) -> None:
        """Cut or extend with a hole; 10^15 costs nothing."""
        ...

    def fsync(self) -> None:
        """Return when all written so far survives a power cut."""
        ...

    def flush(self) -> None:
        """Commit what was written so far; reports a late failure."""
        ...

    def flush_later(self) -> bool:
        """Have what was written so far committed in a moment, without waiting; False if ``flush`` is to do it."""
        ...

    def close(self) -> None:
        """Give the handle up, committing its writes. Closing twice does nothing."""
        ...

    def close_nowait(self) -> bool:
        """As ``close``, with its writes committed in a moment, without waiting; False if ``close`` is to be called."""
        ...


class FileSystem(Protocol):
    """A namespace's file system. ``root`` is its root folder's inode."""

    root: Inode

    # ---- looking -------------------------------------------------------------------------------------------------

    def lookup(self, parent: Inode, name: bytes, *, normalized: bool = False) -> Attributes:
        """Return what ``name`` in ``parent`` names. Raises NotFound, NotADirectory, NameTooLong."""
        ...

    def resolve(self, path: Sequence[bytes], *, normalized: bool = False) -> Attributes:
        """Return what a path of names from the root leads to (symlinks are not followed). Raises as ``lookup``."""
        ...

    def attributes(self, inode: Inode, *, removed: bool = False) -> Attributes:
        """Return a node's attributes, those of an unlinked open file too; with ``removed``, of any without a name.

        Raises NotFound.
        """
        ...

    def list_directory(self, inode: Inode) -> list[DirectoryEntry]:
        """Return all entries in byte order of their names, without "." and "..", in one query. Raises NotADirectory."""
        ...

    def list_briefly(self, inode: Inode) -> list[Listed]:
        """As ``list_directory``, but only what long listings tell. Raises NotADirectory."""
        ...

    def parent(self, inode: Inode) -> Inode:
        """Return the folder that holds a folder (the root holds itself). Raises NotFound for one that was removed."""
        ...

    def read_link(self, inode: Inode) -> bytes:
        """Return a symlink's target. Raises InvalidArgument for other kinds."""
        ...

    def capacity(self) -> Capacity:
        """Return space and counts."""
        ...

    def allocated(self, attributes: Attributes) -> int:
        """Return how many bytes of a node are data, holes left out; not 0 of a file that is not empty."""
        ...

    def upload_state(self, inode: Inode) -> str:
        """Return ``local``, ``uploading`` or ``stored``: how far a file's bytes and name have gone."""
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
        """Make an empty file, folder, symlink (with ``target``), FIFO, socket or device. Raises Exists, NotFound.

        Where the folder has a default ACL it is inherited; else ``umask`` is taken off the mode.
        """
        ...

    def link(self, inode: Inode, parent: Inode, name: bytes, *, durable: bool = False) -> Attributes:
        """Give a node that is no folder one more name. Raises Exists, NotPermitted (folder), TooManyLinks."""
        ...

    def unlink(self, parent: Inode, name: bytes, *, durable: bool = False) -> None:
        """Remove a name of something that is no folder. Raises NotFound, IsADirectory."""
        ...

    def remove_directory(self, parent: Inode, name: bytes, *, durable: bool = False) -> None:
        """Remove an empty folder. Raises NotEmpty, NotADirectory, NotFound."""
        ...

    def remove_tree(
        self, parent: Inode, name: bytes, *, precondition: Precondition | None = None, durable: bool = False
    ) -> None:
        """Remove a name and all below it, as one change. Raises NotFound."""
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
        """Move an entry, replacing what has the new name as rename(2) does; return whether something was replaced.

        ``replace_tree`` lets anything replace anything, full folders too (WebDAV). ``precondition`` sees the target.
        WHITEOUT leaves a character device of number 0 at the old name, which overlay file systems take for a deleted name.
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
        """Copy a node, with its properties and times and all below it, as one change that moves no data.

        Returns the copy and whether something was replaced. Raises Exists, InvalidArgument (into itself), NotFound.
        """
        ...

    # ---- attributes ----------------------------------------------------------------------------------------------

    def set_attributes(self, inode: Inode, change: AttributeChange, *, durable: bool = False) -> Attributes:
        """Set attributes; ``size`` truncates, ``mode`` changes an access ACL too. ctime moves unless given.

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
        """Set one. ``system.posix_acl_access`` sets the mode too; with ``drop_set_group_id`` it takes setgid off.

        Raises Exists (CREATE), NoAttribute (REPLACE), InvalidArgument (over 64 KiB, or no ACL), NoSpace (all names of the
        node would have more than 64 KiB).
        """
        ...

    def list_xattrs(self, inode: Inode) -> list[bytes]:
        """Return the names."""
        ...

    def remove_xattr(self, inode: Inode, name: bytes, *, durable: bool = False) -> None:
        """Remove one. Raises NoAttribute."""
        ...

    def properties(self, inodes: Iterable[Inode]) -> dict[Inode, dict[bytes, bytes]]:
        """Return the WebDAV properties of nodes, in one query; nodes without any are left out."""
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
        """Open a file. Without ``moves_times`` the caller says by ``set_attributes`` how writes move mtime and ctime.

        Raises NotFound, IsADirectory, InvalidArgument (no regular file), ReadOnly.
        """
        ...

    def upload(
        self, parent: Inode, name: bytes, *, owner: Owner, mode: int = 0o666, normalized: bool = False
    ) -> Upload:
        """Begin a file's new content; a new file has ``mode`` without ``UMASK``, or without what a default ACL forbids.

        Raises NotFound, NotADirectory, IsADirectory, NameTooLong, NoSpace.
        """
        ...

    def sync(self) -> None:
        """Return when everything committed so far survives a power cut."""
        ...

    # ---- WebDAV locks --------------------------------------------------------------------------------------------

    def load_locks(self) -> list[LockRecord]:
        """Return the locks kept, expired ones left out."""
        ...

    def save_lock(self, record: LockRecord) -> None:
        """Keep a lock, replacing one of the same token; durable."""
        ...

    def delete_lock(self, token: str) -> None:
        """Forget a lock; an unknown token is fine."""
        ...


class ObservedFileSystem(FileSystem, Protocol):
    """A file system that tells of its changes, for those who keep copies."""

    def on_change(self, listener: ChangeListener) -> Callable[[], None]:
        """Tell ``listener`` of each change once it is committed, in the thread that made it, while no lock is held.

        Returns a function that ends it.
        """
        ...

    def call_nowait(self, work: Callable[[], T]) -> T:
        """Call ``work``, which makes one change that is not durable; if that would have to wait for anybody, WouldBlock is
        raised before anything is done."""
        ...

    def defer_attributes(self, inode: Inode, change: AttributeChange) -> bool:
        """Leave ``change`` to the commit of the file's unflushed writes, if that comes soon, without waiting.

        False if it is still to be made by ``set_attributes``. Raises ReadOnly.
        """
        ...

    def places(self, inode: Inode) -> list[tuple[Inode, bytes]]:
        """Return each (parent, name) of a node outside the trash."""
        ...
