"""Compare the trees of two databases by what they mean: ids, names, attributes and contents, not inodes and positions.

Each table becomes a stream of (key, values), sorted by a key that means the same on every machine, and two streams are
merged: so a million files need no more memory than one. Left out is what belongs to one machine alone: junk, access times,
overlays, staged chunks.
"""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from tgdav.db.connection import Connection
from tgdav.ids import NodeId
from tgdav.metadata.types import DIRECTORY

Key = tuple[bytes, ...]
Values = tuple[Any, ...]
Keyed = tuple[Key, Values]


class Difference(msgspec.Struct, frozen=True):
    """A row that differs: ``what`` of ``node`` (None: not of a node). ``live`` or ``rebuilt`` is False where it is missing.

    ``columns`` are those that differ if both have it.
    """

    what: str
    node: NodeId | None
    live: bool
    rebuilt: bool
    columns: tuple[str, ...] = ()


def merged(live: Iterator[Keyed], rebuilt: Iterator[Keyed]) -> Iterator[tuple[Key, Values | None, Values | None]]:
    """Yield (key, live values, rebuilt values) where two streams differ; None where one has no such key. Pure.

    Both must be sorted by key, and have each key once.
    """
    ours, theirs = next(live, None), next(rebuilt, None)
    while ours is not None or theirs is not None:
        if theirs is None or (ours is not None and ours[0] < theirs[0]):
            assert ours is not None, "one of them has a row"
            yield ours[0], ours[1], None
            ours = next(live, None)
        elif ours is None or theirs[0] < ours[0]:
            yield theirs[0], None, theirs[1]
            theirs = next(rebuilt, None)
        else:
            if ours[1] != theirs[1]:
                yield ours[0], ours[1], theirs[1]
            ours, theirs = next(live, None), next(rebuilt, None)


# What was purged (its parent is 0) waits for the sweep, on each machine for a different time. A junk directory raises the link
# count of its parent on this machine only.
_WITH = """WITH RECURSIVE purged(ino) AS (SELECT ino FROM entries WHERE parent = 0
 UNION SELECT e.ino FROM purged JOIN entries e ON e.parent = purged.ino),
gone(ino) AS MATERIALIZED (SELECT ino FROM purged WHERE NOT EXISTS (SELECT 1 FROM entries e
 WHERE e.ino = purged.ino AND e.parent != 0 AND e.parent NOT IN (SELECT ino FROM purged))),
junk(parent, count) AS MATERIALIZED
 (SELECT e.parent, count(*) FROM nodes n JOIN entries e ON e.ino = n.ino WHERE n.local = 1 AND n.kind = 2 GROUP BY e.parent)
"""


class _Stream(msgspec.Struct, frozen=True):
    """A query whose first ``keys`` columns are the key; ``columns`` name the others. ``node``: the column with a node's id."""

    what: str
    keys: int
    columns: tuple[str, ...]
    query: str
    node: int | None = 0
    tolerates: Callable[[Values, Values], Values] = lambda _live, rebuilt: rebuilt
    """Returns the rebuilt values, with those of ``live`` where they may differ."""

    def rows(self, connection: Connection) -> Iterator[Keyed]:
        return ((row[: self.keys], row[self.keys :]) for row in connection.each(_WITH + self.query))

    def differences(self, live: Connection, rebuilt: Connection) -> Iterator[Difference]:
        for key, ours, theirs in merged(self.rows(live), self.rows(rebuilt)):
            columns: tuple[str, ...] = ()
            if ours is not None and theirs is not None:
                theirs = self.tolerates(ours, theirs)
                columns = tuple(
                    name for name, one, other in zip(self.columns, ours, theirs, strict=True) if one != other
                )
                if not columns:
                    continue
            yield Difference(
                self.what, self._node(key, ours or theirs or ()), ours is not None, theirs is not None, columns
            )

    def _node(self, key: Key, values: Values) -> NodeId | None:
        return None if self.node is None else (*key, *values)[self.node]


_NODE = ("kind", "mode", "uid", "gid", "rdev", "size", "mtime", "ctime", "btime", "tag", "content", "writer", "written")
_KIND, _MTIME, _CTIME = (_NODE.index(name) for name in ("kind", "mtime", "ctime"))


def _allow_junk(live: Values, rebuilt: Values) -> Values:
    """Junk in a directory moves the directory's times, on its own machine alone and forwards."""
    if live[_KIND] != DIRECTORY:
        return rebuilt
    allowed = list(rebuilt)
    for column in (_MTIME, _CTIME):
        allowed[column] = max(live[column], rebuilt[column])
    return tuple(allowed)


_STREAMS = (
    _Stream(
        "attributes",
        1,
        (*_NODE, "nlink"),
        """SELECT n.id, n.kind, n.mode, n.uid, n.gid, n.rdev, n.size, n.mtime, n.ctime, n.btime, n.tag,
coalesce(m.data, n.content), n.writer, n.written, n.nlink - coalesce(junk.count, 0)
FROM nodes n LEFT JOIN manifests m ON m.no = n.manifest LEFT JOIN junk ON junk.parent = n.ino
WHERE n.local = 0 AND n.ino NOT IN (SELECT ino FROM gone) ORDER BY n.id""",
        tolerates=_allow_junk,
    ),
    _Stream(
        "name",
        1,
        ("directory", "name", "node", "stamp", "nfc", "origin"),
        """SELECT e.id, p.id, e.name, n.id, e.stamp, e.nfc, e.origin
FROM entries e LEFT JOIN nodes p ON p.ino = e.parent LEFT JOIN nodes n ON n.ino = e.ino
WHERE e.local = 0 AND e.parent != 0 AND e.parent NOT IN (SELECT ino FROM purged) ORDER BY e.id""",
        node=3,
    ),
    _Stream(
        "extended attribute or property",
        2,
        ("value",),
        # CROSS JOIN keeps the order of the tables: the index of node ids gives the order of the rows.
        """SELECT n.id, f.field, f.value FROM nodes n CROSS JOIN fields f ON f.ino = n.ino
WHERE n.local = 0 AND n.ino NOT IN (SELECT ino FROM gone) ORDER BY n.id, f.field""",
    ),
    _Stream(
        "machine",
        1,
        ("name", "public_key", "incarnation", "epoch"),
        "SELECT machine, name, public_key, incarnation, epoch FROM machines ORDER BY machine",
        node=None,
    ),
    _Stream(
        "setting",
        1,
        ("value",),
        "SELECT key, value FROM settings WHERE key = 'namespace' ORDER BY key",
        node=None,
    ),
)


def differences(live: Connection, rebuilt: Connection) -> Iterator[Difference]:
    """Yield everything in which two databases differ."""
    for stream in _STREAMS:
        yield from stream.differences(live, rebuilt)
