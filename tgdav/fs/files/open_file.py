"""An open file: one shared state per node, for any number of handles.

A file that is written from its beginning has a sequential write buffer, which becomes content as a whole. Other writes go to an
overlay over the committed manifest; only the dirty ranges are chunked again. A file has a buffer, an overlay, or neither. One
transaction logs the new content and removes the overlay. See ``tgdav.fs.filesystem`` for the lock order.
"""

import threading
from collections.abc import Callable

from tgdav.content.format.manifest import Manifest
from tgdav.content.format.manifest import decode as decode_manifest
from tgdav.content.format.manifest import encode as encode_manifest
from tgdav.content.overlay import Overlay
from tgdav.crdt.ops import Attr, Write
from tgdav.errors import DamageError, FileTooLarge, InvalidArgument
from tgdav.fs.files.context import OpenFileContext, require_writable
from tgdav.fs.files.dirty_ranges import read_overlaid, stage_overlaid
from tgdav.fs.files.redo import FileRecords, FoundRecords
from tgdav.fs.files.sequential_buffer import GAP, SequentialWriteBuffer
from tgdav.fs.files.writeback import PendingCommit, commit
from tgdav.fs.node_attributes import acl_operations, require
from tgdav.ids import ContentTag, Inode, NodeId
from tgdav.metadata.change import Change
from tgdav.metadata.types import AttributeChange, Attributes

SIZE_MAX = 2**62
Data = bytes | bytearray | memoryview
_INSERT_OVERLAY = "INSERT OR REPLACE INTO overlays (ino, file, salt) VALUES (?, ?, ?)"
_DELETE_OVERLAY = "DELETE FROM overlays WHERE ino = ?"


def _mode_and_owner(change: AttributeChange) -> dict[str, int]:
    if change.mode is None and change.uid is None and change.gid is None:
        return {}
    mode = None if change.mode is None else change.mode & 0o7777
    wanted = {"mode": mode, "uid": change.uid, "gid": change.gid}
    return {name: value for name, value in wanted.items() if value is not None}


