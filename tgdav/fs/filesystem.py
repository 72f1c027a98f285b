"""THE file system: what a namespace's tree is and does, for every front end.

Lock order, outermost first:

0. the settler's turn (``tgdav.fs.files.writeback``)
1. ``OpenFile.lock`` (one a node that is open or dirty)
2. the writer's leadership (``tgdav.db.writer``): inside a change no open file may be locked
3. ``OpenFiles`` table lock, content's own locks (leaves: nothing is taken while one is held)

Changes look at the tree inside the writer's transaction, so each decision is made on the state that it changes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from tgdav.clock import Clock
from tgdav.content.store import ContentStore
from tgdav.crypto.keys import NamespaceKeys
from tgdav.crypto.machine import MachineIdentity
from tgdav.db import Connection, Database
from tgdav.db.schema import ROOT_INODE, TRASH_INODE
from tgdav.disk import Disk
from tgdav.entropy import Entropy
from tgdav.errors import Exists, InvalidArgument, IsADirectory, NotADirectory, NotFound, WouldBlock
from tgdav.fs import acl, changes, copying, node_attributes
from tgdav.fs.allocation import SMALL, Allocations
from tgdav.fs.api import NOBODY, Capacity, ChangeListener, LockRecord, Owner, Precondition, RenameFlag, XattrFlag
from tgdav.fs.files.context import OpenFileContext, require_writable
from tgdav.fs.files.open_files import Handle, OpenFiles, retry_if_flushed
from tgdav.fs.hurried import NonBlocking
from tgdav.fs.listeners import ChangeListeners
from tgdav.fs.locks import LockTable
from tgdav.fs.names import JunkPolicy, check_name, check_new_name
from tgdav.fs.storage_state import storage_state
from tgdav.fs.totals import RecentTotals
from tgdav.fs.upload import FileUpload
from tgdav.ids import Inode
from tgdav.metadata import queries
from tgdav.metadata.change import Change
from tgdav.metadata.journal import Journal
from tgdav.metadata.tree_cache import UNKNOWN
from tgdav.metadata.types import FILE, AttributeChange, Attributes, DirectoryEntry, Kind, Listed, listed

T = TypeVar("T")

Space = Callable[[], tuple[int, int]]
"""Returns (total, free) bytes of the place that data finally goes to."""


class NamespaceFileSystem:
    """A namespace's file system, as ``tgdav.fs.api.FileSystem``."""

    root = Inode(ROOT_INODE)

    def __init__(
        self,
        database: Database,
        journal: Journal,
        content: ContentStore,
        keys: NamespaceKeys,
        identity: MachineIdentity,
        overlay_folder: Path,
        *,
        junk: JunkPolicy,
        space: Space,
        clock: Clock,
        entropy: Entropy,
        disk: Disk,
    ) -> None:
        self.database, self.journal, self.content, self.keys = database, journal, content, keys
        self._junk, self._space, self._clock = junk, space, clock
        context = OpenFileContext(
            journal, database, content, keys, identity, overlay_folder, clock=clock, entropy=entropy, disk=disk
        )
        self.open_files = OpenFiles(context)
        self._locks = LockTable(database, clock)
        self.listeners = ChangeListeners()
        self._recent_totals = RecentTotals(self._count, clock)
        self._allocations = Allocations(database, journal.cache)
        self._nonblocking = NonBlocking()

    def start(self) -> None:
        """Take over what was made durable or closed before a crash, and forget junk files that have no name any more."""
        self.open_files.adopt()
        self.open_files.adopt_closed()
        self.sweep_local()
        self.open_files.start()

    def stop(self) -> None:
        """Settle all, make it durable, let go of all files."""
        self.open_files.stop()
        if self.journal.read_only is None:
            try:
                self.open_files.flush_or_fsync()
            finally:
                self.sync()
        self.open_files.abandon()

    def flush_idle(self) -> None:
        """Settle files that were not written for a while, or are dirty for long; housekeeping calls it."""
        self.open_files.flush_idle(self._clock.monotonic())

    def sweep_local(self) -> None:
        """Forget local files without a name that nobody has open."""
        with self.database.reading() as connection:
            unnamed = [inode for inode in queries.unnamed_local(connection) if self.open_files.find(inode) is None]
        for inode in unnamed:
            self.journal.change(lambda change, inode=inode: change.drop_local(inode))  # type: ignore[misc]

    def flush_all(self) -> None:
        """Settle every dirty file."""
        if self.journal.read_only is None:
            self.open_files.flush()

    def on_change(self, listener: ChangeListener) -> Callable[[], None]:
        """Tell ``listener`` of each change, until the function returned is called."""
        return self.listeners.add(listener)

    def totals(self) -> tuple[int, int]:
        """Return how many files there are, and their bytes."""
        with self.database.reading() as connection:
            return queries.totals(connection)

    def used_bytes(self) -> int:
        """Return the bytes of all files that are data, holes left out; it may be a little old."""
        return self._recent_totals.get()[1]

    def _count(self) -> tuple[int, int]:
        with self.database.reading() as connection:
            files, size = queries.totals(connection)
            return files, size - queries.hole_bytes(connection, SMALL)

    # ---- looking -------------------------------------------------------------------------------------------------

    @retry_if_flushed
    def lookup(self, parent: Inode, name: bytes, *, normalized: bool = False) -> Attributes:
        """Return what ``name`` in ``parent`` names."""
        check_name(name)
        entry = self._find(parent, name, normalized=normalized)
        if entry is None:
            self._require_directory(self._node(parent))
            raise NotFound
        return self.open_files.dirty_attributes(entry.attributes)

    @retry_if_flushed
    def resolve(self, path: Sequence[bytes], *, normalized: bool = False) -> Attributes:
        """Return what a path of names from the root leads to."""
        found = self._node(self.root)
        for name in path:
            check_name(name)
            assert found is not None, "the root is always there"
            entry = self._find(found.inode, name, normalized=normalized)
            if entry is None:
                self._require_directory(found)
                raise NotFound
            found = entry.attributes
        assert found is not None, "the root is always there"
        return self.open_files.dirty_attributes(found)

    def _find(self, parent: Inode, name: bytes, *, normalized: bool) -> DirectoryEntry | None:
        cache = self.journal.cache
        known = cache.find(parent, name)
        if known is not UNKNOWN and (known is not None or not normalized or name.isascii()):
            return known
        generation = cache.generation
        with self.database.autocommit_reader() as connection:
            entry = queries.find_entry(connection, parent, name, normalized=normalized)
        if entry is None or entry.name == name:
            cache.remember(generation, parent, name, entry)
        if entry is None and cache.wants_directory(parent):
            self.journal.cache_directory(parent)
        return entry

    def _node(self, inode: Inode) -> Attributes | None:
        cache = self.journal.cache
        known = cache.node(inode)
        if known is not None:
            return known
        generation = cache.generation
        with self.database.autocommit_reader() as connection:
            found = queries.attributes(connection, inode)
        if found is not None:
            cache.remember_node(generation, found)
        return found

    @retry_if_flushed
    def attributes(self, inode: Inode, *, removed: bool = False) -> Attributes:
        """Return a node's attributes."""
        found = self._node(inode)
        if found is None or (found.nlink == 0 and not removed and self.open_files.find(inode) is None):
            raise NotFound
        return self.open_files.dirty_attributes(found)

    @retry_if_flushed
    def list_directory(self, inode: Inode) -> list[DirectoryEntry]:
        """Return all entries in byte order of their names."""
        return self.open_files.dirty_entries(self._list(inode, queries.children))

    @retry_if_flushed
    def list_briefly(self, inode: Inode) -> list[Listed]:
        """Return of all entries what long listings tell, in byte order of their names."""
        found = self._list(inode, queries.listing)
        if self.open_files and any(self.open_files.find(each.inode) for each in found):
            return [listed(entry.name, entry.attributes) for entry in self.list_directory(inode)]
        return found

    def _list(self, inode: Inode, ask: Callable[[Connection, Inode], list[T]]) -> list[T]:
        with self.database.reading() as connection:
            found = ask(connection, inode)
            if not found:
                self._require_directory(queries.attributes(connection, inode))
            return found

    def _require_directory(self, attributes: Attributes | None) -> None:
        if attributes is None:
            raise NotFound
        if not attributes.is_directory:
            raise NotADirectory

    def parent(self, inode: Inode) -> Inode:
        """Return the folder that holds a folder."""
        with self.database.reading() as connection:
            found = queries.parent_of(connection, inode)
        if found in (None, TRASH_INODE) and inode != self.root:
            raise NotFound
        return found or self.root

    def places(self, inode: Inode) -> list[tuple[Inode, bytes]]:
        """Return each (parent, name) of a node outside the trash."""
        with self.database.reading() as connection:
            return [place for place in queries.places_of(connection, inode) if place[0] != TRASH_INODE]

    def read_link(self, inode: Inode) -> bytes:
        """Return a symlink's target."""
        with self.database.reading() as connection:
            return node_attributes.read_link(connection, inode)

    def capacity(self) -> Capacity:
        """Return space and counts."""
        files, used = self._recent_totals.get()
        total, free = self._space()
        return Capacity(total=total, free=free, used=used, files=files)

    def allocated(self, attributes: Attributes) -> int:
        """Return how many bytes of a node are data, holes left out."""
        return self._allocations.of(attributes, self.open_files.find)

    def storage_state(self, inode: Inode) -> str:
        """Return ``local``, ``uploading`` or ``stored``."""
        file = self.open_files.find(inode)
        if file is not None and file.dirty:
            return "local"
        return storage_state(self.database, self.content, inode)

    # ---- names ---------------------------------------------------------------------------------------------------

    def create(
        self, parent: Inode, name: bytes, kind: Kind, mode: int, owner: Owner, *, rdev: int = 0, target: bytes = b"",
        umask: int = 0, durable: bool = False,
    ) -> Attributes:  # fmt: skip
        """Make an empty file, folder, symlink, FIFO, socket or device."""
        local = check_new_name(parent, name, self._junk) and kind == FILE
        changes.check_target(kind, target)

        def work(change: Change) -> Attributes:
            folder = changes.require_directory(change, parent)
            if changes.find(change, parent, name) is not None:
                raise Exists
            node = changes.make(
                change, self.keys, folder, name, kind, mode, owner, rdev=rdev, target=target, local=local, umask=umask
            )
            return changes.made_alone(change, node)

        made = self._change(work, durable=durable)
        self.listeners.notify(None, parent, name)
        return made

    def link(self, inode: Inode, parent: Inode, name: bytes, *, durable: bool = False) -> Attributes:
        """Give a node that is no folder one more name."""
        check_new_name(parent, name, self._junk)

        linked = self._change(lambda change: changes.link(change, inode, parent, name), durable=durable)
        self.listeners.notify(inode, parent, name)
        return self.open_files.dirty_attributes(linked)

    def unlink(self, parent: Inode, name: bytes, *, durable: bool = False) -> None:
        """Remove a name of something that is no folder."""
        check_name(name)
        self._change(lambda change: changes.unlink(change, parent, name), durable=durable, takes=True)
        self.listeners.notify(None, parent, name)

    def remove_directory(self, parent: Inode, name: bytes, *, durable: bool = False) -> None:
        """Remove an empty folder."""
        check_name(name)
        self._change(lambda change: changes.remove_directory(change, parent, name), durable=durable, takes=True)
        self.listeners.notify(None, parent, name)

    def remove_tree(
        self, parent: Inode, name: bytes, *, precondition: Precondition | None = None, durable: bool = False
    ) -> None:
        """Remove a name and all below it, as one change."""
        check_name(name)

        def work(change: Change) -> Inode:
            entry = changes.require(change, parent, name)
            if precondition is not None:
                precondition(entry.attributes)
            changes.delete(change, entry, name)
            return entry.attributes.inode

        self.listeners.notify(self._change(work, durable=durable, takes=True), parent, name)

    def rename(
        self, parent: Inode, name: bytes, new_parent: Inode, new_name: bytes, *, flags: RenameFlag = RenameFlag.NONE,
        replace_tree: bool = False, whiteout_owner: Owner = NOBODY, precondition: Precondition | None = None,
        durable: bool = False,
    ) -> bool:  # fmt: skip
        """Move an entry, replacing what has the new name as rename(2) does."""
        check_name(name)
        local = check_new_name(new_parent, new_name, self._junk)
        if RenameFlag.EXCHANGE in flags and flags != RenameFlag.EXCHANGE:
            raise InvalidArgument("an exchange goes with no other flag")

        def work(change: Change) -> bool:
            folder = changes.require_directory(change, new_parent)
            replaced = changes.rename(
                change, self.content, parent, name, folder, new_name, flags, replace_tree=replace_tree,
                precondition=precondition, local=local,
            )  # fmt: skip
            if RenameFlag.WHITEOUT in flags:
                changes.make_whiteout(change, self.keys, parent, name, whiteout_owner)
            return replaced

        # Who saves a file by renaming a buffer over it looks upon this as the end of saving.
        replaced = self._change(work, durable=durable, takes=True, lazy=False)
        self.listeners.notify(None, parent, name)
        self.listeners.notify(None, new_parent, new_name)
        return replaced

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
        """Copy a node, with its properties and times and all below it, as one change that moves no data."""
        local = check_new_name(parent, name, self._junk)
        self.open_files.flush_or_fsync()

        def work(change: Change) -> tuple[Attributes, bool]:
            folder = changes.require_directory(change, parent)
            node, replaced = copying.copy(
                change, self.content, self.keys, inode, folder, name, self._junk, recursive=recursive, replace=replace,
                precondition=precondition, local=local,
            )  # fmt: skip
            return changes.made(change, node), replaced

        copied = self._change(work, durable=durable)
        self.listeners.notify(None, parent, name)
        return copied

    def _change(self, work: Callable[[Change], T], *, durable: bool, takes: bool = False, lazy: bool = True) -> T:
        nowait = self._nonblocking.is_active
        if durable or takes:  # closed files come first; what takes nothing away need not wait for them
            self.open_files.flush_queued(nowait=nowait)
        return self.journal.change(work, durable=durable, lazy=lazy, nowait=nowait)

    def call_nowait(self, work: Callable[[], T]) -> T:
        """Call ``work``, in which a change that would have to wait is refused by WouldBlock."""
        with self._nonblocking:
            return work()

    # ---- attributes ----------------------------------------------------------------------------------------------

    def set_attributes(self, inode: Inode, change: AttributeChange, *, durable: bool = False) -> Attributes:
        """Set attributes; ``size`` truncates."""
        if self._nonblocking.is_active and (change.size is not None or self.open_files.find(inode) is not None):
            raise WouldBlock("the file is open")
        if change.size is not None:
            self.open_files.truncate(inode, change.size)
        waits = self.open_files.defer_attributes(inode, change, waiting=True) and node_attributes.is_simple(change)
        if durable or not waits:
            self._change(lambda each: node_attributes.set_attributes(each, inode, change), durable=durable)
        self.listeners.notify(inode)
        return self.attributes(inode, removed=True)

    def defer_attributes(self, inode: Inode, change: AttributeChange) -> bool:
        """Leave attributes to the commit of a file's unflushed writes, without waiting; False if they cannot be."""
        is_simple = change.size is None and node_attributes.is_simple(change)
        return is_simple and self.open_files.defer_attributes(inode, change, waiting=False)

    def get_xattr(self, inode: Inode, name: bytes) -> bytes:
        """Return an extended attribute."""
        with self.database.reading() as connection:
            value = node_attributes.get_xattr(connection, inode, name)
        # A mode may wait for the commit of a file's writes.
        return acl.with_mode(value, self.attributes(inode, removed=True).mode) if name == acl.ACCESS else value

    def set_xattr(
        self, inode: Inode, name: bytes, value: bytes, *, flags: XattrFlag = XattrFlag.NONE,
        drop_set_group_id: bool = False, durable: bool = False,
    ) -> None:  # fmt: skip
        """Set one."""
        node_attributes.check_xattr(name, value)
        if name == acl.ACCESS:
            self.open_files.flush(lambda file: file.inode == inode)  # its commit would bring an earlier mode
        self._change(
            lambda each: node_attributes.set_xattr(
                each, inode, name, value, flags, drop_set_group_id=drop_set_group_id
            ),
            durable=durable,
        )
        self.listeners.notify(inode)

    def list_xattrs(self, inode: Inode) -> list[bytes]:
        """Return the names."""
        with self.database.reading() as connection:
            return node_attributes.list_xattrs(connection, inode)

    def remove_xattr(self, inode: Inode, name: bytes, *, durable: bool = False) -> None:
        """Remove one."""
        self._change(lambda change: node_attributes.remove_xattr(change, inode, name), durable=durable)
        self.listeners.notify(inode)

    def properties(self, inodes: Iterable[Inode]) -> dict[Inode, dict[bytes, bytes]]:
        """Return the WebDAV properties of nodes, in one query."""
        with self.database.reading() as connection:
            return node_attributes.properties(connection, inodes)

    def set_properties(
        self,
        inode: Inode,
        values: Mapping[bytes, bytes | None],
        *,
        attributes: AttributeChange | None = None,
        durable: bool = True,
    ) -> None:
        """Set (or, with None, remove) properties and attributes, all of them or none."""
        if attributes is not None:
            self.open_files.defer_attributes(inode, attributes, waiting=True)
        self._change(lambda change: node_attributes.set_properties(change, inode, values, attributes), durable=durable)
        if attributes is not None:
            self.listeners.notify(inode)

    # ---- content -------------------------------------------------------------------------------------------------

    def open(self, inode: Inode, *, writable: bool = False, truncate: bool = False, moves_times: bool = True) -> Handle:
        """Open a file."""
        if truncate and self._nonblocking.is_active:
            raise WouldBlock("a file is cut")
        file = self.open_files.acquire(inode)
        try:
            if writable:
                file.check_writable()
            if truncate:
                file.truncate(0, moves_times=moves_times)
        except BaseException:
            self.open_files.release(file)
            raise
        return Handle(self.open_files, file, self.content, writable=writable, moves_times=moves_times)

    def upload(
        self, parent: Inode, name: bytes, *, owner: Owner, mode: int = 0o666, normalized: bool = False
    ) -> FileUpload:
        """Begin a file's new content."""
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
        return FileUpload(self, parent, name, owner=owner, mode=mode, normalized=normalized, local=local)

    def sync(self) -> None:
        """Return when everything closed so far survives a power cut."""
        self.open_files.flush_queued()
        self.database.writer.sync()

    def load_locks(self) -> list[LockRecord]:
        """Return the locks kept, expired ones left out."""
        return self._locks.load()

    def save_lock(self, record: LockRecord) -> None:
        """Keep a lock, replacing one of the same token."""
        self._locks.save(record)

    def delete_lock(self, token: str) -> None:
        """Forget a lock."""
        self._locks.delete(token)
