"""An open file: one shared state a node, however many handles it has.

A file that is written from its beginning is a draft, which becomes content in one go. Other writes go to the overlay, and
reads see it over the base manifest; ``settle`` cuts around the dirty ranges. Either way one transaction logs the write, and
forgets the overlay if there was one. A file has a draft, or an overlay, or neither. See ``tgdav.fs.filesystem`` for the
lock order.
"""

import threading
from pathlib import Path

from tgdav.clock import Clock
from tgdav.content.manifest import Extent, Manifest
from tgdav.content.manifest import encode as encode_manifest
from tgdav.content.overlay import Overlay
from tgdav.content.reader import ContentReader
from tgdav.content.store import ContentStore
from tgdav.content.stream import StagedContent
from tgdav.crdt.ops import Attr, Write
from tgdav.crypto.keys import NamespaceKeys
from tgdav.crypto.machine import MachineIdentity
from tgdav.db.database import Database
from tgdav.disk import Disk
from tgdav.entropy import Entropy
from tgdav.errors import DamageError, FileTooLarge, InvalidArgument, ReadOnly
from tgdav.failpoints import reach
from tgdav.fs.draft import GAP, Draft, DraftMemory
from tgdav.fs.settle import dirty_regions, kept_extents
from tgdav.ids import ContentTag, Inode, NodeId
from tgdav.metadata.change import Change
from tgdav.metadata.journal import Journal
from tgdav.metadata.types import Attributes

SIZE_MAX = 2**62
_STEP = 1 << 20
_INSERT_OVERLAY = "INSERT OR REPLACE INTO overlays (ino, file, salt) VALUES (?, ?, ?)"
_DELETE_OVERLAY = "DELETE FROM overlays WHERE ino = ?"


def require_writable(journal: Journal) -> None:
    """Raises ReadOnly where another machine became the writer."""
    if journal.read_only is not None:
        raise ReadOnly(journal.read_only)


class Parts:
    """What open files work with; made once by the file system."""

    def __init__(
        self,
        journal: Journal,
        database: Database,
        content: ContentStore,
        keys: NamespaceKeys,
        identity: MachineIdentity,
        folder: Path,
        *,
        clock: Clock,
        entropy: Entropy,
        disk: Disk,
    ) -> None:
        self.journal, self.database, self.content, self.keys = journal, database, content, keys
        self.identity, self.folder, self.clock, self.entropy, self.disk = identity, folder, clock, entropy, disk
        self.draft_memory = DraftMemory()


