"""Queries of the trash: deleted entries, where they were, and by day as ``/.trash`` shows them.

An entry that another one replaced is there without a time of deletion, for its versions alone. No query lists it.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta

import msgspec

from tgdav.crdt.ops import ROOT
from tgdav.db import Connection
from tgdav.db.connection import Row
from tgdav.db.schema import ROOT_INODE, TRASH_INODE
from tgdav.ids import EntryId, Inode, NodeId
from tgdav.metadata.types import NAME_MAX

_SHOWN = "FROM entries e WHERE e.deleted IS NOT NULL"
_COLUMNS = "SELECT e.id, e.ino, e.name, e.origin, e.deleted"
_ALL = f"{_COLUMNS} {_SHOWN} ORDER BY e.deleted DESC, e.stamp DESC, e.id"
_BETWEEN = f"{_COLUMNS} {_SHOWN} AND e.deleted >= ? AND e.deleted < ? ORDER BY e.deleted, e.stamp, e.id"
_NAMED = f"""{_COLUMNS} {_SHOWN} AND e.parent = {TRASH_INODE} AND e.name = ?
AND e.deleted >= ? AND e.deleted < ? ORDER BY e.deleted, e.stamp, e.id LIMIT 1"""
_ONE = f"{_COLUMNS} {_SHOWN} AND e.id = ?"
_BEFORE = f"{_COLUMNS} {_SHOWN} AND e.deleted < ? ORDER BY e.deleted, e.stamp, e.id LIMIT ?"
_NEXT = f"SELECT e.deleted {_SHOWN} AND e.deleted >= ? ORDER BY e.deleted LIMIT 1"

_SIZE = """WITH RECURSIVE below(ino) AS (SELECT ? UNION SELECT e.ino FROM below JOIN entries e ON e.parent = below.ino)
SELECT coalesce(sum(n.size), 0) FROM below JOIN nodes n ON n.ino = below.ino WHERE n.kind = 1"""
_DIRECTORY = """SELECT e.name, e.origin, p.id, n.ino FROM nodes n JOIN entries e ON e.ino = n.ino
LEFT JOIN nodes p ON p.ino = e.parent AND p.ino NOT IN (0, 2) WHERE n.id = ?"""
_BURIED = "SELECT name, parent FROM tombstones WHERE id = ? AND name IS NOT NULL"

_SECOND = 1_000_000_000
_EPOCH = date(1970, 1, 1)


class DeletedEntry(msgspec.Struct, frozen=True, gc=False):
    """An entry in the trash. ``parent`` is the node id of the directory that it was in, b"" if unknown; ``deleted`` is in ns."""

    entry: EntryId
    inode: Inode
    name: bytes
    parent: NodeId
    deleted: int


def _deleted(row: Row) -> DeletedEntry:
    entry, inode, name, origin, deleted = row
    # Later programs may append to the origin.
    parent = msgspec.msgpack.decode(origin)[0] if origin is not None else b""
    return DeletedEntry(entry, inode, name, NodeId(parent), deleted)


def deleted_entries(c: Connection) -> list[DeletedEntry]:
    """Return all entries in the trash, the newest first."""
    return [_deleted(row) for row in c.all(_ALL)]


def deleted_before(c: Connection, time: int, most: int) -> list[DeletedEntry]:
    """Return at most ``most`` entries that were deleted before ``time`` (ns), the oldest first."""
    return [_deleted(row) for row in c.all(_BEFORE, (time, most))]


def deleted_entry(c: Connection, entry: EntryId) -> DeletedEntry | None:
    """Return an entry in the trash by its id."""
    row = c.one(_ONE, (entry,))
    return None if row is None else _deleted(row)


def size_of(c: Connection, inode: Inode) -> int:
    """Return the bytes of a file, or of all files below a directory; each file once."""
    row = c.one(_SIZE, (inode,))
    return int(row[0]) if row else 0


# ---- places --------------------------------------------------------------------------------------------------------


class FormerPlace(msgspec.Struct, frozen=True, gc=False):
    """Where a directory is, or was. ``path`` has the (name, node id) of each directory from the root on.

    ``inode`` is None unless the directory is still there.
    """

    path: tuple[tuple[bytes, NodeId], ...]
    inode: Inode | None


class FormerPlaces:
    """Finds the places of the directories that deleted entries were in; remembers those it has found."""

    def __init__(self, c: Connection) -> None:
        self._c = c
        self._known: dict[NodeId, FormerPlace] = {ROOT: FormerPlace((), Inode(ROOT_INODE))}

    def of(self, directory: NodeId) -> FormerPlace:
        """Return a directory's present place, or that which it had when it, or a directory above, was deleted."""
        steps: list[tuple[NodeId, bytes, Inode | None]] = []
        seen, node = set[NodeId](), directory
        while node not in self._known and node not in seen:
            seen.add(node)
            name, above, inode = self._step(node)
            steps.append((node, name, inode))
            node = above
        # What came before an unknown directory is lost: its part of the path is the root.
        place = self._known.get(node) or FormerPlace((), None)
        for below, name, inode in reversed(steps):
            if name:
                place = FormerPlace((*place.path, (name, below)), inode if place.inode is not None else None)
            self._known[below] = place
        return self._known[directory]

    def _step(self, node: NodeId) -> tuple[bytes, NodeId, Inode | None]:
        """Return a directory's name, the directory above, and its inode if it is not in the trash itself."""
        row = self._c.one(_DIRECTORY, (node,))
        if row is not None:
            name, origin, above, inode = row
            if above is not None:
                return name, above, inode
            if origin is not None:
                return name, NodeId(msgspec.msgpack.decode(origin)[0]), None
        buried = self._c.one(_BURIED, (node,))
        return (b"", NodeId(b""), None) if buried is None else (buried[0], NodeId(buried[1]), None)


