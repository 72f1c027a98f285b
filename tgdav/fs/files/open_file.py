"""An open file: one shared state a node, however many handles it has.

A file that is written from its beginning is a buffer, which becomes content in one go. Other writes go to the overlay, and
reads see it over the base manifest; ``settle`` cuts around the dirty ranges. Either way one transaction logs the write, and
forgets the overlay if there was one. A file has a buffer, or an overlay, or neither. See ``tgdav.fs.filesystem`` for the
lock order.
"""

import threading
from collections.abc import Callable

from tgdav.content.format.manifest import Extent, Manifest
from tgdav.content.format.manifest import encode as encode_manifest
from tgdav.content.overlay import Overlay
from tgdav.content.read.reader import FileReader
from tgdav.content.staging.stream import StagedContent
from tgdav.crdt.ops import Attr, Write
from tgdav.errors import DamageError, FileTooLarge, InvalidArgument
from tgdav.fs.files.context import OpenFileContext, require_writable
from tgdav.fs.files.dirty_ranges import dirty_regions, kept_extents
from tgdav.fs.files.redo import FileRecords, Found
from tgdav.fs.files.sequential_buffer import GAP, SequentialWriteBuffer
from tgdav.fs.files.writeback import PendingCommit, commit
from tgdav.fs.node_attributes import acl_operations, require
from tgdav.ids import ContentTag, Inode, NodeId
from tgdav.metadata.change import Change
from tgdav.metadata.types import AttributeChange, Attributes