class OpenFile:
    """The shared state of a node that is open, or that has dirty writes."""

    def __init__(self, parts: Parts, attributes: Attributes, manifest: Manifest) -> None:
        self.lock = threading.RLock()
        self.inode: Inode = attributes.inode
        self.handles = 0
        self._parts = parts
        self._node: NodeId = attributes.node
        self._local = attributes.local
        self._tag: ContentTag | None = attributes.tag
        self.manifest = manifest
        self._damage: DamageError | None = None
        self._draft: Draft | None = None
        self._overlay: Overlay | None = None
        self._overlay_file = ""
        self._salt = b""
        self._row = False
        self.mtime = 0
        self._atime: int | None = None
        self._ctime: int | None = None
        self.last_write = 0.0
        self.dirty_since = 0.0

    # ---- looking -------------------------------------------------------------------------------------------------

    @property
    def dirty(self) -> int:
        """How many unsettled writes there are."""
        unsettled = self._draft or self._overlay
        return unsettled.changes if unsettled else 0

    @property
    def size(self) -> int:
        """Bytes, with unsettled writes."""
        unsettled = self._draft or self._overlay
        return unsettled.size if unsettled else self.manifest.size

    @property
    def unsettled_bytes(self) -> tuple[int, int] | None:
        """Of unsettled writes: how far the content below still shows, and about how many bytes lie over it; else None."""
        draft, overlay = self._draft, self._overlay
        if draft is not None:
            return 0, draft.size
        return None if overlay is None else (overlay.floor, overlay.staged)

    def shown(self, attributes: Attributes) -> Attributes:
        """Return a node's attributes as they are with its unsettled writes.

        Takes no lock, so that nobody who only looks waits for a file that is being settled.
        """
        unsettled = self._draft or self._overlay
        if unsettled is None:
            return attributes
        return _with(attributes, unsettled.size, self.mtime, unsettled.changes)

    def read(self, offset: int, length: int, reader: ContentReader | None = None) -> bytes:
        """Return the bytes there; ``reader`` remembers a sequential reader's place."""
        if self._damage is not None:
            raise self._damage
        with self.lock:
            if self._draft is not None:
                found = self._draft.read(offset, length)
                if found is not None:
                    return found
                self.settle()
            if self._overlay is not None:
                return self._read_dirty(offset, min(length, self._overlay.size - offset))
            manifest = self.manifest
        if reader is not None and reader.manifest is manifest:
            return reader.read(offset, length)
        return self._parts.content.read(manifest, offset, length)

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
            base = self._parts.content.read(self.manifest, offset, shown - offset)
            result[: len(base)] = base
        for piece in pieces:
            result[piece.start - offset : piece.end - offset] = overlay.read(piece)
        return bytes(result)

    # ---- writing -------------------------------------------------------------------------------------------------

    def write(self, offset: int, data: bytes | bytearray | memoryview, *, append: bool = False) -> int:
        """Add a write to the draft or the overlay."""
        with self.lock:
            self.check_writable()
            offset = self.size if append else offset
            if offset < 0:
                raise InvalidArgument("a place below zero")
            if not len(data):
                return 0
            if offset + len(data) > SIZE_MAX:
                raise FileTooLarge
            if not self._write_draft(offset, data):
                overlay = self._ensure_overlay()
                self._parts.content.core.space.admit(len(data))
                overlay.write(offset, data)
            self._touched()
            return len(data)

    def write_at_once(self, offset: int, data: bytes | bytearray | memoryview) -> bool:
        """Add a write to the draft if it stays in memory and nobody else is at work here; False if nothing was done."""
        if self._parts.draft_memory.is_short or not len(data) or not self.lock.acquire(blocking=False):
            return False
        try:
            self.check_writable()
            if self._draft is None and self._overlay is None and self.manifest.size == 0 and offset == 0:
                self._begin_draft()
            draft = self._draft
            if draft is None or not draft.takes_at_once(offset, len(data)):
                return False
            draft.write(offset, data)
            self._touched()
            return True
        finally:
            self.lock.release()

    def _write_draft(self, offset: int, data: bytes | bytearray | memoryview) -> bool:
        """Add a write to the draft, begun here when the file is empty; False where the overlay has to take it."""
        if self._draft is None and self._overlay is None and self.manifest.size == 0 and offset <= GAP:
            self._begin_draft()
        if self._draft is None:
            return False
        if self._parts.draft_memory.is_short or not self._draft.write(offset, data):
            self._leave_draft()
            return False
        return True

    def _begin_draft(self) -> None:
        self._draft = Draft(self._parts.content, self._parts.draft_memory, local=self._local)

    def _leave_draft(self) -> None:
        """Go on with the overlay: what the draft holds moves there, or becomes content if it is on its way already."""
        draft = self._draft
        assert draft is not None
        whole = draft.read(0, draft.size)
        if whole is None:
            self.settle()
            return
        overlay = self._ensure_overlay()
        if self.manifest.size:
            overlay.truncate(0)
        if whole:
            self._parts.content.core.space.admit(len(whole))
            overlay.write(0, whole)
        draft.abort()
        self._draft = None

    def truncate(self, size: int) -> None:
        """Cut or extend, in the draft or the overlay."""
        if size < 0:
            raise InvalidArgument("a size below zero")
        if size > SIZE_MAX:
            raise FileTooLarge
        with self.lock:
            self.check_writable()
            if self._draft is None and size == 0 and not self._row:
                self._drop_overlay()
                self._begin_draft()
            elif self._draft is None or not self._draft.truncate(size):
                if self._draft is not None:
                    self._leave_draft()
                self._ensure_overlay().truncate(size)
            self._touched()

    def _drop_overlay(self) -> None:
        if self._overlay is not None:
            self._overlay.close(remove=True)
            self._overlay = None

    def take_times(self, atime: int | None, mtime: int | None, ctime: int | None, *, waiting: bool = True) -> bool:
        """Keep times for the commit of the unsettled writes; False if there are none, or it would have to wait."""
        if not self.lock.acquire(blocking=waiting):
            return False
        try:
            if not self.dirty:
                return False
            self.mtime = self.mtime if mtime is None else mtime
            self._atime = self._atime if atime is None else atime
            self._ctime = self._parts.clock.now_ns() if ctime is None else ctime
            return True
        finally:
            self.lock.release()

    def check_writable(self) -> None:
        """Raises ReadOnly where another machine became the writer."""
        if not self._local:
            require_writable(self._parts.journal)

    def _touched(self) -> None:
        self.mtime, self._ctime = self._parts.clock.now_ns(), None
        self.last_write = self._parts.clock.monotonic()
        self.dirty_since = self.dirty_since or self.last_write

    def _ensure_overlay(self) -> Overlay:
        if self._overlay is None:
            parts = self._parts
            self._overlay_file = parts.entropy.bytes(16).hex()
            self._salt = parts.entropy.bytes(16)
            self._overlay = self._open_overlay(fresh=True)
        return self._overlay

    def _open_overlay(self, *, fresh: bool) -> Overlay:
        parts = self._parts
        return Overlay(
            parts.folder / self._overlay_file,
            self._node,
            parts.identity.overlay_key(self._node, self._salt),
            base_size=self.manifest.size,
            disk=parts.disk,
            entropy=parts.entropy,
            fresh=fresh,
        )

    def adopt(self, file: str, salt: bytes) -> None:
        """Take over the overlay that an earlier process made durable. Raises DamageError: then no read succeeds."""
        with self.lock:
            self._overlay_file, self._salt, self._row = file, salt, True
            try:
                self._overlay = self._open_overlay(fresh=False)
            except FileNotFoundError:
                self._damage = DamageError("writes that were made durable are gone from this machine", blob="overlay")
                raise self._damage from None
            self._overlay.replay()
            self._touched()

    def fsync(self) -> None:
        """Make all writes so far durable; those to the overlay without cutting or logging."""
        with self.lock:
            if self._draft is not None:
                self.settle(durable=True)
                return
            overlay = self._overlay
            if overlay is not None:
                overlay.fsync()
                if not self._row:
                    row = (self.inode, self._overlay_file, self._salt)
                    self._parts.database.writer.run(lambda t: t.execute(_INSERT_OVERLAY, row), durable=True)
                    self._row = True
                return
        self._parts.database.writer.sync()

    # ---- settling ------------------------------------------------------------------------------------------------

    def settle(self, *, durable: bool = False) -> None:
        """Make the unsettled writes content: committed, and durable if asked."""
        with self.lock:
            if self._damage is not None:
                raise self._damage
            if not self.dirty:
                return
            self.check_writable()
            extents, staged = self._stage_all()
            manifest = Manifest.from_extents(extents)
            try:
                self._commit(manifest, staged, durable=durable)
            finally:
                for part in staged:
                    part.release()
            reach("fs.settled")
            self._rebase(manifest)

    def _stage_all(self) -> tuple[list[Extent], list[StagedContent]]:
        draft, self._draft = self._draft, None
        if draft is not None:
            staged = draft.finish()
            return list(staged.manifest.extents), [staged]
        assert self._overlay is not None
        return self._cut(self._overlay)

    def _cut(self, overlay: Overlay) -> tuple[list[Extent], list[StagedContent]]:
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
        return extents, staged

    def _stage(self, start: int, end: int) -> StagedContent:
        stream = self._parts.content.open_stream(local=self._local)
        try:
            for offset in range(start, end, _STEP):
                stream.write(self._read_dirty(offset, min(_STEP, end - offset)))
            return stream.finish()
        except BaseException:
            stream.abort()
            raise

    def _commit(self, manifest: Manifest, staged: list[StagedContent], *, durable: bool) -> None:
        encoded = encode_manifest(manifest)
        tag = self._parts.keys.content_tag(encoded)

        def work(change: Change) -> None:
            for part in staged:
                part.record(change.transaction)
            op = Write(self._node, manifest.size, tag, encoded, self._tag, self.mtime)
            emit = change.emit_local if self._local else change.emit
            emit(op)
            if self._ctime is not None:
                emit(Attr(self._node, {"ctime": self._ctime}))
            if self._atime is not None:
                change.set_local(self.inode, atime=self._atime)
            if self._row:
                change.transaction.execute(_DELETE_OVERLAY, (self.inode,))

        sync = [each for part in staged for each in part.sync]
        # What fsync made durable stays so: the overlay's file goes only after its successor is durable too.
        self._parts.journal.change(work, durable=durable or self._row, sync=sync)
        self._tag, self._atime = tag, None

    def _rebase(self, manifest: Manifest) -> None:
        overlay, self._overlay = self._overlay, None
        self.manifest, self._row, self.dirty_since = manifest, False, 0.0
        if overlay is not None:
            overlay.close(remove=True)

    def replaced(self, manifest: Manifest, tag: ContentTag | None) -> None:
        """Take in that the content was replaced as a whole, durably; unsettled writes go with the old content."""
        with self.lock:
            if self._draft is not None:
                self._draft.abort()
                self._draft = None
            if self._row:
                self._parts.database.writer.run(lambda t: t.execute(_DELETE_OVERLAY, (self.inode,)), durable=True)
            self._rebase(manifest)
            self._tag = tag

    def abandon(self) -> None:
        """Let go of the overlay's file without settling; what fsync marked is adopted at the next start."""
        with self.lock:
            if self._draft is not None:
                self._draft.abort()
                self._draft = None
            if self._overlay is not None:
                self._overlay.close(remove=not self._row)
                self._overlay = None


def _with(attributes: Attributes, size: int, mtime: int, dirty: int) -> Attributes:
    fields = {name: getattr(attributes, name) for name in attributes.__struct_fields__}
    fields.update(size=size, mtime=mtime or attributes.mtime, dirty=dirty)
    return Attributes(**fields)
