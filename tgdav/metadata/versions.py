"""The versions of a file: its own earlier contents, and those of files that it replaced under its name."""

from collections.abc import Iterator, Sequence

import msgspec

from tgdav.db import Connection
from tgdav.db.connection import Row
from tgdav.ids import EntryId, Inode, Position
from tgdav.metadata import queries
from tgdav.metadata.types import Attributes

_PRESENT = """SELECT n.ino, n.id, n.kind, n.mode, n.uid, n.gid, n.rdev, 1, n.size, n.mtime, n.mtime, n.ctime, n.btime,
 n.tag, 0, 0, n.written, n.version, coalesce(m.data, n.content), NULL FROM nodes n LEFT JOIN manifests m ON m.no = n.manifest
WHERE n.ino = :ino AND n.kind = 1 AND n.local = 0"""
_KEPT = """SELECT n.ino, n.id, n.kind, n.mode, n.uid, n.gid, n.rdev, 1, n.size, n.mtime, n.mtime, n.ctime, n.btime,
 n.tag, 0, 0, n.written, n.version, coalesce(m.data, n.content), n.until
FROM nodes_past n LEFT JOIN manifests m ON m.no = n.manifest
WHERE n.ino = :ino AND n.kept = 1 AND n.kind = 1 ORDER BY n.until"""
_PREDECESSORS = "SELECT position, ino, id FROM predecessors WHERE entry = :entry"


class Version(msgspec.Struct, frozen=True):
    """A content of a file. ``number`` counts from 1, ``time`` is when it was written, in ns, ``manifest`` is encoded.

    ``attributes`` are those of the node that had it.
    """

    number: int
    time: int
    is_current: bool
    attributes: Attributes
    manifest: bytes


def versions_of(c: Connection, ino: Inode) -> list[Version]:
    """Return the versions of a file, the oldest first and its present content last; none if ``ino`` is no file."""
    entries = [entry for entry, *_ in queries.entries_of(c, ino)]
    rows = sorted(_contents(c, ino, entries, None, set()), key=lambda row: (row[19] is None, row[19]))
    found: list[Version] = []
    for row in rows:
        number = max(row[17], found[-1].number + 1 if found else 1)
        is_current = row[19] is None
        found.append(Version(number, row[16], is_current, queries.to_attributes(row), row[18] or b""))
    return found


def _contents(
    c: Connection, ino: Inode, entries: Sequence[EntryId], before: Position | None, seen: set[Inode]
) -> Iterator[Row]:
    """Yield the contents that a node had before a position (None: all), and those of what its entries replaced."""
    if ino in seen:
        return
    seen.add(ino)
    own = [row for row in c.all(_KEPT, {"ino": ino}) if before is None or row[19] < before]
    last = c.one(_PRESENT, {"ino": ino})
    yield from own
    if last is not None:
        yield last if before is None else (*last[:19], before)
    for entry in entries:
        for position, replaced, named in c.all(_PREDECESSORS, {"entry": entry}):
            yield from _contents(c, replaced, [named], position, seen)
