"""The file system of a namespace, as all front ends use it.

Lock order, outermost first:

0. the flush lock (``tgdav.fs.files.writeback``)
1. ``OpenFile.lock``, one per node that is open or dirty
2. the lock of the ``OpenFiles`` table: opening a file queries the database under it, which may wait for the writer
3. the writer (``tgdav.db.writer``): a change must lock neither an open file nor the table
4. the content store's own locks; nothing else is locked while one of them is held

Changes read the tree inside the writer's transaction, so every decision is based on the state that it changes.
"""

import threading
from collections.abc import Callable, Mapping
from typing import TypeVar

from tgdav.clock import Clock
from tgdav.crypto.keys import NamespaceKeys
from tgdav.db import Database, Transaction
from tgdav.errors import Exists, InvalidArgument, IsADirectory, WouldBlock
from tgdav.fs import acl, changes, node_attributes
from tgdav.fs.api import (
    HISTORY_INODES,
    NOBODY,
    ChangeListener,
    FileHandle,
    LockRecord,
    Owner,
    Precondition,
    RenameFlag,
    XattrFlag,
)
from tgdav.fs.copying import Copier, LiveSource
from tgdav.fs.files.context import OpenFileContext, require_writable
from tgdav.fs.files.handle import Handle
from tgdav.fs.listeners import ChangeListeners
from tgdav.fs.names import JunkPolicy, check_new_name, check_old_name, read_only
from tgdav.fs.readable import DiskSpace, ReadableFileSystem
from tgdav.fs.trash import Trash
from tgdav.fs.upload import FileUpload, UploadTarget
from tgdav.ids import Inode
from tgdav.metadata import queries
from tgdav.metadata.change import Change
from tgdav.metadata.types import FILE, AttributeChange, Attributes, Kind, nearest_time

T = TypeVar("T")


class NonBlocking(threading.local):
    """A context in which the calling thread must not wait: it runs the event loop of a mount."""

    is_active = False

    def __enter__(self) -> None:
        self.is_active = True

    def __exit__(self, *_: object) -> None:
        self.is_active = False


