"""The versions of a file: its own earlier contents, and those of the files whose name it took.

``predecessors`` says which files those are: a row (entry, position, ino, id) means that the node ``ino``, named by the entry
``id``, left its name to ``entry`` at ``position``. Versions are the content that ``ino`` had just before, its earlier ones, and
recursively those that ``id`` had taken over before. A content that is kept ends at ``until``; the one that a node had just before
a position is the first that is kept and did not end before it, else the node's present one.
"""

import msgspec

from tgdav.crdt.ops import Dot
from tgdav.db import Connection
from tgdav.db.connection import Row
from tgdav.ids import Incarnation, Inode, Position
from tgdav.metadata import queries
from tgdav.metadata.types import Attributes

_FILES = """WITH RECURSIVE taken(position, ino, id) AS (
 SELECT p.position, p.ino, p.id FROM entries e JOIN predecessors p ON p.entry = e.id WHERE e.ino = :ino
 UNION
 SELECT p.position, p.ino, p.id FROM taken t JOIN predecessors p ON p.entry = t.id AND p.position < t.position),
contents(ino, until, ended) AS (
 SELECT t.ino, (SELECT min(until) FROM nodes_past WHERE ino = t.ino AND kept = 1 AND until >= t.position), t.position
 FROM taken t
 UNION ALL
 SELECT t.ino, n.until, n.until FROM taken t JOIN nodes_past n ON n.ino = t.ino AND n.kept = 1 AND n.until < t.position
 UNION ALL
 SELECT ino, until, until FROM nodes_past WHERE ino = :ino AND kept = 1),
listed(ino, until, ended) AS (
 SELECT :ino, NULL, NULL
 UNION ALL
 SELECT ino, until, max(ended) FROM contents WHERE ino != :ino OR until IS NOT NULL GROUP BY ino, until)
"""
_COLUMNS = """n.kind, n.mode, n.uid, n.gid, n.rdev, 1, n.size, n.mtime, n.mtime, n.ctime, n.btime, n.tag, 0, 0,
 n.written, n.version, l.until, l.ended, a.incarnation, n.seq, m.name"""
_AUTHOR = "LEFT JOIN authors a ON a.no = n.author LEFT JOIN machines m ON m.machine = n.writer"
_CONTENTS = f"""{_FILES}
SELECT n.ino, n.id, {_COLUMNS} FROM listed l JOIN nodes n ON n.ino = l.ino {_AUTHOR}
WHERE l.until IS NULL AND n.kind = 1 AND n.local = 0
UNION ALL
SELECT n.ino, coalesce(n.id, (SELECT id FROM nodes WHERE ino = n.ino)), {_COLUMNS}
FROM listed l JOIN nodes_past n ON n.ino = l.ino AND n.until = l.until {_AUTHOR}"""  # noqa: S608 - constants
_MANIFEST = (
    """SELECT coalesce(m.data, n.content) FROM {table} n LEFT JOIN manifests m ON m.no = n.manifest WHERE n.ino = ?"""
)
_PRESENT_MANIFEST = _MANIFEST.format(table="nodes")
_PAST_MANIFEST = _MANIFEST.format(table="nodes_past") + " AND n.until = ?"
_UNKNOWN = Incarnation(0)


class Version(msgspec.Struct, frozen=True):
    """A content of a file. ``number`` counts from 1, ``time`` (ns) is when ``machine`` wrote it.

    ``attributes`` are those of the node that had it, ``dot`` names it in the log. ``until`` is the position that closed it, None
    while a node has it. The file had it until the position ``ended``; None: it is the present one.
    """

    number: int
    time: int
    machine: str
    attributes: Attributes
    dot: Dot
    until: Position | None
    ended: Position | None

    @property
    def is_current(self) -> bool:
        """Whether it is the file's present content."""
        return self.ended is None


def versions_of(c: Connection, ino: Inode) -> list[Version]:
    """Return the versions of a file, the oldest first and its present content last; none if ``ino`` is no file, or junk."""
    found = [_version(row) for row in c.all(_CONTENTS, {"ino": ino})]
    # An earlier content that is empty was not worth keeping, or was pruned from a file that has no name any more.
    found = [each for each in found if each.is_current or each.attributes.size]
    found.sort(key=lambda each: (each.ended is None, each.number, each.ended or 0))
    if not found or not found[-1].is_current:
        return []
    numbered: list[Version] = []
    for each in found:
        # Two histories that became one may have the same numbers.
        least = numbered[-1].number + 1 if numbered else 1
        numbered.append(each if each.number >= least else msgspec.structs.replace(each, number=least))
    return numbered


def manifest_of(c: Connection, version: Version) -> bytes:
    """Return a version's encoded manifest."""
    ino = version.attributes.inode
    row = c.one(_PRESENT_MANIFEST, (ino,)) if version.until is None else c.one(_PAST_MANIFEST, (ino, version.until))
    return row[0] or b"" if row else b""


def _version(row: Row) -> Version:
    written, number, until, ended, incarnation, sequence, machine = row[16:]
    if sequence and incarnation is not None:
        dot = Dot(Incarnation(int.from_bytes(incarnation, "big")), sequence)
    else:
        dot = Dot(_UNKNOWN, until or 0)
    return Version(number, written, machine or "", queries.to_attributes(row), dot, until, ended)
