"""A file's whole new content, given in order and made visible at once (every WebDAV PUT)."""

from types import TracebackType
from typing import TYPE_CHECKING, Self

from tgdav.content.staging.stream import StagedContent
from tgdav.crdt.ops import Attr, Field, Write
from tgdav.errors import BadHandle, InvalidArgument, IsADirectory
from tgdav.fs import changes
from tgdav.fs.api import UMASK, Owner, Precondition, PropertiesOf
from tgdav.ids import Inode, NodeId
from tgdav.metadata.change import Change
from tgdav.metadata.types import Attributes, DirectoryEntry, Kind, nearest_time

if TYPE_CHECKING:
    from tgdav.fs.filesystem import NamespaceFileSystem

PROPERTY = b"p:"
_DELETE_OVERLAY = "DELETE FROM overlays WHERE ino = ?"


class FileUpload:
    """An upload to (parent, name), as ``tgdav.fs.api.Upload``."""

    def __init__(
        self,
        system: "NamespaceFileSystem",
        parent: Inode,
        name: bytes,
        *,
        owner: Owner,
        mode: int,
        normalized: bool,
        local: bool,
    ) -> None:
        self._system, self._parent, self._name = system, parent, name
        self._owner, self._mode, self._normalized, self._local = owner, mode, normalized, local
        self._stream = system.content.open_stream(local=local)
        self._done = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes."""
        if self._done:
            raise BadHandle
        self._stream.write(data)

    def commit(
        self,
        *,
        precondition: Precondition | None = None,
        mtime: int | None = None,
        btime: int | None = None,
        properties: PropertiesOf | None = None,
        durable: bool = True,
    ) -> tuple[Attributes, bool]:
        """Make the content that of (parent, name); return the file and whether it was created."""
        if self._done:
            raise BadHandle
        staged = self._finish()
        self._system.open_files.flush_queued()  # a file closed before must not be settled over this
        try:
            result = self._system.journal.change(
                lambda change: self._change(change, staged, precondition, mtime, btime, properties),
                durable=durable,
                sync=staged.sync,
            )
        finally:
            staged.release()
        open_file = self._system.open_files.find(result[0].inode)
        if open_file is not None:
            open_file.replaced(staged.manifest, staged.tag)
        self._system.listeners.notify(result[0].inode, self._parent, self._name)
        return result

    def _finish(self) -> StagedContent:
        self._done = True
        try:
            return self._stream.finish()
        except BaseException:
            self._stream.abort()
            raise

    def _change(
        self,
        change: Change,
        staged: StagedContent,
        precondition: Precondition | None,
        mtime: int | None,
        btime: int | None,
        properties: PropertiesOf | None,
    ) -> tuple[Attributes, bool]:
        parent = changes.require_directory(change, self._parent)
        entry = changes.find(change, self._parent, self._name, normalized=self._normalized)
        if precondition is not None:
            precondition(entry.attributes if entry else None)
        staged.record(change.transaction)
        node, local = self._target(change, parent, entry)
        emit = change.emit_local if local else change.emit
        replaces = entry.attributes.tag if entry else None
        modified = change.time if mtime is None else nearest_time(mtime)
        emit(Write(node, staged.size, staged.tag, staged.encoded, replaces, modified))
        if btime is not None:
            emit(Attr(node, {"btime": nearest_time(btime)}))
        for name, value in (properties(staged.tag) if properties else {}).items():
            emit(Field(node, PROPERTY + name, value))
        return self._result(change, node, staged.encoded), entry is None

    def _target(self, change: Change, parent: Attributes, entry: DirectoryEntry | None) -> tuple[NodeId, bool]:
        if entry is None:
            made = changes.make(
                change, self._system.keys, parent, self._name, Kind.FILE, self._mode, self._owner, local=self._local,
                umask=UMASK,
            )  # fmt: skip
            return made, self._local
        if entry.attributes.is_directory:
            raise IsADirectory
        if not entry.attributes.is_file:
            raise InvalidArgument("not a regular file")
        open_file = self._system.open_files.find(entry.attributes.inode)
        if open_file is not None:
            change.transaction.execute(_DELETE_OVERLAY, (entry.attributes.inode,))
            change.transaction.release(open_file.records.kept)  # what was closed before is not to come back over this
        return entry.attributes.node, entry.attributes.local

    def _result(self, change: Change, node: NodeId, manifest: bytes) -> Attributes:
        attributes = change.attributes_of(node)
        assert attributes is not None, "a file that this transaction wrote is there"
        change.changes.nodes.add(attributes.inode)
        change.changes.contents[attributes.inode] = (attributes, manifest)
        return attributes

    def abort(self) -> None:
        """Drop everything."""
        if not self._done:
            self._done = True
            self._stream.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()