class OpenFile:
    """The shared state of a node that is open or has unflushed writes.

    Create, write, flush, setattr and release of small files run through here; each call of a method costs them a few percent.
    """

    def __init__(self, context: OpenFileContext, attributes: Attributes, manifest: Manifest) -> None:
        self.lock = threading.RLock()
        self.inode: Inode = attributes.inode
        self.handles = 0
        self._context = context
        self._node: NodeId = attributes.node
        self._local = attributes.local
        self.tag: ContentTag | None = attributes.tag
        self.manifest = manifest
        self.damage: DamageError | None = None
        self._buffer: SequentialWriteBuffer | None = None
        self._overlay: Overlay | None = None
        # Name and key salt of the overlay; _has_overlay_row: they are in the database, so the next start finds it.
        self._overlay_name, self._salt = "", b""
        self._has_overlay_row = False
        self._mtime: int | None = None
        self._atime: int | None = None
        self._ctime: int | None = None
        self._moves_times = False
        # Mode and owner that were answered and wait for the commit.
        self._deferred: dict[str, int] = {}
        # Size and number of writes that are being committed: in between, the file has neither buffer nor overlay.
        self._staged: tuple[int, int] | None = None
        # Changes with every change of content or attributes, so that an unchanged file is recorded in the redo log once.
        self._version = 0
        self.records = FileRecords(context.database.redo, attributes.node)
        self.last_write = self.dirty_since = 0.0

    # ---- reading -------------------------------------------------------------------------------------------------

    @property
    def is_local(self) -> bool:
        """Whether the file stays on this machine."""
        return self._local

    @property
    def dirty(self) -> int:
        """The number of unflushed writes."""
        return self._unflushed[1]

    @property
    def _unflushed(self) -> tuple[int, int]:
        """File size and number of unflushed writes, including those that are being committed; (0, 0) if there are none."""
        staged, unflushed = self._staged, self._buffer or self._overlay
        return (unflushed.size, unflushed.changes) if unflushed is not None else staged or (0, 0)

    @property
    def size(self) -> int:
        """The file's size in bytes, with unflushed writes."""
        return self._unflushed[0] if self.dirty else self.manifest.size

    @property
    def unflushed_bytes(self) -> tuple[int, int] | None:
        """(bytes of the committed content that are still visible, about how many bytes were written over it), None if clean."""
        buffer, overlay = self._buffer, self._overlay
        if buffer is not None or (overlay is None and self._staged is not None):
            return 0, self._unflushed[0]
        return None if overlay is None else (overlay.floor, overlay.staged)

    def with_unflushed(self, attributes: Attributes) -> Attributes:
        """Return a node's attributes with its unflushed writes.

        Takes no lock, so that a stat never waits for a file that is being flushed.
        """
        (size, changes), a, deferred = self._unflushed, attributes, self._deferred
        if not changes:
            return attributes
        atime, mtime, ctime = self._atime, self._mtime, self._ctime
        return Attributes(
            a.inode, a.node, a.kind, deferred.get("mode", a.mode), deferred.get("uid", a.uid), deferred.get("gid", a.gid),
            a.rdev, a.nlink, size, a.atime if atime is None else atime, a.mtime if mtime is None else mtime,
            a.ctime if ctime is None else ctime, a.btime, a.tag, changes, a.local,
        )  # fmt: skip

    def read_unflushed(self, offset: int, length: int) -> bytes | None:
        """Return the bytes at ``offset`` if the file has unflushed writes; None if ``manifest`` has them.

        Raises DamageError if writes that an fsync had made durable are lost.
        """
        if self.damage is not None:
            raise self.damage
        with self.lock:
            if self._buffer is not None:
                found = self._buffer.read(offset, length)
                if found is not None:
                    return found
                self.flush()  # some of the bytes have left the buffer's window
            if self._overlay is not None:
                return read_overlaid(self._context.content, self.manifest, self._overlay, offset, length)
        return None

    # ---- writing -------------------------------------------------------------------------------------------------

    def write(self, offset: int, data: Data, *, append: bool = False, moves_times: bool = True) -> int:
        """Write to the buffer or the overlay; return the number of bytes."""
        with self.lock:
            self.check_writable()
            offset = self.size if append else offset
            if offset < 0:
                raise InvalidArgument("the offset must not be negative")
            if not len(data):
                return 0
            if offset + len(data) > SIZE_MAX:
                raise FileTooLarge
            if not self._write_buffered(offset, data):
                overlay = self._ensure_overlay()
                self._context.content.admit(len(data))
                overlay.write(offset, data)
            self._touch(moves_times=moves_times)
            return len(data)

    def write_nowait(self, offset: int, data: Data, *, moves_times: bool = True) -> bool:
        """Write to the buffer if the data stays in memory and the file's lock is free; return False if nothing was done."""
        if self._context.buffer_budget.is_exceeded or not len(data) or not self.lock.acquire(blocking=False):
            return False
        try:
            self.check_writable()
            if self._buffer is None and self._overlay is None and self.manifest.size == 0 and offset == 0:
                self._start_buffer()
            buffer = self._buffer
            if buffer is None or not buffer.accepts_nowait(offset, len(data)):
                return False
            buffer.write(offset, data)
            self._touch(moves_times=moves_times)
            return True
        finally:
            self.lock.release()

    def _write_buffered(self, offset: int, data: Data) -> bool:
        """Write to the buffer, which an empty file gets here; return False if the write must go to the overlay."""
        if self._buffer is None and self._overlay is None and self.manifest.size == 0 and offset <= GAP:
            self._start_buffer()
        if self._buffer is None:
            return False
        # Over the budget, buffers move to disk instead of growing.
        if self._context.buffer_budget.is_exceeded or not self._buffer.write(offset, data):
            self._switch_to_overlay()
            return False
        return True

    def _start_buffer(self) -> None:
        self._buffer = SequentialWriteBuffer(self._context.content, self._context.buffer_budget, local=self._local)

    def _switch_to_overlay(self) -> None:
        """Move what the buffer holds to an overlay; if some of it has left the window, make the buffer content instead."""
        buffer = self._buffer
        assert buffer is not None
        whole = buffer.read(0, buffer.size)
        if whole is None:
            self.flush()
            return
        overlay = self._ensure_overlay()
        if self.manifest.size:
            overlay.truncate(0)
        if whole:
            self._context.content.admit(len(whole))
            overlay.write(0, whole)
        self._discard_buffer()

    def _discard_buffer(self) -> None:
        if self._buffer is not None:
            self._buffer.abort()
            self._buffer = None

    def truncate(self, size: int, *, moves_times: bool = True) -> None:
        """Truncate or extend the file, in the buffer or the overlay."""
        if size < 0:
            raise InvalidArgument("the size must not be negative")
        if size > SIZE_MAX:
            raise FileTooLarge
        with self.lock:
            self.check_writable()
            # An empty file is written from its beginning again. An overlay that fsync has made durable must stay until the
            # commit, though.
            if self._buffer is None and size == 0 and not self._has_overlay_row:
                self._remove_overlay()
                self._start_buffer()
            elif self._buffer is None or not self._buffer.truncate(size):
                if self._buffer is not None:
                    self._switch_to_overlay()
                self._ensure_overlay().truncate(size)
            self._touch(moves_times=moves_times)

    def _touch(self, *, moves_times: bool) -> None:
        """Count a write. A kernel that caches writes sets the times itself, and moves them at most once per tick of its clock."""
        self._version += 1
        if moves_times:
            self._mtime, self._ctime, self._moves_times = self._context.clock.file_time_ns(), None, True
        self.last_write = self._context.clock.monotonic()
        self.dirty_since = self.dirty_since or self.last_write

    def check_writable(self) -> None:
        """Raise ReadOnly if another machine has become the writer; files that stay on this machine are always writable."""
        if not self._local:
            require_writable(self._context.journal)

    # ---- the overlay ---------------------------------------------------------------------------------------------

    def _ensure_overlay(self) -> Overlay:
        if self._overlay is None:
            entropy = self._context.entropy
            self._overlay_name, self._salt = entropy.bytes(16).hex(), entropy.bytes(16)
            self._overlay = self._open_overlay(fresh=True)
        return self._overlay

    def _open_overlay(self, *, fresh: bool) -> Overlay:
        context = self._context
        return Overlay(
            context.overlay_directory / self._overlay_name,
            self._node,
            context.identity.overlay_key(self._node, self._salt),
            base_size=self.manifest.size,
            disk=context.disk,
            entropy=context.entropy,
            fresh=fresh,
        )

    def _remove_overlay(self) -> None:
        if self._overlay is not None:
            self._overlay.close(remove=True)
            self._overlay = None

    def adopt(self, name: str, salt: bytes) -> None:
        """Reopen the overlay that an earlier process made durable. Raises DamageError, as all later reads do, if it is gone."""
        with self.lock:
            self._overlay_name, self._salt, self._has_overlay_row = name, salt, True
            try:
                self._overlay = self._open_overlay(fresh=False)
            except FileNotFoundError:
                self.damage = DamageError("writes that were made durable are gone from this machine", blob="overlay")
                raise self.damage from None
            self._overlay.replay()
            self._touch(moves_times=True)

    def fsync(self) -> None:
        """Make all writes so far durable. An overlay is synced as it is, without chunking or logging."""
        with self.lock:
            if self._buffer is not None:
                self.flush(durable=True)
                return
            overlay = self._overlay
            if overlay is not None:
                overlay.fsync()
                if not self._has_overlay_row:
                    row = (self.inode, self._overlay_name, self._salt)
                    self._context.database.writer.run(lambda t: t.execute(_INSERT_OVERLAY, row), durable=True)
                    self._has_overlay_row = True
        self._context.database.writer.sync()  # changes made before these writes must survive with them

    # ---- attributes ----------------------------------------------------------------------------------------------

    def defer_attributes(
        self, change: AttributeChange, flush_later: Callable[["OpenFile"], bool], *, blocking: bool
    ) -> bool:
        """Leave attributes to the commit of the unflushed writes; return False if they must be committed separately.

        Times are set by that commit in any case, so they wait as long as the writes do. Mode and owner wait only a moment:
        ``flush_later`` queues the file, or returns False. Raises ReadOnly.
        """
        if not self.lock.acquire(blocking=blocking):
            return False
        try:
            if not self.dirty:
                return False
            self.check_writable()
            given = _mode_and_owner(change)
            # Once something is deferred everything must be: that commit would undo what was set separately before it.
            waits = not given or (self.may_wait and flush_later(self)) or bool(self._deferred)
            if waits and given:
                self._deferred |= given
            self._set_times(change)
            if not (given or self.records.has_content):
                return waits  # unflushed writes are recorded when the file is closed, and their times with them
            return waits and self.records.keep_attributes(given | self._times)
        finally:
            self.lock.release()

    @property
    def _times(self) -> dict[str, int]:
        times = {"mtime": self._mtime, "atime": self._atime, "ctime": self._ctime or self._mtime}
        return {name: value for name, value in times.items() if value is not None}

    def _set_times(self, change: AttributeChange) -> None:
        self._version += 1
        self._mtime = self._mtime if change.mtime is None else change.mtime
        self._atime = self._atime if change.atime is None else change.atime
        self._ctime = self._context.clock.file_time_ns() if change.ctime is None else change.ctime

    # ---- the redo log --------------------------------------------------------------------------------------------

    def record_closed(self) -> bool:
        """Record the unflushed content of a closed file in the redo log, so that its commit may wait.

        Returns False if it must not wait, or if the file's lock is not free.
        """
        if not self.lock.acquire(blocking=False):
            return False
        try:
            buffer = self._buffer
            # An overlay may be large: it is never recorded, but flushed by close.
            if buffer is None or not self.may_wait:
                return not self.dirty
            if self.records.has(self._version):
                return True
            content = buffer.read(0, buffer.size) or b""
            return self.records.keep_content(self.tag, self._deferred | self._times, content, self._version)
        finally:
            self.lock.release()

    @property
    def may_wait(self) -> bool:
        """Whether the unflushed writes are small, and nothing is known that would make their commit fail."""
        buffer, context = self._buffer, self._context
        is_small = buffer is not None and buffer.is_small and not context.buffer_budget.is_exceeded
        return is_small and self.damage is None and (self._local or context.journal.read_only is None)

    def restore(self, content: bytes, values: dict[str, int], found: FoundRecords) -> None:
        """Restore the unflushed content and deferred attributes of an earlier process. Raises ReadOnly."""
        with self.lock:
            self.truncate(0, moves_times=False)
            self.write(0, content, moves_times=False)
            self._deferred = {name: values[name] for name in ("mode", "uid", "gid") if name in values}
            self._mtime, self._atime, self._ctime = (values.get(name) for name in ("mtime", "atime", "ctime"))
            self.records.resume(found)

    # ---- flushing ------------------------------------------------------------------------------------------------

    def flush(self, *, durable: bool = False, keep: bool = False) -> None:
        """Make the unflushed writes content and commit it; ``keep`` as in ``stage``."""
        with self.lock:
            pending = self.stage(keep=keep)
            if pending is not None:
                commit(self._context.journal, [pending], durable=durable)

    def stage(self, *, keep: bool) -> PendingCommit | None:
        """Stage the unflushed writes and return their commit, None if there are none. The caller holds the lock.

        With ``keep``, a small buffer is restored if staging or the commit fails.
        """
        if self.damage is not None:
            raise self.damage
        if not self.dirty:
            return None
        self.check_writable()
        buffer = self._buffer
        if buffer is None:
            assert self._overlay is not None
            manifest, parts = stage_overlaid(self._context.content, self.manifest, self._overlay, local=self._local)
            return PendingCommit(self, manifest, parts, None)
        content = buffer.read(0, buffer.size) if keep else None
        # From here until the commit, attributes come from _staged.
        self._staged, self._buffer = (buffer.size, buffer.changes), None
        try:
            staged = buffer.finish()
        except BaseException:
            self.on_commit_failed(content)
            raise
        return PendingCommit(self, staged.manifest, [staged], content)

    @property
    def has_overlay_row(self) -> bool:
        """Whether an fsync has made unflushed writes durable."""
        return self._has_overlay_row

    def encode_and_tag(self, manifest: Manifest) -> tuple[bytes, ContentTag]:
        """Return an encoded manifest and its tag."""
        encoded = encode_manifest(manifest)
        return encoded, self._context.keys.content_tag(encoded)

    def log(self, change: Change, size: int, manifest: bytes, tag: ContentTag) -> None:
        """Emit the new content and the deferred attributes. Raises NotFound."""
        node = require(change, self.inode)
        if self._local and not node.local:
            # It was renamed from a junk name while it was open.
            self._context.content.publish(change.transaction, decode_manifest(manifest))
        self._local = node.local
        emit = change.emit_local if node.local else change.emit
        ctime = node.ctime if self._ctime is None and not self._moves_times else self._ctime
        emit(Write(self._node, size, tag, manifest, self.tag, node.mtime if self._mtime is None else self._mtime))
        self._log_deferred(change, node, {} if ctime is None else {"ctime": ctime})
        if self._atime is not None:
            change.set_local(self.inode, atime=self._atime)
        if self._has_overlay_row:
            change.transaction.execute(_DELETE_OVERLAY, (self.inode,))

    def _log_deferred(self, change: Change, node: Attributes, others: dict[str, int]) -> None:
        """Emit the deferred attributes, with ``others``. ``node`` is the node before the change: to ask for it again, after
        the write, would execute a statement for each of the files that are committed together."""
        emit, values = change.emit_local if node.local else change.emit, self._deferred | others
        if "mode" in values:
            for op in acl_operations(change, node, values["mode"]):
                emit(op)
        if values:
            emit(Attr(self._node, values))

    def on_committed(self, manifest: Manifest, tag: ContentTag) -> None:
        """Continue with the committed content; the caller holds the lock."""
        # First of all, so that lookups that run now are retried: they may have read the old row and the clean file.
        self._context.last_flush = object()
        self.tag = tag
        self._rebase(manifest)
        self._staged = None
        self.records.forget()
        self._forget_attributes()

    def on_commit_failed(self, content: bytes | None) -> None:
        """Restore ``content`` to the buffer; the caller holds the lock."""
        if content is not None and self._buffer is None:
            self._start_buffer()
            self._write_buffered(0, content)
        self._staged = None
        if not self.dirty:
            self._forget_attributes()

    def _forget_attributes(self) -> None:
        self._mtime = self._atime = self._ctime = None
        self._deferred, self._moves_times = {}, False

    def _rebase(self, manifest: Manifest) -> None:
        overlay, self._overlay = self._overlay, None
        self.manifest, self._has_overlay_row, self.dirty_since = manifest, False, 0.0
        if overlay is not None:
            overlay.close(remove=True)

    def replaced(self, manifest: Manifest, tag: ContentTag | None) -> None:
        """Continue with content that has replaced this file's as a whole; unflushed writes are lost with the old content."""
        with self.lock:
            self._discard_buffer()
            if self._has_overlay_row:
                self._context.database.writer.run(lambda t: t.execute(_DELETE_OVERLAY, (self.inode,)), durable=True)
            # They were answered, and belong to the node, not to the content that is lost.
            if self._deferred:
                self._context.journal.change(lambda change: self._log_deferred(change, require(change, self.inode), {}))
            kept = self.records.kept
            if kept:
                self._context.database.writer.run(lambda t: t.release(kept), lazy=True)
            self.records.forget()
            self._rebase(manifest)
            self._forget_attributes()
            self.tag = tag

    def abandon(self) -> None:
        """Close the overlay without flushing; the next start adopts it if an fsync made it durable."""
        with self.lock:
            self._discard_buffer()
            if self._overlay is not None:
                self._overlay.close(remove=not self._has_overlay_row)
                self._overlay = None