class NamespaceFileSystem(ReadableFileSystem):
    """A namespace's file system, as ``tgdav.fs.api.FileSystem``."""

    def __init__(self, context: OpenFileContext, *, junk: JunkPolicy, space: DiskSpace) -> None:
        super().__init__(context, space)
        self.keys: NamespaceKeys = context.keys
        self._junk, self._departures = junk, context.departures
        self._locks = LockTable(context.database, context.clock)
        self.listeners = ChangeListeners()
        self.trash = Trash(self.journal, self.database, self.keys, self.open_files, self.listeners, context.clock)
        self._nonblocking = NonBlocking()

    # ---- start and stop ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Recover what was durable or closed before a crash, remove junk files without a name, start the writeback."""
        self.open_files.adopt_overlays()
        self.open_files.recover_closed()
        self.sweep_local()
        self.open_files.start()

    def stop(self) -> None:
        """Flush all files, make that durable, close them."""
        self.open_files.stop()
        if self.journal.read_only is None:
            try:
                self.open_files.flush_or_fsync()
            finally:
                self.sync()
        self.open_files.abandon()

    def flush_idle(self) -> None:
        """Flush files that have not been written for a while, or are dirty for long; called periodically."""
        self.open_files.flush_idle(self._clock.monotonic())

    def sweep_local(self) -> None:
        """Delete local files without a name that are not open."""
        with self.database.reading() as connection:
            unnamed = [inode for inode in queries.unnamed_local(connection) if self.open_files.find(inode) is None]
        for inode in unnamed:
            self.journal.change(lambda change, inode=inode: change.drop_local(inode))  # type: ignore[misc]

    def flush_all(self) -> None:
        """Flush all dirty files."""
        if self.journal.read_only is None:
            self.open_files.flush()

    def sync(self) -> None:
        """Return when everything that was closed so far survives a power cut."""
        self.open_files.flush_queued()
        self.database.writer.sync()

    def on_change(self, listener: ChangeListener) -> Callable[[], None]:
        """Call ``listener`` after each change, until the returned function is called."""
        return self.listeners.add(listener)

    # ---- names ---------------------------------------------------------------------------------------------------

    def create(
        self, parent: Inode, name: bytes, kind: Kind, mode: int, owner: Owner, *, rdev: int = 0, target: bytes = b"",
        umask: int = 0, durable: bool = False,
    ) -> Attributes:  # fmt: skip
        """Create an empty file, directory, symlink, FIFO, socket or device."""
        local = check_new_name(parent, name, self._junk) and kind == FILE
        changes.check_target(kind, target)

        def work(change: Change) -> Attributes:
            directory = changes.require_directory(change, parent)
            if changes.find(change, parent, name) is not None:
                raise Exists
            node = changes.make(
                change, self.keys, directory, name, kind, mode, owner, rdev=rdev, target=target, local=local,
                umask=umask, departures=self._departures,
            )  # fmt: skip
            return changes.made_alone(change, node)

        made = self._change(work, durable=durable)
        self.listeners.notify(None, parent, name)
        return made

    def link(self, inode: Inode, parent: Inode, name: bytes, *, durable: bool = False) -> Attributes:
        """Add a name to a node that is not a directory."""
        if inode >= HISTORY_INODES:
            raise read_only()
        check_new_name(parent, name, self._junk)

        linked = self._change(lambda change: changes.link(change, inode, parent, name), durable=durable)
        self.listeners.notify(inode, parent, name)
        return self.open_files.dirty_attributes(linked)

    def unlink(self, parent: Inode, name: bytes, *, durable: bool = False) -> None:
        """Remove a name of a node that is not a directory."""
        check_old_name(parent, name)
        self._change(
            lambda change: changes.unlink(change, parent, name, self._departures), durable=durable, removes=True
        )
        self.listeners.notify(None, parent, name)

    def remove_directory(self, parent: Inode, name: bytes, *, durable: bool = False) -> None:
        """Remove an empty directory."""
        check_old_name(parent, name)
        self._change(lambda change: changes.remove_directory(change, parent, name), durable=durable, removes=True)
        self.listeners.notify(None, parent, name)

    def remove_tree(
        self, parent: Inode, name: bytes, *, precondition: Precondition | None = None, durable: bool = False
    ) -> None:
        """Remove a name and everything below it, as one change."""
        check_old_name(parent, name)

        def work(change: Change) -> Inode:
            entry = changes.require(change, parent, name)
            if precondition is not None:
                precondition(entry.attributes)
            changes.delete(change, entry, name, self._departures.successor(entry.entry, change.time))
            return entry.attributes.inode

        self.listeners.notify(self._change(work, durable=durable, removes=True), parent, name)

    def rename(
        self, parent: Inode, name: bytes, new_parent: Inode, new_name: bytes, *, flags: RenameFlag = RenameFlag.NONE,
        replace_tree: bool = False, whiteout_owner: Owner = NOBODY, precondition: Precondition | None = None,
        durable: bool = False,
    ) -> bool:  # fmt: skip
        """Move an entry and replace what has the new name, as rename(2)."""
        check_old_name(parent, name)
        local = check_new_name(new_parent, new_name, self._junk)
        if RenameFlag.EXCHANGE in flags and flags != RenameFlag.EXCHANGE:
            raise InvalidArgument("EXCHANGE cannot be combined with another flag")

        def work(change: Change) -> bool:
            directory = changes.require_directory(change, new_parent)
            replaced = changes.rename(
                change, self.content, parent, name, directory, new_name, flags, replace_tree=replace_tree,
                precondition=precondition, local=local, departures=self._departures,
            )  # fmt: skip
            if RenameFlag.WHITEOUT in flags:
                changes.make_whiteout(change, self.keys, parent, name, whiteout_owner)
            return replaced

        # Not lazy: programs that save a file by renaming a new one over it expect it to be saved then.
        replaced = self._change(work, durable=durable, removes=True, lazy=False)
        self.listeners.notify(None, parent, name)
        self.listeners.notify(None, new_parent, new_name)
        return replaced

    def copy(
        self, inode: Inode, parent: Inode, name: bytes, *, recursive: bool = True, replace: bool = False,
        precondition: Precondition | None = None, durable: bool = False,
    ) -> tuple[Attributes, bool]:  # fmt: skip
        """Copy a node with its properties and times, and everything below it, as one change that moves no data."""
        local = check_new_name(parent, name, self._junk)
        self.open_files.flush_or_fsync()  # the copy shares the committed content of all files below the node

        def work(change: Change) -> tuple[Attributes, bool]:
            directory = changes.require_directory(change, parent)
            # History reads through the change's own transaction.
            source = self.history if inode >= HISTORY_INODES else LiveSource(change)
            node, replaced = Copier(change, self.content, self.keys, self._junk, source).copy(
                inode, directory, name, recursive=recursive, replace=replace, precondition=precondition, local=local
            )
            return changes.made(change, node), replaced

        copied = self._change(work, durable=durable)
        self.listeners.notify(None, parent, name)
        return copied

    def _change(self, work: Callable[[Change], T], *, durable: bool, removes: bool = False, lazy: bool = True) -> T:
        nowait = self._nonblocking.is_active
        # A change that removes or replaces something must follow the commits of files that were closed before it.
        if durable or removes:
            self.open_files.flush_queued(nowait=nowait)
        return self.journal.change(work, durable=durable, lazy=lazy, nowait=nowait)

    def call_nowait(self, work: Callable[[], T]) -> T:
        """Call ``work``, in which a change that would have to wait raises WouldBlock instead."""
        with self._nonblocking:
            return work()

    # ---- attributes ----------------------------------------------------------------------------------------------

    def set_attributes(self, inode: Inode, change: AttributeChange, *, durable: bool = False) -> Attributes:
        """Set attributes; ``size`` truncates."""
        if inode >= HISTORY_INODES:
            raise read_only()
        if self._nonblocking.is_active and (change.size is not None or self.open_files.find(inode) is not None):
            raise WouldBlock("the file is open")
        if change.size is not None:
            self.open_files.truncate(inode, change.size)
        waits = self.open_files.defer_attributes(inode, change, blocking=True) and node_attributes.is_simple(change)
        if durable or not waits:
            self._change(lambda each: node_attributes.set_attributes(each, inode, change), durable=durable)
        self.listeners.notify(inode)
        return self.attributes(inode, removed=True)

    def defer_attributes(self, inode: Inode, change: AttributeChange) -> bool:
        """Leave attributes to the commit of the file's unflushed writes, without waiting; return False if that fails."""
        is_simple = change.size is None and node_attributes.is_simple(change)
        return is_simple and self.open_files.defer_attributes(inode, change, blocking=False)

    def set_xattr(
        self, inode: Inode, name: bytes, value: bytes, *, flags: XattrFlag = XattrFlag.NONE,
        drop_set_group_id: bool = False, durable: bool = False,
    ) -> None:  # fmt: skip
        """Set an extended attribute."""
        if inode >= HISTORY_INODES:
            raise read_only()
        node_attributes.check_xattr(name, value)
        if name == acl.ACCESS:
            # An ACL sets the mode. A mode that is still deferred would be committed after it.
            self.open_files.flush(lambda file: file.inode == inode)
        self._change(
            lambda each: node_attributes.set_xattr(
                each, inode, name, value, flags, drop_set_group_id=drop_set_group_id
            ),
            durable=durable,
        )
        self.listeners.notify(inode)

    def remove_xattr(self, inode: Inode, name: bytes, *, durable: bool = False) -> None:
        """Remove an extended attribute."""
        if inode >= HISTORY_INODES:
            raise read_only()
        self._change(lambda change: node_attributes.remove_xattr(change, inode, name), durable=durable)
        self.listeners.notify(inode)

    def set_properties(
        self, inode: Inode, values: Mapping[bytes, bytes | None], *, attributes: AttributeChange | None = None,
        durable: bool = True,
    ) -> None:  # fmt: skip
        """Set (or, with None, remove) properties and attributes, all of them or none."""
        if inode >= HISTORY_INODES:
            raise read_only()
        if attributes is not None:
            self.open_files.defer_attributes(inode, attributes, blocking=True)
        self._change(lambda change: node_attributes.set_properties(change, inode, values, attributes), durable=durable)
        if attributes is not None:
            self.listeners.notify(inode)

    # ---- content -------------------------------------------------------------------------------------------------

    def open(
        self, inode: Inode, *, writable: bool = False, truncate: bool = False, moves_times: bool = True
    ) -> FileHandle:
        """Open a file."""
        if inode >= HISTORY_INODES:
            if writable or truncate:
                raise read_only()
            return self.history.open(inode)
        if truncate and self._nonblocking.is_active:
            raise WouldBlock("truncating may have to wait")
        file = self.open_files.acquire(inode)
        try:
            if writable:
                file.check_writable()
            if truncate:
                file.truncate(0, moves_times=moves_times)
        except BaseException:
            self.open_files.release(file)
            raise
        return Handle(self.open_files, file, self.content.reader, writable=writable, moves_times=moves_times)

    def upload(
        self, parent: Inode, name: bytes, *, owner: Owner, mode: int = 0o666, normalized: bool = False
    ) -> FileUpload:
        """Start a file's new content."""
        local = check_new_name(parent, name, self._junk)
        if not local:
            require_writable(self.journal)
        entry = self._find(parent, name, normalized=normalized)
        if entry is None:
            self._require_directory(self._node(parent))
        elif entry.attributes.is_directory:
            raise IsADirectory
        elif not entry.attributes.is_file:
            raise InvalidArgument("not a regular file")
        target = UploadTarget(parent=parent, name=name, owner=owner, mode=mode, normalized=normalized, local=local)
        return FileUpload(self.open_files, self.listeners, target)

    # ---- WebDAV locks --------------------------------------------------------------------------------------------

    def load_locks(self) -> list[LockRecord]:
        """Return the stored locks that have not expired."""
        return self._locks.load()

    def save_lock(self, record: LockRecord) -> None:
        """Store a lock; it replaces one with the same token."""
        self._locks.save(record)

    def delete_lock(self, token: str) -> None:
        """Delete a lock."""
        self._locks.delete(token)


class LockTable:
    """The ``locks`` table, which keeps WebDAV locks over a restart. Their meaning is the WebDAV front end's matter."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database, self._clock = database, clock

    def load(self) -> list[LockRecord]:
        """Return the stored locks that have not expired."""
        with self._database.reading() as connection:
            rows = connection.all(
                "SELECT token, ino, expires, data FROM locks WHERE expires > ?", (self._clock.now_ns(),)
            )
        return [LockRecord(token, Inode(inode), expires, data) for token, inode, expires, data in rows]

    def save(self, record: LockRecord) -> None:
        """Store a lock, durably, and delete those that have expired."""
        row = (record.token, record.inode, nearest_time(record.expires), record.data)
        now = (self._clock.now_ns(),)

        def work(transaction: Transaction) -> None:
            transaction.execute("DELETE FROM locks WHERE expires <= ?", now)
            transaction.execute("INSERT OR REPLACE INTO locks (token, ino, expires, data) VALUES (?, ?, ?, ?)", row)

        self._database.writer.run(work, durable=True)

    def delete(self, token: str) -> None:
        """Delete a lock."""
        self._database.writer.run(lambda t: t.execute("DELETE FROM locks WHERE token = ?", (token,)))
