"""Compare the trees of two databases by what they mean: ids, names, attributes and contents, not inodes and positions.

Each table becomes a stream of (key, values), sorted by a key that means the same on every machine, and two streams are
merged: so a million files need little more memory than one. Left out is what belongs to one machine alone: junk, access times,
overlays, staged chunks, and states that neither a version nor a snapshot needs, which are swept at different times.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import msgspec

from tgdav.check.history_rows import (
    AUTHOR,
    BESIDE_AUTHOR,
    NODE,
    OF_NODE,
    Keyed,
    Meaning,
    Values,
    reachable,
    states,
    versions,
)
from tgdav.db.connection import Connection
from tgdav.ids import NodeId
from tgdav.metadata import settings
from tgdav.metadata.settings import NAMESPACE, TRASH_POLICY, VERSION_POLICY
from tgdav.metadata.types import DIRECTORY

Key = tuple[Any, ...]


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


Rows = Callable[[Connection, Meaning], Iterator[Keyed]]


class _Stream(msgspec.Struct, frozen=True):
    """``columns`` name the values. ``node``: where in key and values a node's id is."""

    what: str
    columns: tuple[str, ...]
    rows: Rows
    node: int | None = 0
    tolerates: Callable[[Values, Values], Values] = lambda _live, rebuilt: rebuilt
    """Returns the rebuilt values, with those of ``live`` where they may differ."""

    history: str | None = None
    """The table, if the values are states that snapshots show."""

    def differences(self, live: Connection, rebuilt: Connection, left_out: Collection[bytes]) -> Iterator[Difference]:
        meanings = Meaning(live), Meaning(rebuilt)
        for key, ours, theirs in merged(self.rows(live, meanings[0]), self.rows(rebuilt, meanings[1])):
            if key[0] in left_out:
                continue
            if self.history is not None:
                both = ((live, meanings[0], ours), (rebuilt, meanings[1], theirs))
                one, other = (
                    [] if each is None else reachable(c, m, key[0], each, self.history) for c, m, each in both
                )
                if one == other:
                    continue
            columns: tuple[str, ...] = ()
            if ours is not None and theirs is not None:
                theirs = self.tolerates(ours, theirs)
                pairs = zip(self.columns, ours, theirs, strict=True)
                columns = tuple(name for name, one, other in pairs if one != other)
                if not columns:
                    continue
            node = None if self.node is None else (*key, *(ours or theirs or ()))[self.node]
            yield Difference(self.what, node, ours is not None, theirs is not None, columns)


def _query(sql: str, keys: int = 1, author: int | None = None, beside_author: Sequence[int] = ()) -> Rows:
    """Return the rows of a query: its first ``keys`` columns are the key; ``author`` is the column with an author's number."""

    def rows(connection: Connection, meaning: Meaning) -> Iterator[Keyed]:
        for row in connection.each(sql):
            values = row if author is None else meaning.with_author(row, author, beside_author)
            yield values[:keys], values[keys:]

    return rows


_KIND, _MTIME, _CTIME = (NODE.index(name) for name in ("kind", "mtime", "ctime"))


def _allow_junk(live: Values, rebuilt: Values) -> Values:
    """Junk in a directory moves the directory's times, on its own machine alone and forwards."""
    if live[_KIND] != DIRECTORY:
        return rebuilt
    allowed = list(rebuilt)
    for column in (_MTIME, _CTIME):
        allowed[column] = max(live[column], rebuilt[column])
    return tuple(allowed)


