"""The table of open files, and handles on them. See ``tgdav.fs.filesystem`` for the lock order."""

import functools
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from tgdav.content.format.manifest import EMPTY
from tgdav.content.format.manifest import decode as decode_manifest
from tgdav.content.read.reader import FileReader
from tgdav.content.store import ContentStore
from tgdav.errors import (
    BadHandle,
    DamageError,
    FileSystemError,
    InvalidArgument,
    IsADirectory,
    NotFound,
    StoreError,
    WouldBlock,
)
from tgdav.fs.files.context import OpenFileContext
from tgdav.fs.files.open_file import OpenFile
from tgdav.fs.files.redo import take_over
from tgdav.fs.files.writeback import TOGETHER, WritebackThread
from tgdav.fs.node_attributes import checked
from tgdav.ids import Inode
from tgdav.metadata import queries
from tgdav.metadata.types import AttributeChange, Attributes, DirectoryEntry

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="HasOpenFiles")

IDLE_SECONDS = 30.0
DIRTY_SECONDS = 300.0
"""A dirty file is settled after so long without a write, or so long in any case."""


def retry_if_flushed(look: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Let a file system look again when a file was settled meanwhile.

    What is committed and what lies unflushed over it are looked at one after the other; a commit between the two would make
    new writes seem undone, and a kernel remembers what it was told for long.
    """

    @functools.wraps(look)
    def looking(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        context = self.open_files.context
        while True:
            before = context.last_flush
            found = look(self, *args, **kwargs)
            if context.last_flush is before:
                return found

    return looking


class HasOpenFiles(Protocol):
    """What ``retry_if_flushed`` needs of a file system."""

    open_files: "OpenFiles"


class OpenFiles:
    """All open files, by inode."""

    def __init__(self, context: OpenFileContext) -> None:
        self.context = context
        self._lock = threading.Lock()
        self._files: dict[Inode, OpenFile] = {}
        self._writeback = WritebackThread(context.journal, self._forget_if_idle)

    def start(self) -> None:
        """Let closed files wait a moment for their commit from now on."""
        self._writeback.start()

    def stop(self) -> None:
        """Settle the closed files that wait; none waits from now on."""
        self._writeback.stop()

    def flush_later(self, file: OpenFile) -> bool:
        """Have a file settled in a moment; False if it is to be settled now. Waits for nothing."""
        return not file.dirty or (self._writeback.takes(file) and file.log_closed() and self._writeback.add(file))

    def flush_queued(self, *, nowait: bool = False) -> None:
        """Return when no closed file waits to be settled. The caller holds no open file's lock. ``nowait``: WouldBlock."""
        if nowait and not self._writeback.is_idle:
            raise WouldBlock("a closed file is to be settled before")
        self._writeback.flush_queued()

    def find(self, inode: Inode) -> OpenFile | None:
        """Return the open file of a node, if it is open or dirty."""
        return self._files.get(inode)

    def dirty_attributes(self, attributes: Attributes) -> Attributes:
        """Return attributes with a node's unflushed writes, if it has any."""
        found = self._files.get(attributes.inode)
        return attributes if found is None else found.with_unflushed(attributes)

    def dirty_entries(self, entries: list[DirectoryEntry]) -> list[DirectoryEntry]:
        """As ``dirty_attributes``, for a whole folder."""
        if not self._files:
            return entries
        return [DirectoryEntry(each.name, each.entry, self.dirty_attributes(each.attributes)) for each in entries]

    def __bool__(self) -> bool:
        return bool(self._files)

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
        attributes, encoded = self.context.journal.cache.content(inode) or self._read(inode)
        if attributes.is_directory:
            raise IsADirectory
        if not attributes.is_file:
            raise InvalidArgument("not a regular file")
        return OpenFile(self.context, attributes, decode_manifest(encoded) if encoded else EMPTY)

    def _read(self, inode: Inode) -> tuple[Attributes, bytes]:
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
        """Give one handle back; the last one forgets a file that is settled."""
        with self._lock:
            file.handles -= 1
            if file.handles <= 0 and not file.dirty and self._files.get(file.inode) is file:
                del self._files[file.inode]

    def truncate(self, inode: Inode, size: int) -> None:
        """Cut or extend a file, and make that its content."""
        file = self.acquire(inode)
        try:
            file.truncate(size)
            file.flush()
        finally:
            self.release(file)

    def defer_attributes(self, inode: Inode, change: AttributeChange, *, waiting: bool) -> bool:
        """Leave attributes to the commit of a file's unflushed writes, which then comes soon; False if they cannot be.

        Either way that commit, if there is to be one, will not undo them. Raises ReadOnly, InvalidArgument.
        """
        file = self._files.get(inode)
        return file is not None and file.defer_attributes(checked(change), self._writeback.add, waiting=waiting)

    def adopt(self) -> int:
        """Take over, and settle, what fsync made durable before a crash; return how many files had such writes.

        What cannot be settled now stays dirty, with its overlay: the store may be away, or content that the writes go into
        be damaged. A file whose overlay is gone cannot be read: its last writes are lost.
        """
        with self.context.database.reading() as connection:
            rows = connection.all("SELECT ino, file, salt FROM overlays")
        self._remove_orphans({str(row[1]) for row in rows})
        for inode, name, salt in rows:
            file = self.acquire(Inode(inode))
            try:
                file.adopt(name, salt)
            except DamageError as error:
                self.context.content.record_damage("overlay", "overlay", error.message)
                continue  # it stays in the table, so that every read of it fails
            with suppress(DamageError, StoreError):
                file.flush(durable=True)
            self.release(file)
        return len(rows)

    def adopt_closed(self) -> None:
        """Settle the files that were closed before a crash, and not settled; what cannot be settled now stays dirty."""
        files = take_over(self)
        for start in range(0, len(files), TOGETHER):
            self._writeback.flush(files[start : start + TOGETHER])
        for file in files:
            self.release(file)

    def _remove_orphans(self, known: set[str]) -> None:
        for path in self.context.folder.iterdir():
            if path.name not in known:
                self.context.disk.unlink(path)

    def flush(self, wanted: Callable[[OpenFile], bool] = lambda _: True) -> None:
        """Settle the dirty files that ``wanted`` names; one that fails keeps no other from it, its error is raised."""
        failed: Exception | None = None
        for file in self._dirty(wanted):
            try:
                file.flush()
                self._forget_if_idle(file)
            except Exception as error:  # whatever it is, it is this file's, and is raised when the others are settled
                failed = failed or error
        if failed is not None:
            raise failed

    def flush_or_fsync(self) -> None:
        """Settle all dirty files; what cannot be settled now is made durable as it is, and adopted at the next start.

        One that can be neither keeps no other from it; its error is raised.
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

    def flush_idle(self, now: float) -> None:
        """Settle the files that are due at ``now``, in seconds of the monotonic clock."""
        self.flush(lambda file: now - file.last_write >= IDLE_SECONDS or now - file.dirty_since >= DIRTY_SECONDS)

    def _forget_if_idle(self, file: OpenFile) -> None:
        with self._lock:
            if file.handles <= 0 and not file.dirty and self._files.get(file.inode) is file:
                del self._files[file.inode]

    def abandon(self) -> None:
        """Let go of all files at the end of the process."""
        with self._lock:
            for file in self._files.values():
                file.abandon()
            self._files.clear()


class Handle:
    """An open file, as ``tgdav.fs.api.FileHandle``."""

    def __init__(
        self, files: OpenFiles, file: OpenFile, content: ContentStore, *, writable: bool, moves_times: bool = True
    ) -> None:
        self.inode = file.inode
        self._moves_times = moves_times
        self._files, self._file, self._content, self._writable = files, file, content, writable
        self._reader: FileReader | None = None
        self._keeps = False
        self._closed = False

    def _open(self, *, writing: bool = False) -> OpenFile:
        if self._closed or (writing and not self._writable):
            raise BadHandle
        return self._file

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes there; fewer only at the end of the file."""
        file = self._open()
        if offset < 0 or length < 0:
            raise InvalidArgument("a place below zero")
        reader = self._reader
        if self._keeps and reader is not None:
            return reader.read(offset, length)
        if not file.dirty and (reader is None or reader.manifest is not file.manifest):
            self._close_reader()
            reader = self._reader = self._content.reader.open(file.manifest)
        return file.read(offset, length, reader)

    def keep_content(self) -> bytes | None:
        """Let ``read`` keep to the content of now; return its tag, or None while the file is being written."""
        file = self._open()
        if file.dirty:
            self._files.flush_queued()  # it may be closed already, and its commit a moment away
        with file.lock:
            if file.dirty or file.damage is not None:
                return None
            manifest, tag = file.manifest, file.tag
        self._close_reader()
        self._reader, self._keeps = self._content.reader.open(manifest), True
        return tag or b""

    def is_here(self) -> bool:
        """Return whether all of the content that was kept can be read without the store."""
        return self._keeps and self._reader is not None and self._reader.is_here()

    def write(self, offset: int, data: bytes | bytearray | memoryview, *, append: bool = False) -> int:
        """Write all of ``data``, return its length."""
        return self._open(writing=True).write(offset, data, append=append, moves_times=self._moves_times)

    def write_nowait(self, offset: int, data: bytes | bytearray | memoryview) -> bool:
        """Write ``data`` if nothing has to be waited for; False if nothing was done."""
        return self._open(writing=True).write_nowait(offset, data, moves_times=self._moves_times)

    def truncate(self, size: int) -> None:
        """Cut or extend with a hole."""
        self._open(writing=True).truncate(size, moves_times=self._moves_times)

    def fsync(self) -> None:
        """Return when all written so far survives a power cut."""
        file = self._open()
        self._files.flush_queued()
        file.fsync()

    def flush_later(self) -> bool:
        """Have what was written so far committed in a moment; False if ``flush`` is to do it."""
        return self._files.flush_later(self._open())

    def flush(self) -> None:
        """Commit what was written so far."""
        self._open().flush()

    def close(self) -> None:
        """Give the handle up, committing its writes."""
        if self._closed:
            return
        self._closed = True
        self._close_reader()
        try:
            if self._writable:
                self._file.flush()
        finally:
            self._files.release(self._file)

    def close_nowait(self) -> bool:
        """As ``close``, with its writes committed in a moment; False, and nothing done, if that is not possible."""
        if not self._closed:
            if self._writable and not self._files.flush_later(self._file):
                return False
            self._closed = True
            self._close_reader()
            self._files.release(self._file)
        return True

    def _close_reader(self) -> None:
        reader, self._reader = self._reader, None  # a kernel that reads ahead asks in several threads
        if reader is not None:
            reader.close()
