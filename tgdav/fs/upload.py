"""A file's whole new content, written in order and visible only once it is complete (every WebDAV PUT)."""

from types import TracebackType
from typing import Self

import msgspec

from tgdav.content.staging.stream import StagedContent
from tgdav.crdt.ops import Attr, Field, Write
from tgdav.errors import BadHandle, InvalidArgument, IsADirectory
from tgdav.fs import changes
from tgdav.fs.api import UMASK, Owner, Precondition, PropertiesOf
from tgdav.fs.files.open_files import OpenFiles
from tgdav.fs.listeners import ChangeListeners
from tgdav.ids import Inode, NodeId
from tgdav.metadata.change import Change
from tgdav.metadata.types import Attributes, DirectoryEntry, Kind, nearest_time

PROPERTY = b"p:"
_DELETE_OVERLAY = "DELETE FROM overlays WHERE ino = ?"


class UploadTarget(msgspec.Struct, frozen=True, kw_only=True):
    """The name that gets the content, and the owner and mode of a file that the upload creates."""

    parent: Inode
    name: bytes
    owner: Owner
    mode: int
    normalized: bool
    local: bool


class FileUpload:
    """A ``tgdav.fs.api.Upload``."""

    def __init__(self, open_files: OpenFiles, listeners: ChangeListeners, target: UploadTarget) -> None:
        self._open_files, self._listeners, self._target = open_files, listeners, target
        self._stream = open_files.context.content.open_stream(local=target.local)
        self._done = False
        if not target.local:
            open_files.uploads.add(self)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write the next bytes."""
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
        """Make this the content of (parent, name); return the file and whether it was created."""
        if self._done:
            raise BadHandle
        staged = self._finish()
        self._open_files.flush_queued()  # a file that was closed before must not be committed over this content
        try:
            result = self._open_files.context.journal.change(
                lambda change: self._change(change, staged, precondition, mtime, btime, properties),
                durable=durable,
                sync=staged.sync,
            )
        finally:
            staged.release()
            self._open_files.uploads.discard(self)
        open_file = self._open_files.find(result[0].inode)
        if open_file is not None:
            open_file.replaced(staged.manifest, staged.tag)
        self._listeners.notify(result[0].inode, self._target.parent, self._target.name)
        return result

    def _finish(self) -> StagedContent:
        self._done = True
        try:
            return self._stream.finish()
        except BaseException:
            self._stream.abort()
            self._open_files.uploads.discard(self)
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
        target = self._target
        parent = changes.require_directory(change, target.parent)
        entry = changes.find(change, target.parent, target.name, normalized=target.normalized)
        if precondition is not None:
            precondition(entry.attributes if entry else None)
        # The chunks become part of the database in the same transaction as the content that refers to them.
        staged.record(change.transaction)
        node, local = self._node(change, parent, entry)
        if target.local and not local:
            # A further name of a logged file: its content goes to the store, whatever the name.
            self._open_files.context.content.publish(change.transaction, staged.manifest)
        emit = change.emit_local if local else change.emit
        replaces = entry.attributes.tag if entry else None
        modified = change.time if mtime is None else nearest_time(mtime)
        emit(Write(node, staged.size, staged.tag, staged.encoded, replaces, modified))
        if btime is not None:
            emit(Attr(node, {"btime": nearest_time(btime)}))
        for name, value in (properties(staged.tag) if properties else {}).items():
            emit(Field(node, PROPERTY + name, value))
        return self._result(change, node, staged.encoded), entry is None

    def _node(self, change: Change, parent: Attributes, entry: DirectoryEntry | None) -> tuple[NodeId, bool]:
        """Return the file's node id, creating the file if needed, and whether it stays on this machine."""
        target = self._target
        if entry is None:
            made = changes.make(
                change, self._open_files.context.keys, parent, target.name, Kind.FILE, target.mode, target.owner,
                local=target.local, umask=UMASK, departures=self._open_files.context.departures,
            )  # fmt: skip
            return made, target.local
        if entry.attributes.is_directory:
            raise IsADirectory
        if not entry.attributes.is_file:
            raise InvalidArgument("not a regular file")
        open_file = self._open_files.find(entry.attributes.inode)
        if open_file is not None:
            # Unflushed writes from before must not be recovered over this content after a crash.
            change.transaction.execute(_DELETE_OVERLAY, (entry.attributes.inode,))
            change.transaction.release(open_file.records.kept)
        return entry.attributes.node, entry.attributes.local

    def _result(self, change: Change, node: NodeId, manifest: bytes) -> Attributes:
        attributes = change.attributes_of(node)
        assert attributes is not None, "this transaction has written the file"
        # The caller usually asks for the file next; the cache then knows it without a query.
        change.changes.nodes.add(attributes.inode)
        change.changes.contents[attributes.inode] = (attributes, manifest)
        return attributes

    def abort(self) -> None:
        """Discard everything."""
        self._open_files.uploads.discard(self)
        if not self._done:
            self._done = True
            self._stream.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()