# ---- by day --------------------------------------------------------------------------------------------------------


def days(c: Connection) -> list[str]:
    """Return the days (UTC, ``YYYY-MM-DD``) on which entries were deleted that are in the trash, the earliest first."""
    found: list[str] = []
    row = c.one(_NEXT, (-(2**63),))
    # One step of the index for each day, not for each entry.
    while row is not None:
        day = datetime.fromtimestamp(row[0] // _SECOND, UTC).date()
        found.append(day.isoformat())
        row = c.one(_NEXT, (_start(day + timedelta(days=1)),))
    return found


def deleted_on(c: Connection, day: str) -> list[tuple[bytes, DeletedEntry]]:
    """Return (shown name, entry) of each entry deleted on a day, each name once; none if ``day`` is no day."""
    limits = _limits(day)
    return [] if limits is None else list(_unique(_deleted(row) for row in c.all(_BETWEEN, limits)))


def find_deleted(c: Connection, day: str, name: bytes) -> DeletedEntry | None:
    """Return what ``deleted_on`` shows as ``name``."""
    limits = _limits(day)
    if limits is None:
        return None
    # The earliest entry of a name keeps it.
    row = c.one(_NAMED, (name, *limits))
    if row is not None:
        return _deleted(row)
    if not name.endswith(b")"):
        return None
    return next((entry for shown, entry in deleted_on(c, day) if shown == name), None)


def _limits(day: str) -> tuple[int, int] | None:
    """Return the first ns of a day and of the next one."""
    try:
        parsed = date.fromisoformat(day)
    except ValueError:
        return None
    return (_start(parsed), _start(parsed) + 86_400 * _SECOND) if parsed.isoformat() == day else None


def _start(day: date) -> int:
    return (day - _EPOCH).days * 86_400 * _SECOND


def _unique(found: Iterable[DeletedEntry]) -> Iterator[tuple[bytes, DeletedEntry]]:
    """Yield each entry with a name of its own: later entries of one name are shown as ``NAME (2)``, ``NAME (3)``…"""
    entries = list(found)
    names, shown = {entry.name for entry in entries}, set[bytes]()
    numbers: dict[bytes, int] = {}
    for entry in entries:
        name = entry.name
        while name in shown or (name != entry.name and name in names):
            numbers[entry.name] = numbers.get(entry.name, 1) + 1
            name = with_suffix(entry.name, f" ({numbers[entry.name]})".encode())
        shown.add(name)
        yield name, entry


def with_suffix(name: bytes, suffix: bytes) -> bytes:
    """Return ``name`` with ``suffix`` at its end, shortened where the file system allows no longer name."""
    kept = name[: NAME_MAX - len(suffix)]
    # Cut between characters, not inside one.
    return (kept if kept == name else kept.decode(errors="ignore").encode() or kept) + suffix
