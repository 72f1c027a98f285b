"""The table of open files. See ``tgdav.fs.filesystem`` for the lock order."""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress

import msgspec

from tgdav.content.format.manifest import EMPTY, Manifest
from tgdav.content.format.manifest import decode as decode_manifest
from tgdav.errors import (
    DamageError,
    FileSystemError,
    InvalidArgument,
    IsADirectory,
    NotFound,
    StoreError,
    TgdavError,
    WouldBlock,
)
from tgdav.failpoints import failpoint
from tgdav.fs import node_attributes
from tgdav.fs.files.context import OpenFileContext
from tgdav.fs.files.open_file import OpenFile
from tgdav.fs.files.redo import FoundRecords, found_by_node
from tgdav.fs.files.writeback import MAX_PER_COMMIT, WritebackThread
from tgdav.ids import Inode
from tgdav.metadata import queries
from tgdav.metadata.change import Change
from tgdav.metadata.types import AttributeChange, Attributes, DirectoryEntry

_log = logging.getLogger(__name__)

IDLE_SECONDS = 30.0
DIRTY_SECONDS = 300.0
"""A dirty file is flushed after so long without a write, or so long after its first unflushed write."""


class OpenFiles:
    """All files that are open or dirty, by inode. Thread-safe.

    ``uploads`` are the new contents of logged files that are being received.
    """

    def __init__(self, context: OpenFileContext) -> None:
        self.context = context
        self._lock = threading.Lock()
        self._files: dict[Inode, OpenFile] = {}
        self.uploads: set[object] = set()
        self._writeback = WritebackThread(context.journal, self._forget_if_idle)

    def start(self) -> None:
        """Start the writeback thread: from now on the commits of closed files may follow a moment later."""
        self._writeback.start()

    def stop(self) -> None:
        """Flush the queued files and stop the writeback thread."""
        self._writeback.stop()

    # ---- the table -----------------------------------------------------------------------------------------------

    def __bool__(self) -> bool:
        return bool(self._files)

    def find(self, inode: Inode) -> OpenFile | None:
        """Return the open file of a node, None if it is neither open nor dirty."""
        return self._files.get(inode)

    def open_manifests(self) -> list[Manifest]:
        """Return the contents over which the open files lie."""
        with self._lock:
            return [file.manifest for file in self._files.values()]

    def dirty_attributes(self, attributes: Attributes) -> Attributes:
        """Return a node's attributes with its unflushed writes, if it has any."""
        found = self._files.get(attributes.inode)
        if found is None:
            return attributes
        shown = found.with_unflushed(attributes)
        # The content of a file without a name may be dropped as a version while the file is open.
        return shown if shown.nlink else msgspec.structs.replace(shown, size=found.size)

    def dirty_entries(self, entries: list[DirectoryEntry]) -> list[DirectoryEntry]:
        """As ``dirty_attributes``, for all entries of a directory."""
        # The usual case: nothing is open.
        if not self._files:
            return entries
        return [DirectoryEntry(each.name, each.entry, self.dirty_attributes(each.attributes)) for each in entries]

    def acquire(self, inode: Inode) -> OpenFile:
        """Return a node's open file with one more handle. Raises NotFound, IsADirectory, InvalidArgument."""
        with self._lock:
            found = self._files.get(inode)
            if found is None:
                found = self._load(inode)
                self._files[inode] = found
            found.handles += 1
            return found

    def _load(self, inode: Inode) -> OpenFile:
        # Opening a file that was just created or looked up needs no query.
        attributes, encoded = self.context.journal.cache.content(inode) or self._query(inode)
        if attributes.is_directory:
            raise IsADirectory
        if not attributes.is_file:
            raise InvalidArgument("not a regular file")
        return OpenFile(self.context, attributes, decode_manifest(encoded) if encoded else EMPTY)

    def _query(self, inode: Inode) -> tuple[Attributes, bytes]:
        cache = self.context.journal.cache
        generation = cache.generation
        with self.context.database.reading() as connection:
            attributes = queries.attributes(connection, inode)
            if attributes is None:
                raise NotFound
            encoded = queries.manifest(connection, inode) if attributes.is_file else b""
        cache.remember_node(generation, attributes, encoded)
        return attributes, encoded

    def release(self, file: OpenFile) -> None:
        """Give one handle back; a clean file without handles leaves the table."""
        with self._lock:
            file.handles -= 1
            if file.handles <= 0 and not file.dirty and self._files.get(file.inode) is file:
                del self._files[file.inode]

    def _forget_if_idle(self, inode: Inode) -> None:
        with self._lock:
            file = self._files.get(inode)
            if file is not None and file.handles <= 0 and not file.dirty:
                del self._files[inode]

    def abandon(self) -> None:
        """Close all files without flushing; call this at the end of the process."""
        with self._lock:
            for file in self._files.values():
                file.abandon()
            self._files.clear()

    # ---- changing files ------------------------------------------------------------------------------------------

    def truncate(self, inode: Inode, size: int) -> None:
        """Truncate or extend a file, and commit that."""
        file = self.acquire(inode)
        try:
            file.truncate(size)
            file.flush()
        finally:
            self.release(file)

    def defer_attributes(self, inode: Inode, change: AttributeChange, *, blocking: bool) -> bool:
        """Leave attributes to the commit of a file's unflushed writes, which then follows soon; return False if that fails.

        In both cases that commit, if there is one, does not undo them. Raises ReadOnly, InvalidArgument.
        """
        file = self._files.get(inode)
        return file is not None and file.defer_attributes(
            node_attributes.checked(change), self._writeback.add, blocking=blocking
        )

    # ---- flushing ------------------------------------------------------------------------------------------------

    def flush_later(self, file: OpenFile) -> bool:
        """Queue a file for the writeback thread; return False if the caller must flush it. Never waits."""
        # The redo log first: once the file is queued, its close may be answered.
        return not file.dirty or (self._writeback.accepts(file) and file.record_closed() and self._writeback.add(file))

    def flush_queued(self, *, nowait: bool = False) -> None:
        """Return when no closed file is queued. The caller must not hold a file's lock. With ``nowait``, raise WouldBlock."""
        if not nowait:
            self._writeback.flush_queued()
        elif not self._writeback.is_idle:
            raise WouldBlock("a closed file must be flushed first")

    def flush(self, wanted: Callable[[OpenFile], bool] = lambda _: True) -> None:
        """Flush the ``wanted`` dirty files. If some fail, the others are flushed all the same; the first error is raised."""
        failed: Exception | None = None
        for file in self._dirty(wanted):
            try:
                file.flush()
                self._forget_if_idle(file.inode)
            except Exception as error:
                failed = failed or error
        if failed is not None:
            raise failed

    def flush_finished(self, now: float) -> None:
        """Flush the files that are closed, or open without a write for a while: what is left is being written."""
        self.flush(lambda file: file.handles <= 0 or now - file.last_write >= IDLE_SECONDS)

    def has_unflushed(self) -> bool:
        """Return whether a file that is logged is being written. Takes no lock, so that a change may ask."""
        return bool(self.uploads) or any(file.dirty and not file.is_local for file in list(self._files.values()))

    def flush_idle(self, now: float) -> None:
        """Flush the files that are due at ``now``, in seconds of the monotonic clock."""
        self.flush(lambda file: now - file.last_write >= IDLE_SECONDS or now - file.dirty_since >= DIRTY_SECONDS)

    def flush_or_fsync(self) -> None:
        """Flush all dirty files; those that cannot be flushed now are made durable as they are, for the next start.

        If both fail for some files, the others are flushed all the same; the first error is raised.
        """
        failed: Exception | None = None
        for file in self._dirty(lambda _: True):
            try:
                self._flush_or_fsync(file)
            except Exception as error:
                failed = failed or error
        if failed is not None:
            raise failed

    def _flush_or_fsync(self, file: OpenFile) -> None:
        try:
            file.flush()
        except (DamageError, StoreError):
            file.fsync()
        except FileSystemError:
            raise
        except Exception:
            file.fsync()
            raise

    def _dirty(self, wanted: Callable[[OpenFile], bool]) -> list[OpenFile]:
        with self._lock:
            return [file for file in self._files.values() if file.dirty and wanted(file)]

    # ---- after a crash -------------------------------------------------------------------------------------------

    def adopt_overlays(self) -> int:
        """Reopen and flush the overlays that fsync made durable before a crash; return how many there were.

        Files that cannot be flushed now stay dirty: the store may be unavailable, or the content around their writes damaged. A
        file whose overlay is gone has lost its last writes; every read of it fails.
        """
        with self.context.database.reading() as connection:
            rows = connection.all("SELECT ino, file, salt FROM overlays")
        # Overlays without a row were not made durable: after a crash nothing of them may show.
        self._remove_orphans({str(row[1]) for row in rows})
        for inode, name, salt in rows:
            file = self.acquire(Inode(inode))
            try:
                file.adopt(name, salt)
            except DamageError as error:
                self.context.content.record_damage("overlay", "overlay", error.message)
                continue  # without a release it stays in the table, so that every read of it fails
            with suppress(DamageError, StoreError):
                file.flush(durable=True)
            self.release(file)
        return len(rows)

    def _remove_orphans(self, known: set[str]) -> None:
        for path in self.context.overlay_directory.iterdir():
            if path.name not in known:
                self.context.disk.unlink(path)

    def recover_closed(self) -> None:
        """Restore and flush the files that were closed but not committed before a crash.

        What cannot be changed now (another machine has become the writer, the disk is full) stays in the redo log.
        """
        files: list[OpenFile] = []
        redo = self.context.database.redo
        for node, found in found_by_node(redo).items():
            with self.context.database.reading() as connection:
                attributes = queries.attributes_of(connection, node)
            try:
                files += self._recover(found, attributes)
            except TgdavError as error:
                _log.warning("a file that was closed before a crash could not be restored yet: %s", error)
            failpoint("redo.taken-over")
        redo.found = ()
        for start in range(0, len(files), MAX_PER_COMMIT):
            self._writeback.flush(files[start : start + MAX_PER_COMMIT])
        for file in files:
            self.release(file)

    def _recover(self, found: FoundRecords, node: Attributes | None) -> list[OpenFile]:
        """Restore a file's unflushed content and return the file; or set its attributes, if only those were recorded."""
        values, content = found.latest(None if node is None else node.tag)
        if node is not None and content is not None:
            file = self.acquire(node.inode)
            try:
                file.restore(content, values, found)
            except TgdavError:
                self.release(file)
                raise
            return [file]

        def work(change: Change) -> None:
            if node is not None and values:
                node_attributes.set_attributes(change, node.inode, AttributeChange(**values))
            change.transaction.release(found.kept)

        try:
            self.context.journal.change(work, lazy=True)
        except NotFound:  # the node was removed: its records are obsolete
            self.context.database.writer.run(lambda transaction: transaction.release(found.kept), lazy=True)
        return []
