"""A journal with short calls, as tests of the tree want them."""

from collections.abc import Callable
from hashlib import blake2b
from itertools import count
from pathlib import Path

from tests.support.platform import ManualClock, SeededEntropy
from tgdav.crdt.ops import ROOT, TRASH, Attr, Field, Make, Place, Purge, Snapshot, VersionPolicy, Write
from tgdav.db import Connection, Database
from tgdav.disk import Disk, SystemDisk
from tgdav.ids import ContentTag, EntryId, Incarnation, Inode, MachineId, NodeId, SnapshotId
from tgdav.metadata import purging, queries
from tgdav.metadata.change import Change
from tgdav.metadata.history import HistoryPolicy
from tgdav.metadata.journal import Journal
from tgdav.metadata.types import Attributes, Kind

KEY = bytes(range(32))
MACHINE = MachineId(b"machine-number-1")
INCARNATION = Incarnation(0x0102030405060708)
_SEEDS = count(1)
"""No two trees draw the same: they may be lives of one machine."""


class Tagger:
    def content_tag(self, manifest: bytes, /) -> ContentTag:
        return ContentTag(blake2b(manifest, digest_size=16).digest())


def tag(manifest: bytes) -> ContentTag:
    return Tagger().content_tag(manifest)


def extents(*chunks: int) -> bytes:
    """A manifest of chunks of 1 000 bytes, each id one byte repeated."""
    return b"".join((1000).to_bytes(8, "little") + bytes([chunk]) * 32 for chunk in chunks)


class Tree:
    """A namespace's tree in a file of its own. ``clock`` stands until moved."""

    def __init__(
        self,
        path: Path,
        *,
        machine: MachineId = MACHINE,
        incarnation: Incarnation = INCARNATION,
        disk: Disk | None = None,
    ) -> None:
        self.path = path
        self.clock = ManualClock()
        self.entropy = SeededEntropy(next(_SEEDS))
        self.history = HistoryPolicy()
        self._machine, self._incarnation, self._disk = machine, incarnation, disk or SystemDisk()
        self._open()

    def _open(self) -> None:
        self.database = Database.open(self.path, KEY, disk=self._disk)
        self.journal = Journal(
            self.database, Tagger(), self._machine, self._incarnation, self.clock, self.entropy, self.history
        )

    def reopen(self) -> None:
        self.close()
        self._open()

    def close(self) -> None:
        self.database.close()

    # ---- changing ------------------------------------------------------------------------------------------------

    def make(self, name: bytes, parent: NodeId = ROOT, kind: Kind = Kind.FILE, content: bytes = b"") -> NodeId:
        return self.journal.change(lambda change: make(change, name, parent, kind, content))

    def mkdir(self, name: bytes, parent: NodeId = ROOT) -> NodeId:
        return self.make(name, parent, Kind.DIRECTORY)

    def write(self, node: NodeId, content: bytes) -> None:
        self.journal.change(lambda change: write(change, node, content))

    def link(self, node: NodeId, name: bytes, parent: NodeId = ROOT) -> None:
        self.journal.change(lambda change: change.emit(Place(EntryId(change.new_id()), node, parent, name)))

    def move(self, node: NodeId, parent: NodeId, name: bytes) -> None:
        entry = self.entries(node)[0]
        self.journal.change(lambda change: change.emit(Place(entry, node, parent, name)))

    def delete(self, node: NodeId) -> None:
        self.move(node, TRASH, b"gone")

    def purge(self, *nodes: NodeId) -> None:
        """Purge the first entry of each node."""
        found = tuple(self.entries(node)[0] for node in nodes)
        self.journal.change(lambda change: change.emit(Purge(found)))

    def sweep(self, is_open: Callable[[Inode], bool] = lambda _: False, most: int = 3) -> None:
        """Remove what was purged, in small steps."""
        after: purging.Key | None = purging.FIRST
        rows = 1
        while after is not None or rows:
            if after is None:
                after, rows = purging.FIRST, 0
            step = self.journal.change(
                lambda change, after=after: purging.sweep(  # type: ignore[misc]
                    change.transaction, change.changes, is_open, after=after, most=most
                )
            )
            after, rows = step.after, rows + step.rows

    def set(self, node: NodeId, **values: int) -> None:
        self.journal.change(lambda change: change.emit(Attr(node, values)))

    def set_field(self, node: NodeId, field: bytes, value: bytes | None) -> None:
        self.journal.change(lambda change: change.emit(Field(node, field, value)))

    def keep(self, most: int) -> None:
        """Set how many earlier contents of a file are kept."""
        self.journal.change(lambda change: change.emit(VersionPolicy(most)))

    def snapshot(self, name: str = "snapshot") -> tuple[SnapshotId, int]:
        """Make a snapshot; return its id and position."""
        made = SnapshotId(self.entropy.bytes(16))
        self.journal.change(lambda change: change.emit(Snapshot(made, name, change.time)))
        [(position,)] = self.rows("SELECT max(position) FROM pins")
        assert isinstance(position, int)
        return made, position

    # ---- looking -------------------------------------------------------------------------------------------------

    def ino(self, node: NodeId) -> Inode:
        with self.database.reading() as connection:
            found = queries.inode_of(connection, node)
        assert found is not None
        return found

    def attributes(self, node: NodeId) -> Attributes:
        with self.database.reading() as connection:
            ino = queries.inode_of(connection, node)
            assert ino is not None
            found = queries.attributes(connection, ino)
        assert found is not None
        return found

    def entries(self, node: NodeId) -> list[EntryId]:
        ino = self.ino(node)
        with self.database.reading() as connection:
            return [entry for entry, *_ in queries.entries_of(connection, ino)]

    def names(self, parent: NodeId = ROOT) -> list[bytes]:
        ino = self.ino(parent)
        with self.database.reading() as connection:
            return [entry.name for entry in queries.children(connection, ino)]

    def rows(self, sql: str) -> list[tuple[object, ...]]:
        with self.database.reading() as connection:
            return connection.all(sql)


