"""Read-only history: ``/.snapshots/NAME/…``, ``/.versions/PATH/N-TIME`` and ``/.trash/YYYY-MM-DD/NAME``.

The three directories can be reached by name in the root and are not listed there. Their nodes have inode numbers from
``HISTORY_INODES`` on; ``ReadableFileSystem`` passes calls for those to ``History``, so that a front end uses one file system.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from tgdav.content.format.manifest import EMPTY, decode
from tgdav.content.read.reader import ContentReader
from tgdav.content.store import ContentStore, UploadState
from tgdav.db import Connection, Database
from tgdav.db.schema import ROOT_INODE
from tgdav.errors import BadHandle, InvalidArgument, IsADirectory, NoAttribute, NotFound
from tgdav.fs.history_views import (
    DAYS,
    LIST,
    MIRROR,
    SNAPSHOTS,
    TRASH,
    VERSIONS,
    Mirror,
    SnapshotList,
    SnapshotNumbers,
    SnapshotTree,
    TrashDays,
    TrashTree,
    Versions,
    View,
    find_version,
    number,
    split,
    version_attributes,
)
from tgdav.fs.names import check_name, read_only
from tgdav.fs.node_attributes import PROPERTY, XATTR
from tgdav.fs.usage import SMALL, data_bytes
from tgdav.ids import EntryId, Inode
from tgdav.metadata.types import FILE, SYMLINK, Attributes, DirectoryEntry, Listed, listed

TOPS = {b".snapshots": number(LIST, 0), b".versions": number(MIRROR, ROOT_INODE), b".trash": number(DAYS, 0)}
"""Names in the root, and the inodes of the directories that they name."""


class HistoryFile:
    """An open file of history: a ``tgdav.fs.api.FileHandle`` whose content never changes."""

    def __init__(self, node: Attributes, reader: ContentReader, manifest: bytes) -> None:
        self.inode = node.inode
        self._tag = node.tag
        self._reader = reader.open(decode(manifest) if manifest else EMPTY)
        self._closed = False

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes at ``offset``; fewer only at the end of the file."""
        if self._closed:
            raise BadHandle
        if offset < 0 or length < 0:
            raise InvalidArgument("the offset and the length must not be negative")
        return self._reader.read(offset, length)

    def keep_content(self) -> bytes | None:
        """Return the content's tag."""
        return self._tag or b""

    def is_here(self) -> bool:
        """Return whether all of the content can be read without the store."""
        return self._reader.is_here()

    def write(self, offset: int, data: bytes | bytearray | memoryview, *, append: bool = False) -> int:  # noqa: ARG002
        """Raise ReadOnly."""
        raise read_only()

    def write_nowait(self, offset: int, data: bytes | bytearray | memoryview) -> bool:  # noqa: ARG002
        """Raise ReadOnly."""
        raise read_only()

    def truncate(self, size: int) -> None:  # noqa: ARG002
        """Raise ReadOnly."""
        raise read_only()

    def fsync(self) -> None:
        """Do nothing: there is nothing to write."""

    def flush(self) -> None:
        """Do nothing."""

    def flush_later(self) -> bool:
        """Do nothing."""
        return True

    def close(self) -> None:
        """Close the handle."""
        self._closed = True
        self._reader.close()

    def close_nowait(self) -> bool:
        """Close the handle."""
        self.close()
        return True