SIZE_MAX = 2**62
_STEP = 1 << 20
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
    """The shared state of a node that is open, or that has dirty writes."""

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
        self._overlay_file, self._salt = "", b""
        self._has_overlay_row = False
        self._mtime: int | None = None
        self._atime: int | None = None
        self._ctime: int | None = None
        self._moves_times = False
        self._deferred: dict[str, int] = {}
        self._staged: tuple[int, int] | None = None
        self._version = 0
        self.records = FileRecords(context.database.redo, attributes.node)
        self.last_write = self.dirty_since = 0.0

    # ---- looking -------------------------------------------------------------------------------------------------

    @property
    def dirty(self) -> int:
        """How many unflushed writes there are."""
        return self._unflushed[1]

    @property
    def _unflushed(self) -> tuple[int, int]:
        """Size and number of the unflushed writes, those on their way into a commit included; (0, 0) if there are none."""
        staged, unflushed = self._staged, self._buffer or self._overlay
        return (unflushed.size, unflushed.changes) if unflushed is not None else staged or (0, 0)

    @property
    def size(self) -> int:
        """Bytes, with unflushed writes."""
        return self._unflushed[0] if self.dirty else self.manifest.size

    @property
    def unflushed_bytes(self) -> tuple[int, int] | None:
        """Of unflushed writes: how far the content below still shows, and about how many bytes lie over it; else None."""
        buffer, overlay = self._buffer, self._overlay
        if buffer is not None or (overlay is None and self._staged is not None):
            return 0, self._unflushed[0]
        return None if overlay is None else (overlay.floor, overlay.staged)

    def with_unflushed(self, attributes: Attributes) -> Attributes:
        """Return a node's attributes as they are with its unflushed writes.

        Takes no lock, so that nobody who only looks waits for a file that is being settled.
        """
        (size, changes), a, held = self._unflushed, attributes, self._deferred
        if not changes:
            return attributes
        atime, mtime, ctime = self._atime, self._mtime, self._ctime
        return Attributes(
            a.inode, a.node, a.kind, held.get("mode", a.mode), held.get("uid", a.uid), held.get("gid", a.gid), a.rdev, a.nlink,
            size, a.atime if atime is None else atime, a.mtime if mtime is None else mtime, a.ctime if ctime is None else ctime,
            a.btime, a.tag, changes, a.local,
        )  # fmt: skip

    def read(self, offset: int, length: int, reader: FileReader | None = None) -> bytes:
        """Return the bytes there; ``reader`` remembers a sequential reader's place."""
        if self.damage is not None:
            raise self.damage
        with self.lock:
            if self._buffer is not None:
                found = self._buffer.read(offset, length)
                if found is not None:
                    return found
                self.flush()
            if self._overlay is not None:
                return self._read_dirty(offset, min(length, self._overlay.size - offset))
            manifest = self.manifest
        if reader is not None and reader.manifest is manifest:
            return reader.read(offset, length)
        return self._context.content.reader.read(manifest, offset, length)

    def _read_dirty(self, offset: int, length: int) -> bytes:
        overlay = self._overlay
        assert overlay is not None
        if length <= 0:
            return b""
        result = bytearray(length)
        shown = min(overlay.floor, offset + length)
        pieces = overlay.map.within(offset, offset + length)
        covered = len(pieces) == 1 and pieces[0].end - pieces[0].start == length
        if offset < shown and not covered:
            base = self._context.content.reader.read(self.manifest, offset, shown - offset)
            result[: len(base)] = base
        for piece in pieces:
            result[piece.start - offset : piece.end - offset] = overlay.read(piece)
        return bytes(result)

    # ---- writing -------------------------------------------------------------------------------------------------

    def write(self, offset: int, data: Data, *, append: bool = False, moves_times: bool = True) -> int:
        """Add a write to the buffer or the overlay."""
        with self.lock:
            self.check_writable()
            offset = self.size if append else offset
            if offset < 0:
                raise InvalidArgument("a place below zero")
            if not len(data):
                return 0
            if offset + len(data) > SIZE_MAX:
                raise FileTooLarge
            if not self._write_buffered(offset, data):
                overlay = self._ensure_overlay()
                self._context.content.admit(len(data))
                overlay.write(offset, data)
            self._touched(moves_times=moves_times)
            return len(data)

    def write_nowait(self, offset: int, data: Data, *, moves_times: bool = True) -> bool:
        """Add a write to the buffer if it stays in memory and nobody else is at work here; False if nothing was done."""
        if self._context.buffer_budget.is_short or not len(data) or not self.lock.acquire(blocking=False):
            return False
        try:
            self.check_writable()
            if self._buffer is None and self._overlay is None and self.manifest.size == 0 and offset == 0:
                self._start_buffer()
            buffer = self._buffer
            if buffer is None or not buffer.accepts_nowait(offset, len(data)):
                return False
            buffer.write(offset, data)
            self._touched(moves_times=moves_times)
            return True
        finally:
            self.lock.release()

    def _write_buffered(self, offset: int, data: Data) -> bool:
        """Add a write to the buffer, begun here when the file is empty; False where the overlay has to take it."""
        if self._buffer is None and self._overlay is None and self.manifest.size == 0 and offset <= GAP:
            self._start_buffer()
        if self._buffer is None:
            return False
        if self._context.buffer_budget.is_short or not self._buffer.write(offset, data):
            self._switch_to_overlay()
            return False
        return True

    def _start_buffer(self) -> None:
        self._buffer = SequentialWriteBuffer(self._context.content, self._context.buffer_budget, local=self._local)

    def _switch_to_overlay(self) -> None:
        """Go on with the overlay: what the buffer holds moves there, or becomes content if it is on its way already."""
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

    def truncate(self, size: int, *, moves_times: bool = True) -> None:
        """Cut or extend, in the buffer or the overlay."""
        if size < 0:
            raise InvalidArgument("a size below zero")
        if size > SIZE_MAX:
            raise FileTooLarge
        with self.lock:
            self.check_writable()
            if self._buffer is None and size == 0 and not self._has_overlay_row:
                self._drop_overlay()
                self._start_buffer()
            elif self._buffer is None or not self._buffer.truncate(size):
                if self._buffer is not None:
                    self._switch_to_overlay()
                self._ensure_overlay().truncate(size)
            self._touched(moves_times=moves_times)

    def _drop_overlay(self) -> None:
        if self._overlay is not None:
            self._overlay.close(remove=True)
            self._overlay = None

    def defer_attributes(self, change: AttributeChange, soon: Callable[["OpenFile"], bool], *, waiting: bool) -> bool:
        """Keep attributes for the commit of the unflushed writes; False if they have to be committed by themselves.

        Times, which that commit sets in any case, wait for it as long as the writes do. Mode and owner wait a moment only:
        ``soon`` is to settle the file then, or says that it will not. Raises ReadOnly.
        """
        if not self.lock.acquire(blocking=waiting):
            return False
        try:
            if not self.dirty:
                return False
            self.check_writable()
            given = _mode_and_owner(change)
            waits = not given or (self.may_wait and soon(self)) or bool(self._deferred)
            if waits and given:
                self._deferred |= given
            self._take_times(change)
            if not (given or self.records.has_content):
                return waits  # nothing is kept of writes before they are closed, nor of the times that go with them
            return waits and self.records.keep_attributes(given | self._times)
        finally:
            self.lock.release()

    @property
    def _times(self) -> dict[str, int]:
        times = {"mtime": self._mtime, "atime": self._atime, "ctime": self._ctime or self._mtime}
        return {name: value for name, value in times.items() if value is not None}

    def _take_times(self, change: AttributeChange) -> None:
        self._version += 1
        self._mtime = self._mtime if change.mtime is None else change.mtime
        self._atime = self._atime if change.atime is None else change.atime
        self._ctime = self._context.clock.file_time_ns() if change.ctime is None else change.ctime

    def log_closed(self) -> bool:
        """Have the next start find the unflushed writes of a file that is closed, which may wait then; False if they may not.

        Waits for nobody.
        """
        if not self.lock.acquire(blocking=False):
            return False
        try:
            buffer = self._buffer
            if buffer is None or not self.may_wait:
                return not self.dirty
            if self.records.has(self._version):
                return True
            content = buffer.read(0, buffer.size) or b""
            return self.records.keep_content(self.tag, self._deferred | self._times, content, self._version)
        finally:
            self.lock.release()

    def restore(self, content: bytes, values: dict[str, int], found: Found) -> None:
        """Have the unflushed writes of an earlier process again, and the attributes that wait with them. Raises ReadOnly."""
        with self.lock:
            self.truncate(0, moves_times=False)
            self.write(0, content, moves_times=False)
            self._deferred = {name: values[name] for name in ("mode", "uid", "gid") if name in values}
            self._mtime, self._atime, self._ctime = (values.get(name) for name in ("mtime", "atime", "ctime"))
            self.records.take_over(found)

    def check_writable(self) -> None:
        """Raises ReadOnly where another machine became the writer."""
        if not self._local:
            require_writable(self._context.journal)

    def _touched(self, *, moves_times: bool) -> None:
        """Take in a write. A kernel with times of its own tells how they moved: not at all within one tick of its clock."""
        self._version += 1
        if moves_times:
            self._mtime, self._ctime, self._moves_times = self._context.clock.file_time_ns(), None, True
        self.last_write = self._context.clock.monotonic()
        self.dirty_since = self.dirty_since or self.last_write

    def _ensure_overlay(self) -> Overlay:
        if self._overlay is None:
            context = self._context
            self._overlay_file = context.entropy.bytes(16).hex()
            self._salt = context.entropy.bytes(16)
            self._overlay = self._open_overlay(fresh=True)
        return self._overlay

    def _open_overlay(self, *, fresh: bool) -> Overlay:
        context = self._context
        return Overlay(
            context.folder / self._overlay_file,
            self._node,
            context.identity.overlay_key(self._node, self._salt),
            base_size=self.manifest.size,
            disk=context.disk,
            entropy=context.entropy,
            fresh=fresh,
        )

    def adopt(self, file: str, salt: bytes) -> None:
        """Take over the overlay that an earlier process made durable. Raises DamageError: then no read succeeds."""
        with self.lock:
            self._overlay_file, self._salt, self._has_overlay_row = file, salt, True
            try:
                self._overlay = self._open_overlay(fresh=False)
            except FileNotFoundError:
                self.damage = DamageError("writes that were made durable are gone from this machine", blob="overlay")
                raise self.damage from None
            self._overlay.replay()
            self._touched(moves_times=True)

    def fsync(self) -> None:
        """Make all writes so far durable; those to the overlay without cutting or logging."""
        with self.lock:
            if self._buffer is not None:
                self.flush(durable=True)
                return
            overlay = self._overlay
            if overlay is not None:
                overlay.fsync()
                if not self._has_overlay_row:
                    row = (self.inode, self._overlay_file, self._salt)
                    self._context.database.writer.run(lambda t: t.execute(_INSERT_OVERLAY, row), durable=True)
                    self._has_overlay_row = True
        self._context.database.writer.sync()  # what was changed before this file's last writes goes with them

    # ---- settling ------------------------------------------------------------------------------------------------

    def flush(self, *, durable: bool = False, keep: bool = False) -> None:
        """Make the unflushed writes content: committed, and durable if asked. ``keep`` as in ``stage``."""
        with self.lock:
            pending = self.stage(keep=keep)
            if pending is not None:
                commit(self._context.journal, [pending], durable=durable)

    def stage(self, *, keep: bool) -> PendingCommit | None:
        """Return what is to be committed, None if nothing is; the caller holds the lock.

        With ``keep`` a small buffer is still there if this, or the commit, fails.
        """
        if self.damage is not None:
            raise self.damage
        if not self.dirty:
            return None
        self.check_writable()
        buffer = self._buffer
        if buffer is None:
            assert self._overlay is not None
            return PendingCommit(self, *self._cut(self._overlay), None)
        content = buffer.read(0, buffer.size) if keep else None
        self._staged, self._buffer = (buffer.size, buffer.changes), None
        try:
            staged = buffer.finish()
        except BaseException:
            self.on_commit_failed(content)
            raise
        return PendingCommit(self, staged.manifest, [staged], content)

    def on_commit_failed(self, content: bytes | None) -> None:
        """Have unflushed content again that could not be committed; the caller holds the lock."""
        if content is not None and self._buffer is None:
            self._start_buffer()
            self._write_buffered(0, content)
        self._staged = None
        if not self.dirty:
            self._forget_attributes()

    @property
    def may_wait(self) -> bool:
        """Whether the unflushed writes are small, and nothing speaks against their being settled a moment later."""
        buffer, context = self._buffer, self._context
        is_small = buffer is not None and buffer.is_small and not context.buffer_budget.is_short
        return is_small and self.damage is None and (self._local or context.journal.read_only is None)

    def _cut(self, overlay: Overlay) -> tuple[Manifest, list[StagedContent]]:
        extents: list[Extent] = []
        staged: list[StagedContent] = []
        position = 0
        regions = dirty_regions(self.manifest, overlay.floor, overlay.size, overlay.map.ranges())
        try:
            for start, end in regions:
                extents += kept_extents(self.manifest, overlay.floor, position, start)
                part = self._stage(start, end)
                staged.append(part)
                extents += part.manifest.extents
                position = end
        except BaseException:
            for part in staged:
                part.release()
            raise
        extents += kept_extents(self.manifest, overlay.floor, position, overlay.size)
        return Manifest.from_extents(extents), staged

    def _stage(self, start: int, end: int) -> StagedContent:
        stream = self._context.content.open_stream(local=self._local)
        try:
            for offset in range(start, end, _STEP):
                stream.write(self._read_dirty(offset, min(_STEP, end - offset)))
            return stream.finish()
        except BaseException:
            stream.abort()
            raise

    @property
    def has_overlay_row(self) -> bool:
        """Whether fsync made unflushed writes durable."""
        return self._has_overlay_row

    def tag_of(self, manifest: Manifest) -> tuple[bytes, ContentTag]:
        """Return a manifest, encoded, and its tag."""
        encoded = encode_manifest(manifest)
        return encoded, self._context.keys.content_tag(encoded)

    def log(self, change: Change, size: int, manifest: bytes, tag: ContentTag) -> None:
        """Put new content, and what was left to its commit, into a change. Raises NotFound."""
        emit, node = change.emit_local if self._local else change.emit, require(change, self.inode)
        ctime = node.ctime if self._ctime is None and not self._moves_times else self._ctime
        emit(Write(self._node, size, tag, manifest, self.tag, node.mtime if self._mtime is None else self._mtime))
        self._log_held(change, {} if ctime is None else {"ctime": ctime})
        if self._atime is not None:
            change.set_local(self.inode, atime=self._atime)
        if self._has_overlay_row:
            change.transaction.execute(_DELETE_OVERLAY, (self.inode,))

    def _log_held(self, change: Change, others: dict[str, int]) -> None:
        """Put the attributes that were left to a commit into a change, with ``others``. Raises NotFound."""
        emit, values = change.emit_local if self._local else change.emit, self._deferred | others
        if "mode" in values:
            for op in acl_operations(change, require(change, self.inode), values["mode"]):
                emit(op)
        if values:
            emit(Attr(self._node, values))

    def on_committed(self, manifest: Manifest, tag: ContentTag) -> None:
        """Take in that new content was committed; the caller holds the lock."""
        self._context.last_flush = object()  # first of all: who looks meanwhile is to look again
        self.tag = tag
        self._rebase(manifest)
        self._staged = None
        self.records.forget()
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
        """Take in that the content was replaced as a whole, durably; unflushed writes go with the old content."""
        with self.lock:
            self._discard_buffer()
            if self._has_overlay_row:
                self._context.database.writer.run(lambda t: t.execute(_DELETE_OVERLAY, (self.inode,)), durable=True)
            if self._deferred:
                self._context.journal.change(lambda change: self._log_held(change, {}))
            kept = self.records.kept
            if kept:
                self._context.database.writer.run(lambda t: t.release(kept), lazy=True)
            self.records.forget()
            self._rebase(manifest)
            self._forget_attributes()
            self.tag = tag

    def abandon(self) -> None:
        """Let go of the overlay's file without settling; what fsync marked is adopted at the next start."""
        with self.lock:
            self._discard_buffer()
            if self._overlay is not None:
                self._overlay.close(remove=not self._has_overlay_row)
                self._overlay = None

    def _discard_buffer(self) -> None:
        if self._buffer is not None:
            self._buffer.abort()
            self._buffer = None