def make(change: Change, name: bytes, parent: NodeId, kind: Kind = Kind.FILE, content: bytes = b"") -> NodeId:
    node = NodeId(change.new_id())
    target = b"target" if kind == Kind.SYMLINK else b""
    change.emit(Make(node, kind, 0o644, 1, 2, 0, change.time, target))
    change.emit(Place(EntryId(change.new_id()), node, parent, name))
    if content:
        write(change, node, content)
    return node


def write(change: Change, node: NodeId, content: bytes) -> None:
    change.emit(Write(node, len(content) // 40 * 1000, tag(content), content, None, change.time))


def make_local(change: Change, name: bytes, parent: NodeId = ROOT, content: bytes = b"") -> NodeId:
    node = NodeId(change.new_local_id())
    change.emit_local(Make(node, Kind.FILE, 0o600, 0, 0, 0, change.time))
    change.emit_local(Place(EntryId(change.new_local_id()), node, parent, name))
    if content:
        change.emit_local(Write(node, len(content) // 40 * 1000, tag(content), content, None, change.time))
    return node


def check_invariants(c: Connection) -> None:
    """Entries name nodes and stand in directories, link counts are right, every directory's way up ends, nothing leaks."""
    nodes = {row[0]: row for row in c.all("SELECT ino, kind, nlink, manifest FROM nodes")}
    entries = c.all("SELECT parent, ino FROM entries")
    for parent, ino in entries:
        assert ino in nodes, "an entry names no node"
        assert parent == 0 or nodes[parent][1] == Kind.DIRECTORY, "an entry is in what is no folder"
    above = {child: parent for parent, child in entries if nodes[child][1] == Kind.DIRECTORY}
    assert len(above) == sum(nodes[child][1] == Kind.DIRECTORY for _, child in entries), "a folder is in two places"
    for ino in above:
        seen = set()
        while ino in above:
            assert ino not in seen, "folders go round in a circle"
            seen.add(ino)
            ino = above[ino]
    trashed = _below_trash(above)
    for ino, kind, nlink, _ in nodes.values():
        if kind == Kind.DIRECTORY:
            below = [child for parent, child in entries if parent == ino and nodes[child][1] == Kind.DIRECTORY]
            assert ino == 2 or nlink == 2 + len(below), f"folder {ino} counts {nlink} links"
        else:
            assert nlink == sum(1 for parent, child in entries if child == ino and parent not in trashed)
    named = {row[3] for row in nodes.values()} | {row[0] for row in c.all("SELECT manifest FROM nodes_past")}
    assert {row[0] for row in c.all("SELECT no FROM manifests")} == named - {None}, "manifests leak or miss"
    groups = c.all("SELECT sequence, count FROM log WHERE machine = ? ORDER BY position", (MACHINE,))
    expected = groups[0][0] if groups else 1
    for sequence, operations in groups:
        assert sequence == expected, "sequence numbers have a gap"
        expected += operations


def _below_trash(above: dict[int, int]) -> set[int]:
    """Return the trash, the parent of what was purged, and all directories somewhere below them."""
    found = {0, 2}
    while more := {child for child, parent in above.items() if parent in found} - found:
        found |= more
    return found