# A junk directory raises the link count of its parent on this machine only.
_NODES = f"""WITH junk(parent, count) AS MATERIALIZED
(SELECT e.parent, count(*) FROM nodes n JOIN entries e ON e.ino = n.ino WHERE n.local = 1 AND n.kind = 2 GROUP BY e.parent)
SELECT n.id, {", ".join(OF_NODE)}, n.nlink - coalesce(junk.count, 0)
FROM nodes n LEFT JOIN manifests m ON m.no = n.manifest LEFT JOIN junk ON junk.parent = n.ino
WHERE n.local = 0 ORDER BY n.id"""  # noqa: S608 - constants
_ENTRIES = """SELECT e.id, p.id, e.name, n.id, e.stamp, e.nfc, e.origin, e.deleted, e.by
FROM entries e LEFT JOIN nodes p ON p.ino = e.parent LEFT JOIN nodes n ON n.ino = e.ino WHERE e.local = 0 ORDER BY e.id"""
# CROSS JOIN keeps the order of the tables: the index of node ids gives the order of the rows.
_FIELDS = """SELECT n.id, f.field, f.value FROM nodes n CROSS JOIN fields f ON f.ino = n.ino
WHERE n.local = 0 ORDER BY n.id, f.field"""
_PREDECESSORS = """SELECT r.entry, (SELECT count(*) FROM predecessors o WHERE o.entry = r.entry AND o.position < r.position),
coalesce(n.id, (SELECT p.id FROM nodes_past p WHERE p.ino = r.ino LIMIT 1)), r.id
FROM predecessors r LEFT JOIN nodes n ON n.ino = r.ino ORDER BY r.entry, r.position, r.id"""
_MACHINES = "SELECT machine, name, public_key, incarnation, epoch FROM machines ORDER BY machine"
_PINS = """SELECT id, name, time, settled, (SELECT count(*) FROM pins o WHERE o.position < pins.position), author
FROM pins ORDER BY id"""
_SETTINGS = f"""SELECT key, value FROM settings
WHERE key IN ('{NAMESPACE}', '{TRASH_POLICY}', '{VERSION_POLICY}') ORDER BY key"""  # noqa: S608 - constants

# Purged entries (their parent is 0) whose rows are not swept yet, what is below them, the files that they had replaced, and the
# nodes that have no other entry.
_PURGED = """WITH RECURSIVE purged(id, ino) AS (SELECT id, ino FROM entries WHERE parent = 0
 UNION SELECT e.id, e.ino FROM purged p JOIN entries e ON e.parent = p.ino
 UNION SELECT e.id, e.ino FROM purged p JOIN predecessors r ON r.entry = p.id JOIN entries e ON e.id = r.id AND e.parent = 2)
SELECT id FROM purged UNION ALL SELECT n.id FROM purged p JOIN nodes n ON n.ino = p.ino
WHERE NOT EXISTS (SELECT 1 FROM entries e WHERE e.ino = p.ino AND e.id NOT IN (SELECT id FROM purged))"""

_STREAMS = (
    _Stream("attributes", (*NODE, "nlink"), _query(_NODES, 1, 1 + AUTHOR, BESIDE_AUTHOR), tolerates=_allow_junk),
    _Stream(
        "name",
        ("directory", "name", "node", "stamp", "nfc", "origin", "deleted", "author"),
        _query(_ENTRIES, author=8),
        node=3,
    ),
    _Stream("extended attribute or property", ("value",), _query(_FIELDS, keys=2)),
    _Stream("versions", ("versions",), versions),
    _Stream("earlier files of a name", (), _query(_PREDECESSORS, keys=4), node=2),
    _Stream("in snapshots: attributes", ("states",), lambda c, meaning: states(c, meaning, "nodes"), history="nodes"),
    _Stream(
        "in snapshots: name",
        ("states", "node"),
        lambda c, meaning: states(c, meaning, "entries"),
        node=2,
        history="entries",
    ),
    _Stream(
        "in snapshots: extended attribute or property",
        ("states",),
        lambda c, meaning: states(c, meaning, "fields"),
        history="fields",
    ),
    _Stream("snapshot", ("name", "time", "settled", "order", "author"), _query(_PINS, author=5), node=None),
    _Stream("purged directory", (), _query("SELECT id FROM tombstones ORDER BY id"), node=None),
    _Stream("machine", ("name", "public_key", "incarnation", "epoch"), _query(_MACHINES), node=None),
    _Stream("setting", ("value",), _query(_SETTINGS), node=None),
)


def differences(live: Connection, rebuilt: Connection) -> Iterator[Difference]:
    """Yield everything in which two databases differ."""
    left_out = ids_left_out(live)
    for stream in _STREAMS:
        yield from stream.differences(live, rebuilt, left_out)


def ids_left_out(live: Connection) -> set[bytes]:
    """Return ids of nodes and entries that cannot be compared.

    Some are junk on this machine and deleted on every other one; some were purged, and stay here while they are open.
    """
    return {*settings.get(live, settings.WITHDRAWN, []), *(row[0] for row in live.each(_PURGED))}