class History:
    """The calls of ``tgdav.fs.api.FileSystem`` that read, for inodes from ``HISTORY_INODES`` on. Thread-safe."""

    def __init__(self, database: Database, content: ContentStore) -> None:
        self._database, self._content = database, content
        self._snapshots = SnapshotNumbers()
        self._fixed: dict[int, View] = {
            LIST: SnapshotList(self._snapshots),
            MIRROR: Mirror(),
            DAYS: TrashDays(),
            TRASH: TrashTree(),
        }

    # ---- entries for commands ------------------------------------------------------------------------------------

    def snapshot(self, name: str) -> Attributes:
        """Return the root directory of the snapshot of this name, for ``resolve(…, start=…)``. Raises NotFound."""
        try:
            return self.lookup(TOPS[b".snapshots"], name.encode())
        except NotFound as error:
            raise NotFound(f"there is no snapshot '{name}'", hint="'tgdav snapshots' lists them") from error

    def version(self, inode: Inode, wanted: int) -> Attributes:
        """Return version ``wanted`` of a live file, for ``open``. Raises NotFound."""
        with self._database.reading() as connection:
            return version_attributes(inode, find_version(connection, inode, wanted))

    # ---- names ---------------------------------------------------------------------------------------------------

    def lookup(self, parent: Inode, name: bytes, *, normalized: bool = False) -> Attributes:
        """Return the attributes of the node that ``name`` in ``parent`` names. Raises NotFound, NotADirectory."""
        check_name(name)
        if parent == ROOT_INODE:
            return self.attributes(_top(name))
        with self._at(parent) as (c, view, key):
            return view.find(c, key, name, normalized=normalized)

    def resolve(self, path: Sequence[bytes], *, normalized: bool = False, start: Inode | None = None) -> Attributes:
        """Return the attributes of the node at a path from ``start``, or from the root. Raises as ``lookup``."""
        found = self.attributes(_top(path[0]) if start is None else start)
        for name in path[1:] if start is None else path:
            found = self.lookup(found.inode, name, normalized=normalized)
        return found

    def list_directory(self, inode: Inode) -> list[DirectoryEntry]:
        """Return all entries in byte order of their names. Raises NotFound, NotADirectory."""
        with self._at(inode) as (c, view, key):
            return [DirectoryEntry(name, EntryId(b""), node) for name, node in view.children(c, key)]

    def list_briefly(self, inode: Inode) -> list[Listed]:
        """As ``list_directory``, but only what long listings show."""
        with self._at(inode) as (c, view, key):
            if isinstance(view, SnapshotTree):
                return view.listing(c, key)
        return [listed(entry.name, entry.attributes) for entry in self.list_directory(inode)]

    def parent(self, inode: Inode) -> Inode:
        """Return a directory's parent. Raises NotFound."""
        with self._at(inode) as (c, view, key):
            return view.parent(c, key)

    # ---- nodes ---------------------------------------------------------------------------------------------------

    def attributes(self, inode: Inode) -> Attributes:
        """Return a node's attributes. Raises NotFound."""
        with self._at(inode) as (c, view, key):
            return view.attributes(c, key)

    def read_link(self, inode: Inode) -> bytes:
        """Return a symlink's target. Raises InvalidArgument for other kinds."""
        if self.attributes(inode).kind != SYMLINK:
            raise InvalidArgument("not a symbolic link")
        return self.content(inode)

    def content(self, inode: Inode) -> bytes:
        """Return a file's encoded manifest, or a symlink's target."""
        with self._at(inode) as (c, view, key):
            return view.content(c, key)

    def fields(self, inodes: Iterable[Inode], prefix: bytes) -> dict[Inode, dict[bytes, bytes]]:
        """Return the fields of several nodes whose names begin with ``prefix``; nodes without any are omitted."""
        by_region: dict[int, list[Inode]] = {}
        for inode in inodes:
            region, key = split(inode)
            by_region.setdefault(region, []).append(Inode(key))
        found: dict[Inode, dict[bytes, bytes]] = {}
        with self._database.reading() as connection:
            for region, keys in by_region.items():
                of_region = self._view(region).fields(connection, keys, prefix)
                found.update((number(region, key), values) for key, values in of_region.items())
        return found

    def get_xattr(self, inode: Inode, name: bytes) -> bytes:
        """Return an extended attribute. Raises NoAttribute."""
        value = self.fields([inode], XATTR).get(inode, {}).get(XATTR + name)
        if value is None:
            raise NoAttribute
        return value

    def list_xattrs(self, inode: Inode) -> list[bytes]:
        """Return the names of a node's extended attributes."""
        return sorted(name.removeprefix(XATTR) for name in self.fields([inode], XATTR).get(inode, {}))

    def properties(self, inodes: Iterable[Inode]) -> dict[Inode, dict[bytes, bytes]]:
        """Return the WebDAV properties of several nodes; nodes without any are omitted."""
        return {
            inode: {name.removeprefix(PROPERTY): value for name, value in values.items()}
            for inode, values in self.fields(inodes, PROPERTY).items()
        }

    # ---- content -------------------------------------------------------------------------------------------------

    def open(self, inode: Inode) -> HistoryFile:
        """Open a file for reading. Raises NotFound, IsADirectory, InvalidArgument (not a regular file)."""
        with self._at(inode) as (c, view, key):
            node = view.attributes(c, key)
            if node.is_directory:
                raise IsADirectory
            if node.kind != FILE:
                raise InvalidArgument("not a regular file")
            return HistoryFile(node, self._content.reader, view.content(c, key))

    def allocated(self, node: Attributes) -> int:
        """Return how many bytes of a node are not holes; at least 1 if a file is not empty."""
        if node.kind != FILE or node.size <= SMALL:
            return node.size if node.kind == FILE else 0
        return max(data_bytes(self.content(node.inode)), 1)

    def upload_state(self, inode: Inode) -> UploadState:
        """Return how far a file's content has been uploaded."""
        encoded = self.content(inode) if self.attributes(inode).kind == FILE else b""
        extents = decode(encoded).extents if encoded else ()
        return self._content.state_of([extent.chunk for extent in extents if extent.chunk])

    # ---- routing -------------------------------------------------------------------------------------------------

    def _view(self, region: int) -> View:
        view = self._fixed.get(region)
        if view is not None:
            return view
        if region >= VERSIONS:
            return Versions(region)
        if region >= SNAPSHOTS:
            return SnapshotTree(self._snapshots, region)
        raise NotFound

    @contextmanager
    def _at(self, inode: Inode) -> Iterator[tuple[Connection, View, int]]:
        region, key = split(inode)
        view = self._view(region)
        with self._database.reading() as connection:
            yield connection, view, key


def _top(name: bytes) -> Inode:
    found = TOPS.get(name)
    if found is None:
        raise NotFound
    return found
